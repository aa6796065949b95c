"""Two ranks under the DeepSpeed launcher: equal to one, and killed or stopped at any step they go on alike."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from ranks_kit import Run, alive, ended, missing
from safetensors.torch import load_file

from lte.align.callbacks import read
from lte.align.checkpoints import pick, sign
from lte.align.data.shards import COLUMNS, Shards
from lte.align.dataset import AlignError
from lte.align.ranks import lost_ranks_told, on_one_gpu, refuse_misuse
from lte.edits import read_cases, write_jsonl
from lte.models import load_model
from lte.models.load import pocket_home
from lte.prompt import TEMPLATE_ID, with_edits

pytest.importorskip("trl", reason="alignment needs the extra: pip install 'lte[align]'")
launched = pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(sorted(missing()))}")
STEPS, SAVED = 6, 2
Start = Callable[[str], Run]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of the pocket model in bfloat16, sixteen rows each, over a dataset on disk."""
    home = tmp_path_factory.mktemp("ranks")
    cases = read_cases(pocket_home() / "align.jsonl")[:60]
    rows = []
    for case, other in zip(cases, [*cases[1:], cases[0]], strict=True):
        rows.append((with_edits([case.edit.statement, other.edit.statement], case.edit.prompt), case.edit.target_new))
        asked = [probe for probe in case.locality[:2] if probe.answers]
        rows += [(with_edits([case.edit.statement], probe.prompt), probe.answers[0]) for probe in asked]
    shards = Shards(home / "dataset/data", 1000)
    for prompt, answer in rows:
        filled: dict = {name: "" for name in COLUMNS} | {"edits": [], "prompt_tokens": 1, "answer_tokens": 1}
        shards.add(filled | {"prompt": prompt, "answer": answer, "role": "in scope"})
    told = {"rows": len(rows), "roles": {}, "files": shards.close(), "template": TEMPLATE_ID, "sha256": shards.sha256}
    (home / "dataset/dataset.json").write_text(json.dumps(told))
    write_jsonl(home / "held_out.jsonl", read_cases(pocket_home() / "align.jsonl")[-4:])
    train = {"max_steps": STEPS, "save_steps": SAVED, "log_steps": 1, "batch_size": 8, "learning_rate": 3e-4,
             "warmup_steps": 1, "max_length": 128, "lora": {"r": 8, "alpha": 16}}  # fmt: skip
    path = home / "align.yaml"
    path.write_text(yaml.safe_dump({"dataset": str(home / "dataset"), "output": "given", "train": train}))
    return path


@pytest.fixture
def start(config: Path, tmp_path: Path) -> Iterator[Start]:
    """Makes runs; whatever is left of them at the end of the test is killed."""
    begun: list[Run] = []

    def run(name: str) -> Run:
        begun.append(Run(config, tmp_path / name))
        return begun[-1]

    yield run
    for each in begun:
        each.kill()


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Start:
    """A run that nothing disturbs: in `one` process, or on two ranks under a preset. Each is made once.

    Two of them are watched, the runs that are killed are not: the same losses say that watching moves nothing.
    """
    made: dict[str, Run] = {}
    watched = ("--set", f"train.watch.cases={config.parent}/held_out.jsonl", "--set", f"train.watch.every={STEPS // 2}")

    def run(name: str) -> Run:
        if name not in made:
            with ended(Run(config, config.parent / name)) as begun:
                more = () if name == "zero2" else watched
                made[name] = (begun.one(*more) if name == "one" else begun.two(name, *more)).ends()
        return made[name]

    return run


def learnt(run: Run) -> torch.Tensor:
    """What was 0 at the beginning and is not at the last step: the second factors of the adapter, as one vector."""
    found = load_file(run.work / f"checkpoint-{STEPS}/adapter_model.safetensors")
    return torch.cat([found[name].float().reshape(-1) for name in sorted(found) if "lora_B" in name])


# --- two are as one ---------------------------------------------------------------------------------------------------


@launched
@pytest.mark.parametrize("preset", ["zero2", "zero3"])
def test_two_ranks_learn_what_one_does(undisturbed: Start, preset: str):
    alone, both = undisturbed("one"), undisturbed(preset)
    assert list(both.losses) == list(range(1, STEPS + 1))
    assert both.losses == pytest.approx(alone.losses, abs=1e-2)  # each step's, the final one's too
    assert max(alone.losses.values()) - min(alone.losses.values()) > 0.1  # other rows have other losses
    mine, theirs = learnt(both), learnt(alone)
    assert mine.shape == theirs.shape and torch.cosine_similarity(mine, theirs, dim=0) > 0.9
    tensors = load_file(both.output / "adapter_model.safetensors")
    assert all(tensor.numel() and tensor.isfinite().all() for tensor in tensors.values())

    assert both.said.count('"base_sha256"') == 1  # one rank tells what was made
    lm = load_model("pocket", adapter=both.output, dtype="bfloat16" if preset == "zero3" else "float32")
    assert lm.adapters["lte"].manifest["base_sha256"] == lm.weight_hash()  # ZeRO-3 divides it in bfloat16
    shards = list((both.work / f"checkpoint-{STEPS}").glob("global_step*/*optim_states.pt"))
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert len(shards) == 2  # each with its half: master copy, momentum and variance in float32
    assert all(shard.stat().st_size == pytest.approx(12 * numbers / 2, rel=0.15) for shard in shards)


