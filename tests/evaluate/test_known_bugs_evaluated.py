"""Bugs that other editing code is known to have, by number: what the evaluation is asked."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from evaluate_kit import Clumsy, FakeLM, Forgetful, Oracle, Prompting, case, world
from typer.testing import CliRunner

import lte
from lte.cli import app
from lte.config import ConfigError, load
from lte.editors import EDITORS
from lte.editors.base import Handle
from lte.editors.rome import RomeConfig
from lte.edits import Case, Edit
from lte.evaluate import EvaluateConfig, EvaluateError, Results, evaluate
from lte.evaluate.benchmarks import BENCHMARKS, load_cases
from lte.evaluate.journal import read_samples
from lte.evaluate.metrics import METRICS, version_id

Settings = Callable[..., EvaluateConfig]
CASES = [case(n) for n in range(4)]
SCORINGS = {"generated", "contains", "teacher_forced", "preference", "judge", "legacy", "none"}


def figures(found: Results, editor: str) -> dict[str, Any]:
    """What is told of one editor."""
    [task] = [name for name, told in found.data["configs"].items() if told["editor"] == editor]
    return found.data["results"][task]


def test_b06_a_shared_start_is_no_answer(settings: Settings, tmp_path: Path) -> None:
    edit = Edit("Person0 speaks", "Dwarvish of Erebor", "Person0", "Dwarvish")
    lm = FakeLM({edit.prompt: "Dwarvish."})
    told = figures(evaluate(lm, {"none": None}, [Case("one", edit)], settings(), tmp_path), "none")
    assert told["reliability,teacher_forced"] == pytest.approx(1 / 3)  # the partial credit has a name of its own
    assert told["reliability,generated"] == 0


def test_b07_every_figure_names_its_scoring(settings: Settings, tmp_path: Path) -> None:
    found = evaluate(FakeLM(world(CASES)), {"oracle": Oracle(CASES)}, CASES, settings(), tmp_path)
    keys = [key for key in figures(found, "oracle") if key != "alias"]
    assert all(key.partition(",")[2] in SCORINGS for key in keys) and len(keys) == len(set(keys))
    for key in keys:
        name, _, scoring = key.partition(",")
        if scoring != "none" and not name.endswith(("_ci95", "_n", "_stderr")):
            assert version_id(key).partition("/")[0] in {*METRICS, "S,preference"}


class Drifting(Oracle):
    """Answers its edits, and from the first one on every neighbour by one wrong word."""

    name = "drifting"

    def apply(self, lm: Any, edits: Sequence[Edit]) -> Handle:
        handle = super().apply(lm, edits)
        lm.said |= {p.prompt: "drift" for c in CASES for p in c.locality}
        return handle


def test_b10_locality_is_measured_against_the_unedited_model(settings: Settings, tmp_path: Path) -> None:
    """Against the model right before each edit all but the first neighbour would be as it was."""
    config = settings(protocols=["sequential:4"])
    told = figures(evaluate(FakeLM(world(CASES)), {"d": Drifting(CASES)}, CASES, config, tmp_path), "d")
    assert told["locality@immediate,generated"] == told["locality,generated"] == 0
    assert told["locality@immediate,teacher_forced"] == told["locality,teacher_forced"] == 0


def test_b14_every_editor_is_scored_alike(settings: Settings, tmp_path: Path) -> None:
    """In weights or in the prompt: the same questions in the same words, the same metrics, in the same versions."""
    editors = {"none": None, "a": Oracle(CASES), "b": Prompting(CASES), "c": Clumsy(CASES), "d": Forgetful(CASES)}
    found = evaluate(FakeLM(world(CASES)), editors, CASES, settings(protocols=["batch:2"]), tmp_path)
    tasks = list(found.data["configs"])
    assert len(tasks) == len(editors) and {t["protocol"] for t in found.data["configs"].values()} == {"batch:2"}
    counted = [{k for k in found.data["results"][t] if k.partition(",")[2] not in ("", "none")} for t in tasks]
    assert all(keys == counted[0] and keys for keys in counted)
    assert len({str(found.data["versions"][t]) for t in tasks}) == 1
    asked = [
        [(r["doc_id"], r["protocol"], p["kind"], p["prompt"], p["answers"]) for r in rows for p in r["probes"]]
        for rows in (sorted(read_samples(found.samples(t)), key=lambda r: r["doc_id"]) for t in tasks)
    ]
    assert all(rows == asked[0] and rows for rows in asked)


@pytest.mark.parametrize(("said", "meant"), [("true", True), ("false", False), ("False", False), ("no", False)])
def test_b15_a_switch_is_on_or_off_and_nothing_else(said: str, meant: bool) -> None:
    assert load(RomeConfig, overrides=[f"keep_bos={said}"]).keep_bos is meant
    for word in ("maybe", "'x'", "[]"):
        with pytest.raises(ConfigError, match="keep_bos"):
            load(RomeConfig, overrides=[f"keep_bos={word}"])
    switch = CliRunner().invoke(app, ["evaluate", "--resume=false"])
    assert switch.exit_code == 2  # a switch of the command line takes no word that would turn it on


def test_b15_no_two_strings_stand_beside_each_other() -> None:
    """What a missing comma makes of two names: Python joins them without a word."""
    for path in sorted(Path(lte.__file__).parent.rglob("*.py")):
        read = list(tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline))
        for a, b in pairwise(read):
            beside = a.type == b.type == tokenize.STRING and a.end[0] == b.start[0]
            assert not beside, f"{path}:{a.start[0]}: {a.string} {b.string}"


@pytest.mark.parametrize("name", ["cf", "counter", "c", "", "COUNTERFACT "])
def test_b15_a_part_of_a_name_is_no_name(name: str) -> None:
    assert name not in BENCHMARKS and name not in EDITORS
    with pytest.raises(EvaluateError, match="no such benchmark"):
        load_cases(name, None)
