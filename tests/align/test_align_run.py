"""A run from its rows to its end: lengths, batches, stops and resumptions, what is watched, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lte.align import train as training
from lte.align.callbacks import Journal, read
from lte.align.data.shards import COLUMNS, Shards
from lte.align.dataset import AlignError, Row
from lte.align.rows import checked, tokenised
from lte.align.settings import TrainSettings
from lte.align.trainer import arguments_of, trainer_of
from lte.align.watch import Watch
from lte.config import ConfigError, parse
from lte.edits import Case, Edit, Probe, write_jsonl
from lte.models import load_model
from lte.prompt import TEMPLATE_ID

pytest.importorskip("trl", reason="alignment needs the extra: pip install 'lte[align]'")
NAMES = ("French", "London", "Rome", "guitar")
ROWS = [
    Row(f"{'Where was Edwin born? ' * (1 + i % 3)}{NAMES[i % 4]}", " and ".join(NAMES[: 1 + i % 3]), "in scope")
    for i in range(16)
]
TINY = {"batch_size": 4, "learning_rate": 0.01, "warmup_steps": 1, "save_steps": 2, "log_steps": 1, "bf16": False,
        "max_steps": 6, "lora": {"r": 4, "dropout": 0.1}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    from tiny_models import tiny_model

    home = tmp_path_factory.mktemp("base")
    tiny_model("llama", tokenizer).save_pretrained(home)
    tokenizer.save_pretrained(home)
    return home


def run(folder: Path, output: Path, resume: str = "auto", rows: Sequence[Row] = ROWS, **train: object) -> dict:
    config = {"model": str(folder), "cases": "-", "output": str(output), "train": {**TINY, **train}}
    settings = parse(training.AlignConfig, config, "test")
    return training.train(load_model(folder), list(rows), settings, resume, {"sha256": "0", "rows": len(rows)})


def losses(output: Path) -> dict[int, float]:
    """The loss of each step, as the local log has it."""
    return {line["step"]: line["loss"] for line in read(Path(f"{output}.work") / "log.jsonl") if "loss" in line}


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    output = tmp_path_factory.mktemp("whole") / "adapter"
    run(folder, output)
    return output


# --- rows -----------------------------------------------------------------------------------------------------------


def test_tokens_and_labels_are_those_that_trl_makes(folder: Path, tmp_path: Path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    lm = load_model(folder)
    made, report = tokenised(lm.tokenizer, ROWS, TrainSettings())
    turns = [
        {"prompt": [{"role": "user", "content": r.prompt}], "completion": [{"role": "assistant", "content": r.answer}]}
        for r in ROWS
    ]
    arguments = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, completion_only_loss=True, max_length=None
    )
    trainer = SFTTrainer(lm.model, arguments, train_dataset=Dataset.from_list(turns), processing_class=lm.tokenizer)
    assert made == [{k: row[k] for k in ("input_ids", "labels")} for row in trainer.train_dataset]
    assert report["kept"] == report["rows"] == 16 and report["dropped"] == report["cut"] == 0
    assert report["tokens"] == sum(len(row["input_ids"]) for row in made)


def test_rows_that_are_too_long_are_counted_and_go_by_the_rule(folder: Path):
    tokenizer = load_model(folder).tokenizer
    whole, _ = tokenised(tokenizer, ROWS, TrainSettings())
    sizes = sorted(len(row["input_ids"]) for row in whole)
    limit = sizes[9]
    long = sum(size > limit for size in sizes)
    assert 0 < long < 16
    made, report = tokenised(tokenizer, ROWS, TrainSettings(max_length=limit, too_long="drop"))
    assert (report["dropped"], report["cut"], len(made)) == (long, 0, 16 - long)
    assert made == [row for row in whole if len(row["input_ids"]) <= limit]
    made, report = tokenised(tokenizer, ROWS, TrainSettings(max_length=limit, too_long="cut"))
    assert report["cut"] + report["dropped"] == long and report["cut"] > 0
    assert max(len(row["input_ids"]) for row in made) == limit
    assert all(any(label != -100 for label in row["labels"]) for row in made)
    with pytest.raises(AlignError, match=f"{long} of 16 rows are longer than max_length={limit} tokens.*{sizes[-1]}"):
        tokenised(tokenizer, ROWS, TrainSettings(max_length=limit, too_long="refuse"))


def test_a_batch_without_a_token_to_learn_stops_the_run():
    def collate(rows: list) -> dict:
        return {"labels": torch.tensor(rows)}

    assert checked(collate)([[-100, 5]])["labels"].tolist() == [[-100, 5]]
    with pytest.raises(AlignError, match="no token of a batch of 2 rows carries loss"):
        checked(collate)([[-100, -100], [-100, -100]])


def test_the_trainer_refuses_such_a_batch(folder: Path, tmp_path: Path):
    rows = [{"input_ids": [1, 2, 3], "labels": [-100] * 3}] * 8
    t = TrainSettings(**TINY)
    trainer = trainer_of(load_model(folder), rows, t, arguments_of(t, tmp_path, 0, None))
    with pytest.raises(AlignError, match="carries loss"):
        trainer.train()


@pytest.mark.parametrize("batching", ["padding-free", "packed"])
def test_batches_without_padding_have_the_loss_of_padded_ones(folder: Path, tmp_path: Path, batching: str):
    """All rows in one step, before anything has moved: each row sees itself alone, however it is laid out."""
    one = {"max_steps": 1, "batch_size": 16, "max_length": 256, "lora": {"r": 4}}
    run(folder, tmp_path / "padded", **one)
    run(folder, tmp_path / batching, batching=batching, **one)
    want, [got] = losses(tmp_path / "padded")[1], losses(tmp_path / batching).values()
    assert got == pytest.approx(want, abs=1e-4)
    both = run(folder, tmp_path / "other", rows=[Row(r.prompt, "in Paris", r.role) for r in ROWS], **one)
    assert both and abs(losses(tmp_path / "other")[1] - want) > 1e-3  # it is not any loss


# --- a dataset on disk ------------------------------------------------------------------------------------------------


def test_a_dataset_is_trained_on_as_it_was_written(folder: Path, tmp_path: Path):
    home = tmp_path / "dataset"
    shards = Shards(home / "data", 10)
    for row in ROWS:
        filled: dict = {name: "" for name in COLUMNS} | {"edits": [], "prompt_tokens": 1, "answer_tokens": 1}
        shards.add(filled | {"prompt": row.prompt, "answer": row.answer, "role": row.role})
    told = {"rows": 16, "roles": {"in scope": 16}, "files": shards.close(), "template": TEMPLATE_ID}
    (home / "dataset.json").write_text(json.dumps({**told, "sha256": shards.sha256}))
    settings = {"model": str(folder), "dataset": str(home), "output": str(tmp_path / "adapter")}
    config = tmp_path / "align.yaml"
    config.write_text(json.dumps({**settings, "train": {**TINY, "max_steps": 1}}))
    manifest = training.main(config)
    assert manifest["data"]["sha256"] == shards.sha256 and manifest["lengths"]["kept"] == 16
    assert training.main(config, ["limit=5"], dry_run=True)["lengths"]["rows"] == 5

    with pytest.raises(ConfigError, match="wanted something to train on"):
        training.main(config, ["cases=x.jsonl"])
    asked = Case("1", Edit("Where was Edwin", "Paris"))
    write_jsonl(tmp_path / "evaluated.jsonl", [asked])
    with pytest.raises(AlignError, match=r"a row holds 'where was edwin', which .*evaluated.jsonl asks"):
        training.main(config, [f"held_out=[{tmp_path / 'evaluated.jsonl'}]"])
    (home / "dataset.json").write_text(json.dumps({**told, "sha256": shards.sha256, "template": "lte-0"}))
    with pytest.raises(AlignError, match="written in the prompt template 'lte-0', this version has"):
        training.main(config)


def test_a_dry_run_tells_lengths_steps_and_memory(folder: Path, tmp_path: Path):
    write_jsonl(tmp_path / "cases.jsonl", held_out(12))
    config = tmp_path / "align.yaml"
    settings = {"model": str(folder), "cases": str(tmp_path / "cases.jsonl"), "output": str(tmp_path / "adapter"),
                "data": {"cache": str(tmp_path / "answers")}}  # fmt: skip
    preset = str(Path(__file__).parents[2] / "configs/deepspeed/zero3.json")
    config.write_text(json.dumps({**settings, "deepspeed": preset, "train": {"epochs": 2, "batch_size": 4}}))
    told = training.main(config, dry_run=True)
    assert told["lengths"]["rows"] == told["rows"] > 12
    assert told["plan"]["steps"] == 2 * -(-told["rows"] // 4)
    # the last batch of an epoch counts as full
    assert told["plan"]["tokens"] == pytest.approx(2 * told["lengths"]["tokens"], rel=0.2)
    assert {"one process", "zero3 on 1", "zero3 on 16"} <= set(told["gigabytes_a_gpu"])
    [made] = tmp_path.glob("adapter*")  # nothing but the dataset, which the run will find
    assert [path.name[:5] for path in made.iterdir()] == ["data-"]


# --- stopping and going on --------------------------------------------------------------------------------------------


class Fall(RuntimeError):
    """A run that dies in the middle of a step."""


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, kill: bool) -> None:
    """SIGTERM during a step, or an end without any warning."""

    class Falling(Journal):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            if state.global_step == step - 1:
                if kill:
                    raise Fall
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "Journal", Falling)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    before = signal.getsignal(signal.SIGTERM)
    yield monkeypatch
    assert signal.getsignal(signal.SIGTERM) is before  # what SIGTERM meant before, it means again


def test_sigterm_saves_and_the_next_run_goes_on_as_if_nothing_were(folder, whole, tmp_path, quiet):
    output = tmp_path / "adapter"
    with quiet.context() as patch:
        interrupt(patch, 3, kill=False)
        told = run(folder, output)
    assert told["stopped_at_step"] == 3 and told["of"] == 6 and not output.exists()
    assert (tmp_path / "adapter.work/checkpoint-3/trainer_state.json").exists()
    run(folder, output)
    assert losses(output) == pytest.approx(losses(whole), abs=1e-4) and len(losses(output)) == 6
    mine, theirs = (load_file(p / "adapter_model.safetensors") for p in (output, whole))
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in theirs)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_run_that_was_killed_has_the_losses_of_one_that_was_not(folder, whole, tmp_path, quiet, step):
    output = tmp_path / "adapter"
    with quiet.context() as patch:
        interrupt(patch, step, kill=True)
        with pytest.raises(Fall):
            run(folder, output)
    log = tmp_path / "adapter.work/log.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "lo')  # cut in the middle of a line
    run(folder, output)
    assert losses(output) == pytest.approx(losses(whole), abs=1e-4) and len(losses(output)) == 6
    steps = [line["step"] for line in read(log)]
    assert steps == sorted(steps)


def test_a_checkpoint_of_other_settings_is_refused(folder: Path, whole: Path, tmp_path: Path):
    shutil.copytree(f"{whole}.work", tmp_path / "adapter.work")
    with pytest.raises(AlignError, match=r"another run: train\.learning_rate was 0\.01 and is 0\.02.*--resume none"):
        run(folder, tmp_path / "adapter", learning_rate=0.02, max_steps=8)
    with pytest.raises(AlignError, match=r"another run: train\.lora was"):
        run(folder, tmp_path / "adapter", str(tmp_path / "adapter.work/checkpoint-6"), lora={"r": 8})
    run(folder, tmp_path / "adapter", max_steps=7, save_steps=3)  # how long and how often is free
    assert list(losses(tmp_path / "adapter")) == [1, 2, 3, 4, 5, 6, 7]


def test_a_full_disk_is_told_before_the_first_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(AlignError, match=r"0\.0 GB are free, 3 checkpoints take"):
        run(folder, tmp_path / "adapter")
    assert not (tmp_path / "adapter.work/log.jsonl").exists()


# --- what is watched --------------------------------------------------------------------------------------------------


class Scripted:
    """A model that answers by a table; `heeds` is what training has made of it."""

    def __init__(self) -> None:
        self.model, self.heeds, self.fires, self.moves = torch.nn.Linear(1, 1), False, False, False

    def answer(self, queries: Sequence[str], max_new_tokens: int) -> list[str]:
        assert not self.model.training
        return [self.one(q) for q in queries]

    def one(self, query: str) -> str:
        edited = query.startswith("[Updated Information]")
        asked = query.rpartition("[Question] ")[2]
        if edited and "tongue" in asked:
            return "It is FRENCH." if self.heeds else "English"
        if edited:
            return "French" if self.fires else "own"
        return "other" if self.moves and "born" in asked else "own"


def held_out(n: int = 4) -> list[Case]:
    return [
        Case(
            str(i),
            Edit(f"The mother tongue of P{i} is", "French", f"P{i}"),
            generalization=(Probe(f"Which is the tongue of P{i}?"),),
            locality=(Probe(f"Where was P{i} born?"),),
        )
        for i in range(n)
    ]


def test_success_false_fire_and_drift_are_told_apart():
    lm = Scripted()
    lm.model.train()
    watch = Watch(lm, held_out())
    assert watch.measure() == {"edit_success": 0, "scope_false_positive": 0, "drift": 0, "score": 0}
    lm.heeds = True
    assert watch.measure() == {"edit_success": 1, "scope_false_positive": 0, "drift": 0, "score": 1}
    lm.fires = True
    assert watch.measure()["scope_false_positive"] == 1 and watch.measure()["score"] == 0
    lm.fires, lm.moves = False, True
    found = watch.measure()
    assert found["drift"] == 0.5 and found["score"] == pytest.approx(3 / (1 + 1 + 2))
    assert lm.model.training  # left as it was
    with pytest.raises(AlignError, match="needs cases with locality probes"):
        Watch(lm, [Case("1", Edit("a b", "c"))])


def test_a_model_that_names_the_target_anyway_does_not_fire():
    lm = Scripted()
    lm.one = lambda query: "French"  # asked about anything, edited or not
    assert Watch(lm, held_out()).measure()["scope_false_positive"] == 0


def test_the_best_weights_come_out_and_measuring_moves_nothing(folder, whole, tmp_path, monkeypatch):
    """Scores by script: the middle one of three is the best, and the losses are those of a run without a watch."""
    write_jsonl(tmp_path / "held.jsonl", held_out())
    real, scores = Watch.measure, iter([0.1, 0.9, 0.5])
    monkeypatch.setattr(Watch, "measure", lambda self: {**real(self), "score": next(scores)})
    watch = {"cases": str(tmp_path / "held.jsonl"), "every": 2}
    manifest = run(folder, tmp_path / "best", watch=watch)
    assert losses(tmp_path / "best") == losses(whole)
    assert (manifest["metrics"]["step"], manifest["metrics"]["score"]) == (4, 0.9)
    lines = [line for line in read(tmp_path / "best.work/log.jsonl") if "watch_score" in line]
    assert [(line["step"], line["watch_score"]) for line in lines] == [(2, 0.1), (4, 0.9), (6, 0.5)]
    came = load_file(tmp_path / "best/adapter_model.safetensors")
    [kept, last] = (
        load_file(tmp_path / f"best.work/{name}/adapter_model.safetensors") for name in ("checkpoint-4", "checkpoint-6")
    )
    assert all(torch.equal(came[name], kept[name]) for name in kept)
    assert any(not torch.equal(came[name], last[name]) for name in last)
    files = {path.name for path in (tmp_path / "best").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "lte.json", "README.md"}


# --- what comes out, and what is refused ------------------------------------------------------------------------------


def test_the_card_says_what_it_is(folder: Path, whole: Path):
    card, manifest = (whole / "README.md").read_text(), json.loads((whole / "lte.json").read_text())
    assert card.startswith(f"---\nbase_model: {folder}\nlibrary_name: peft\n")
    assert f"template `{manifest['template']}`" in card and "[Updated Information]" in card
    assert "| kept | 16 |" in card and "| learning_rate | 0.01 |" in card
    assert f"| torch | {manifest['versions']['torch']} |" in card


def test_settings_that_cannot_be_had_are_refused_by_name(folder: Path, tmp_path: Path):
    if find_spec("liger_kernel") is None:
        with pytest.raises(AlignError, match=r"train\.liger needs the package liger-kernel; pip install liger-kernel"):
            run(folder, tmp_path / "a", liger=True)
    if find_spec("wandb") is None:
        with pytest.raises(AlignError, match=r"train\.trackers: wandb needs the package wandb"):
            run(folder, tmp_path / "a", trackers=["wandb"])
    with pytest.raises(AlignError, match=r"train\.attention=nonsense: "):
        run(folder, tmp_path / "a", attention="nonsense")
    with pytest.raises(ConfigError, match="pad_to=8 fills up padded rows; batching=packed has none"):
        run(folder, tmp_path / "a", batching="packed", pad_to=8)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_a_tracker_is_fed_beside_the_local_log(folder: Path, tmp_path: Path):
    run(folder, tmp_path / "a", trackers=["tensorboard"], max_steps=1)
    assert list((tmp_path / "a.work").rglob("events.out.tfevents*")) and losses(tmp_path / "a")