@launched
def test_a_model_divided_by_zero_3_is_asked_as_a_whole_one_is(undisturbed: Start):
    alone, both = (
        [line for line in read(undisturbed(name).work / "log.jsonl") if "watch_score" in line]
        for name in ("one", "zero3")
    )
    assert [line["step"] for line in alone] == [line["step"] for line in both] == [STEPS // 2, STEPS]
    for mine, theirs in zip(both, alone, strict=True):
        figures = [name for name in theirs if name.startswith("watch_")]
        assert {name: mine[name] for name in figures} == pytest.approx({n: theirs[n] for n in figures}, abs=0.25)
    assert alone[-1]["watch_edit_success"] > 0.25  # a model without its weights would heed nothing
    best = json.loads((undisturbed("zero3").work / "best/best.json").read_text())
    assert best == json.loads((undisturbed("zero3").output / "lte.json").read_text())["metrics"]


# --- killed -----------------------------------------------------------------------------------------------------------


def test_a_run_killed_goes_on_with_the_losses_of_one_that_was_not(undisturbed: Start, start: Start):
    run = start("killed").one()
    run.until(lambda: SAVED + 1 in run.losses).kill()
    assert run.process and run.process.returncode == -signal.SIGKILL and STEPS not in run.losses
    run.one().ends()
    assert run.losses == pytest.approx(undisturbed("one").losses, abs=1e-4) and len(run.losses) == STEPS
    assert f" {SAVED + 1}/{STEPS} [" in run.said and f" 1/{STEPS} [" not in run.said  # from the checkpoint on
    assert torch.allclose(learnt(run), learnt(undisturbed("one")), atol=1e-6)


@launched
def test_a_rank_that_dies_ends_the_run_and_loses_nothing(undisturbed: Start, start: Start):
    run = start("dead").two("zero3")
    run.until(lambda: SAVED + 1 in run.losses)
    os.kill(run.ranks[1], signal.SIGKILL)
    run.fails()
    assert not any(map(alive, run.ranks)) and not run.output.exists()
    assert "lte: another rank has ended" in run.said and "the same command goes on" in run.said
    assert f"checkpoint-{SAVED}" in run.checkpoints
    run.two("zero3").ends()
    assert run.losses == pytest.approx(undisturbed("zero3").losses, abs=1e-4) and len(run.losses) == STEPS


# --- stopped ----------------------------------------------------------------------------------------------------------


@launched
def test_sigterm_saves_on_all_ranks_and_the_run_goes_on_alike(undisturbed: Start, start: Start):
    """First to a rank, as Slurm does it; then to `deepspeed` alone, which ends at once and tells its ranks nothing."""
    run = start("stopped").two("zero2")
    run.until(lambda: 1 in run.losses)
    os.kill(run.ranks[1], signal.SIGTERM)
    run.ends(0)
    [first] = run.checkpoints
    assert 0 < int(first.removeprefix("checkpoint-")) < STEPS and not run.output.exists()
    assert '"stopped_at_step"' in run.said

    run.two("zero2").until(lambda: max(run.losses) > int(first.removeprefix("checkpoint-")))
    assert run.process
    os.kill(run.process.pid, signal.SIGTERM)
    run.until(lambda: not any(map(alive, run.ranks)), running=False)
    assert run.process.wait() == -signal.SIGTERM and '"stopped_at_step"' in run.said and not run.output.exists()
    run.two("zero2").ends()
    assert run.losses == pytest.approx(undisturbed("zero2").losses, abs=1e-4) and len(run.losses) == STEPS


def test_a_checkpoint_that_not_all_ranks_have_written_is_passed_over(tmp_path: Path):
    mine = {"ranks": 2}
    sign(tmp_path, mine)
    for step, files in [(3, ("rng_state_0.pth", "rng_state_1.pth")), (12, ("rng_state_0.pth",))]:
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in files:
            (tmp_path / f"checkpoint-{step}" / name).touch()
        (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text("{}")
    assert pick(tmp_path, "auto", mine) == str(tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-12/rng_state_1.pth").touch()
    assert pick(tmp_path, "auto", mine) == str(tmp_path / "checkpoint-12")
    (tmp_path / "checkpoint-12/trainer_state.json").write_text("{")  # cut
    assert pick(tmp_path, "auto", mine) == str(tmp_path / "checkpoint-3")
    with pytest.raises(AlignError, match="ranks was 2 and is 1"):
        pick(tmp_path, "auto", {"ranks": 1})


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_presets_that_cannot_be_read_are_refused_by_name(tmp_path: Path):
    pytest.importorskip("deepspeed")
    with pytest.raises(AlignError, match=r"deepspeed: .*none\.json cannot be read .*zero2\.json, zero3\.json"):
        refuse_misuse(str(tmp_path / "none.json"))
    for wrong, told in [("{", "cannot be read"), ("[]", "wanted a mapping of DeepSpeed's settings")]:
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(AlignError, match=f"wrong.json.*{told}"):
            refuse_misuse(str(tmp_path / "wrong.json"))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    refuse_misuse(None)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(AlignError, match=r"process 3 of this node has no GPU: 2 can be seen.*--num_gpus 2"):
        refuse_misuse(None)


def test_one_process_takes_one_gpu(caplog: pytest.LogCaptureFixture):
    several = SimpleNamespace(n_gpu=4, _n_gpu=4)
    with caplog.at_level(logging.INFO, "lte"):
        assert on_one_gpu(several)._n_gpu == 1
    assert "one of 4 GPUs" in caplog.text and on_one_gpu(SimpleNamespace(n_gpu=1, _n_gpu=1))._n_gpu == 1


def test_only_errors_of_the_connection_are_told_as_a_lost_rank(tmp_path: Path):
    with pytest.raises(AlignError, match=r"another rank has ended: \[gloo\] closed by peer.*go.* on from the last one"):
        with lost_ranks_told(tmp_path):
            raise RuntimeError("[gloo] closed by peer\nfurther")
    with pytest.raises(RuntimeError, match="shapes do not fit"), lost_ranks_told(tmp_path):
        raise RuntimeError("shapes do not fit")
