"""The ready configs and launch files: strict, named by their own command, and taken by DeepSpeed as they are."""

from __future__ import annotations

import json
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import align_kit as kit
import pytest

from lte.align.data import Base, build_data
from lte.align.train import AlignConfig
from lte.config import load

pq = pytest.importorskip("pyarrow.parquet", reason="alignment needs the extra: pip install 'lte[align]'")
ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs/align").glob("*.yaml"))
PRESETS = sorted((ROOT / "configs/deepspeed").glob("*.json"))
GPUS = {"llama3.2-1b": 1, "llama3-8b": 1, "llama3-8b-full": 4, "llama3-70b": 16, "lte-paper": 4}


def command(path: Path) -> list[str]:
    return shlex.split(path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))


def test_the_models_that_are_promised_have_a_config():
    assert {p.stem for p in CONFIGS} >= {"pocket", *GPUS}
    assert {p.stem for p in PRESETS} >= {"zero2", "zero3", "zero3-offload"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_is_strict_and_opens_with_the_command_that_runs_it(path: Path):
    words = command(path)
    config = load(AlignConfig, path, [w for flag, w in pairwise(words) if flag == "--set"])
    assert words[0] == "deepspeed" and "launch/align.sh" in words
    assert words[words.index("launch/align.sh") + 1] == f"configs/align/{path.name}"
    for flag, value in pairwise(words):
        assert flag != "--hostfile" or (ROOT / value).is_file()
    assert config.deepspeed and (ROOT / config.deepspeed).is_file()


@pytest.mark.parametrize("name", GPUS)
def test_a_step_of_a_large_model_has_the_published_number_of_rows(name: str):
    """128, LTE's global batch; a command with --num_gpus says the same number of GPUs as is reckoned with here."""
    path = ROOT / f"configs/align/{name}.yaml"
    config, words = load(AlignConfig, path), command(path)
    assert config.train.batch_size * config.train.accumulation * GPUS[name] == 128
    if "--num_gpus" in words:
        assert int(words[words.index("--num_gpus") + 1]) == GPUS[name]


def test_the_published_recipe_is_the_published_one():
    """FastChat/ft_train.sh of the code of arXiv:2402.11905."""
    t = load(AlignConfig, ROOT / "configs/align/lte-paper.yaml").train
    assert (t.method, t.epochs, t.learning_rate, t.schedule, t.warmup_steps) == ("full", 3, 2e-5, "cosine", 0.03)
    assert (t.batch_size, t.accumulation, t.weight_decay, t.max_length, t.pad_to) == (2, 16, 0, 2048, 2048)
    assert t.bf16 and t.gradient_checkpointing and t.save_steps == 300


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_transformers_and_deepspeed_read_a_preset(path: Path, tiny_lm):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from transformers import TrainingArguments
    from transformers.integrations import deepspeed as integration

    try:
        preset = integration.HfTrainerDeepSpeedConfig(str(path))
        preset.trainer_config_process(TrainingArguments(use_cpu=True, bf16=True, per_device_train_batch_size=3))
        preset.trainer_config_finalize(TrainingArguments(use_cpu=True), tiny_lm.model, 10)
    finally:
        integration.unset_hf_deepspeed_config()
    assert "auto" not in json.dumps(preset.config)  # nothing is left to be filled in
    assert preset.config["train_micro_batch_size_per_gpu"] == 3 and preset.config["bf16"]["enabled"] is True
    zero = DeepSpeedZeroConfig(**preset.config["zero_optimization"])
    assert zero.stage == (3 if "zero3" in path.stem else 2)
    assert bool(zero.offload_optimizer) == bool(zero.offload_param) == ("offload" in path.stem)
    assert preset.is_zero3() == ("zero3" in path.stem) and preset.is_offload() == ("offload" in path.stem)
    unknown = set(zero.model_extra or ())
    assert not unknown, f"DeepSpeed knows no {unknown}"


def test_deepspeed_reads_the_example_of_a_hostfile():
    runner = pytest.importorskip("deepspeed.launcher.runner")
    assert runner.fetch_hostfile(str(ROOT / "launch/hostfile.example")) == {"node1": 8, "node2": 8}


def test_the_slurm_file_starts_one_process_a_gpu(tmp_path: Path):
    """With an `srun` and a `python` that only say what they were given: names, numbers and arguments arrive whole."""
    for name, body in {
        "srun": 'shift; SLURM_PROCID=9 SLURM_LOCALID=1 exec "$@"',
        "scontrol": "printf 'n7\\nn8\\n'",
        "python": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"; echo "$#|$3|$5"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = ["bash", str(ROOT / "launch/align.slurm")]
    slurm = {
        "SLURM_JOB_NODELIST": "n[7-8]",
        "SLURM_JOB_ID": "41234",
        "SLURM_NTASKS": "16",
        "SLURM_NTASKS_PER_NODE": "8",
    }
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": "python", **slurm}
    asked = [*script, "configs/align/a b.yaml", "--set", "data.distractors=[1, 0]"]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["9 1 16 8 n7 21234", "5|configs/align/a b.yaml|data.distractors=[1, 0]"]
    assert subprocess.run(script, env=environment, capture_output=True).returncode == 2


def test_the_published_recipe_takes_the_released_rows_as_they_are(tmp_path: Path):
    """Invented rows of that form: gold answers, no edit added or moved, each question with its edits and without."""
    rows = [row for i in range(4) for row in kit.published(i)]
    path = kit.written(tmp_path / "released.jsonl", rows)
    config = load(AlignConfig, ROOT / "configs/align/lte-paper.yaml")
    recipe = config.recipe().model_copy(update={"cache": tmp_path / "cache"})
    recipe.sources["released"] = recipe.sources["released"].model_copy(update={"path": path, "file": None})
    parrot = kit.Parrot()
    base = Base("parrot", "parrot", parrot.answer, parrot.count)
    build_data(recipe, tmp_path / "set", lambda: base, None, lambda *_: None)
    made = pq.read_table(tmp_path / "set/data").to_pylist()
    given = {one["value"].casefold() for row in rows for one in row["conversations"] if one["from"] == "gpt"}
    assert {row["role"] for row in made} == {"question", "unrelated", "twin"} and not parrot.asked
    assert {row["target"] for row in made} == {"gold"} and {row["answer"].casefold() for row in made} <= given
    texts = [row["conversations"][0]["value"] for row in rows]
    for row in made:
        assert any(row["query"] in text and all(edit in text for edit in row["edits"]) for text in texts)
    assert {row["query"] for row in made if row["edits"]} <= {row["query"] for row in made if not row["edits"]}
