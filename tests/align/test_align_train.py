"""Real training with TRL on a random Llama: loss on the answer alone, adapters that load, resumption, the launchers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from lte.align import train as training
from lte.align.dataset import AlignError, Row
from lte.align.trainer import accelerated, trainer_of
from lte.config import ConfigError, parse
from lte.edits import Case, Edit, Probe, write_jsonl
from lte.models import LM, load_model
from lte.prompt import TEMPLATE_ID

pytest.importorskip("trl", reason="alignment needs the extra: pip install 'lte[align]'")
ROOT = Path(__file__).parents[2]


def case(i: int) -> Case:
    subject = ("Danielle", "Toko", "Edwin", "Paris")[i % 4] + str(i)
    return Case(
        id=str(i),
        edit=Edit(f"The mother tongue of {subject} is", ("French", "London", "Rome")[i % 3], subject, "Danish"),
        locality=(Probe(f"Where was {subject} born?", ("Paris",), "same_subject"),),
        tags={"relation": "P103"},
    )


@pytest.fixture
def config(tiny_lm: LM, tmp_path: Path) -> Path:
    """A config file over a tiny saved model and a few cases."""
    tiny_lm.model.save_pretrained(tmp_path / "model")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "cases.jsonl", [case(i) for i in range(12)])
    write_jsonl(tmp_path / "held_out.jsonl", [case(i) for i in range(12, 16)])
    settings = {
        "model": str(tmp_path / "model"),
        "cases": str(tmp_path / "cases.jsonl"),
        "held_out": [str(tmp_path / "held_out.jsonl")],
        # a random model seldom comes to the end of an answer of its own
        "data": {"targets": {"out_of_scope": "gold"}, "cache": str(tmp_path / "answers"), "max_new_tokens": 2},
        "output": str(tmp_path / "adapter"),
        "work": str(tmp_path / "work"),
        "train": {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01, "warmup_steps": 1, "save_steps": 2,
                  "bf16": False, "lora": {"r": 4}},
    }  # fmt: skip
    path = tmp_path / "align.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_an_adapter_comes_out_that_loads_and_says_what_it_is(config: Path, tmp_path: Path):
    manifest = training.main(config)
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "lte.json", "README.md"}
    lm = load_model(tmp_path / "model", adapter=tmp_path / "adapter")
    assert lm.adapters["lte"].manifest == json.loads(json.dumps(manifest))
    assert manifest["template"] == TEMPLATE_ID and manifest["seed"] == 0
    assert manifest["base_sha256"] == lm.weight_hash()
    assert manifest["data"]["rows"] > 12 and len(manifest["data"]["sha256"]) == 64
    question = ["The mother tongue of Danielle0 is"]
    with lm.using("lte"):
        on = lm.score(question, ["French"])
    assert on != lm.score(question, ["French"])


def test_full_fine_tuning_is_one_setting_away(config: Path, tmp_path: Path):
    training.main(config, ["train.method=full"])
    tuned, base = load_model(tmp_path / "adapter"), load_model(tmp_path / "model")
    assert tuned.weight_hash() != base.weight_hash()


def test_a_run_goes_on_from_its_last_whole_checkpoint(config: Path, tmp_path: Path):
    training.main(config)
    (tmp_path / "work" / "checkpoint-99").mkdir()  # what a kill in the middle of saving leaves
    training.main(config, ["train.max_steps=6"])
    steps = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == 6
    state = json.loads((tmp_path / "work" / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    with pytest.raises(AlignError, match="no such checkpoint"):
        training.main(config, resume=str(tmp_path / "nowhere"))


def test_the_preview_shows_the_mask_and_trains_nothing(config: Path, tmp_path: Path):
    made = training.main(config, preview=5)
    assert len(made["samples"]) == 5 and not (tmp_path / "adapter").exists()
    assert all(s.count("⟦") == 1 and s.endswith("<|eot_id|>⟧") for s in made["samples"])


def test_loss_stands_on_the_answer_and_its_end_alone(tiny_lm: LM, config: Path, tmp_path: Path, monkeypatch):
    """What the preview brackets is what the trainer learns: token by token, on every row of a batch."""
    seen: list[tuple[list[int], list[int]]] = []

    def spy(*arguments: object) -> None:
        for batch in trainer_of(*arguments).get_train_dataloader():
            seen.extend(zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True))
        raise AlignError("seen enough")

    monkeypatch.setattr(training, "trainer_of", spy)
    with pytest.raises(AlignError, match="seen enough"):
        training.main(config)
    samples = training.main(config, preview=1000)["samples"]
    wanted = {s.partition("⟦")[2].removesuffix("⟧") for s in samples}
    texts = {s.partition("\n")[2].partition("⟦")[0] for s in samples}
    assert len(seen) == len(samples)
    tokens, decode, pad = tiny_lm.tokenizer, tiny_lm.tokenizer.decode, tiny_lm.tokenizer.pad_token_id
    for ids, labels in seen:
        learned = [label for label in labels if label != -100]
        masked = [i for i, label in zip(ids, labels, strict=True) if label == -100 and i != pad]
        assert decode(learned).strip() in {w.strip() for w in wanted}
        assert decode(masked) in {decode(tokens(t, add_special_tokens=False).input_ids) for t in texts}
        assert ids.count(tokens.bos_token_id) == 1


def test_bad_input_is_refused_by_name(config: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"learnin_rate: no such setting.*Did you mean 'learning_rate'"):
        training.main(config, ["train.learnin_rate=1"])
    with pytest.raises(AlignError, match=r"nothing.jsonl: no such file"):
        training.main(config, [f"cases={tmp_path / 'nothing.jsonl'}"])
    with pytest.raises(AlignError, match="12 records, 0 unusable, 12 removed as leaks: nothing is left of it"):
        training.main(config, [f"held_out=[{tmp_path / 'cases.jsonl'}]"])
    with pytest.raises(AlignError, match=r"none of \d+ rows could be written.*'too_long': \d\d"):
        training.main(config, ["train.max_length=8"])
    with pytest.raises(ConfigError, match="wanted something to train on: sources under data, or cases"):
        training.main(config, ["cases=''"])
    with pytest.raises(AlignError, match=r"rates\.one_hop: no source has an item for it"):
        training.main(config, ["data.rates.one_hop=1"])


def test_the_dataset_is_built_once_and_anew_when_its_cases_change(config: Path, tmp_path: Path, caplog):
    def folders() -> set[str]:
        return {path.name for path in (tmp_path / "work").glob("data-*")}

    with caplog.at_level(logging.INFO, "lte"):
        first = training.main(config, dry_run=True)
        assert (
            "no source has an item for paraphrase, alias, one_hop, unrelated, near_miss, general, general_edited"
            in caplog.text
        )
        [folder] = folders()
        written = (tmp_path / "work" / folder / "dataset.json").stat().st_mtime_ns
        assert training.main(config, dry_run=True) == first
        assert (tmp_path / "work" / folder / "dataset.json").stat().st_mtime_ns == written
    write_jsonl(tmp_path / "cases.jsonl", [case(i) for i in range(11)])
    assert training.main(config, dry_run=True)["sha256"] != first["sha256"]
    assert len(folders()) == 2


def test_the_other_ranks_wait_for_the_first_to_build_it(config: Path, tmp_path: Path):
    """Each rank is its own process: the second has no model to ask and only reads."""
    script = "import sys; from lte.align.train import main; print(main(sys.argv[1], dry_run=True)['sha256'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "1"}
    second = subprocess.Popen([sys.executable, "-c", script, str(config)], env=environment, stdout=subprocess.PIPE)
    try:
        first = training.main(config, dry_run=True)
        told, _ = second.communicate(timeout=120)
    finally:
        second.kill()
    assert told.decode().strip() == first["sha256"]


def test_a_recipe_may_stand_on_the_file_of_a_dataset(config: Path, tmp_path: Path):
    settings = yaml.safe_load(config.read_text())
    data = {"model": "other", "seed": 5, "rates": {"rewrite": 0}, "near": 0.25}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    settings["data"] = {"from": str(tmp_path / "data.yaml"), "near": 0.75}
    recipe = parse(training.AlignConfig, settings, "test").recipe()
    assert (recipe.model, recipe.seed, recipe.rates.rewrite, recipe.near) == (settings["model"], 0, 0, 0.75)
    assert recipe.sources["cases"].path == settings["cases"] and list(recipe.held_out) == settings["held_out"]


def test_optional_packages_are_asked_for_by_name(config: Path):
    if find_spec("bitsandbytes") is None:
        with pytest.raises(AlignError, match=r"train\.method=qlora needs the package bitsandbytes; pip install"):
            training.main(config, ["train.method=qlora"])


def test_a_model_without_a_chat_template_is_refused(tiny_lm: LM, config: Path):
    tiny_lm.tokenizer = type(tiny_lm.tokenizer)(tokenizer_object=tiny_lm.tokenizer.backend_tokenizer)
    tiny_lm.chat = False
    settings = training.load(training.AlignConfig, config)
    with pytest.raises(AlignError, match="no chat template"):
        training.train(tiny_lm, [Row("a", "b", "in scope")], settings, "none", {})


@pytest.mark.parametrize("interpreter", [["bash"], [sys.executable, "-u"]], ids=["shell", "as DeepSpeed runs it"])
def test_the_launch_file_is_read_by_a_shell_and_by_the_launcher(interpreter: list[str], config: Path):
    extra = [] if interpreter == ["bash"] else ["--local_rank=0"]
    done = subprocess.run(
        [*interpreter, "launch/align.sh", *extra, str(config), "--dry-run"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["roles"]["rewrite"] == 12


def test_no_gpu_is_assumed():
    assert accelerated() == torch.cuda.is_available()
