"""`validate` names every fault of a file, with its line and field, and goes on after each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lte.evaluate.benchmarks import load_cases
from lte.evaluate.config import EvaluateError
from lte.evaluate.validate import validate
from lte.records import RecordError

EDIT = {"prompt": "Ada speaks", "target_new": "Zorlandish", "subject": "Ada"}


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def told(path: Path, benchmark: str | None = None) -> list[tuple[str, str, str]]:
    return [(p.kind, p.where, p.field) for p in validate(path, benchmark)]


def test_a_good_file_has_no_problems(tmp_path: Path) -> None:
    asked = [{"prompt": "Bo speaks", "answers": ["Foo"]}, {"prompt": "Cy speaks"}]
    path = written(
        tmp_path, {"id": "a", "edit": EDIT, "locality": asked}, {"id": "b", "edit": EDIT | {"prompt": "Ada says"}}
    )
    assert validate(path) == [] and len(load_cases("cases", path)) == 2


def test_every_fault_of_every_line_is_named(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"id": "a", "edit": EDIT},
        '{"id": "b", ',
        "[1]",
        {"id": "c", "edit": {"subject": 3}, "tags": 3, "locality": [{"answers": 4}, {"prompt": "x", "answers": ["y"]}]},
        "",
        {"nothing": "known"},
        {"requested_rewrite": {"prompt": "no place", "target_new": {}, "target_true": "x"}, "neighborhood_prompts": 3},
        {
            "prompt": "Ada says <|eot_id|>",
            "target_new": "x",
            "portability": {"A": [{"prompt": 1}, {"ground_truth": 1}]},
        },
        {"id": "z", "edit": EDIT | {"prompt": "Zed speaks", "subject": "Zed"}},
    )
    assert told(path) == [
        ("error", "line 2", ""), ("error", "line 3", ""),
        ("error", "line 4", "tags"), ("error", "line 4", "edit.prompt"), ("error", "line 4", "edit.target_new"),
        ("error", "line 4", "edit.subject"), ("error", "line 4", "locality[0].prompt"),
        ("error", "line 4", "locality[0].answers"),
        ("error", "line 6", ""),
        ("error", "line 7", "requested_rewrite.subject"), ("error", "line 7", "requested_rewrite.prompt"),
        ("error", "line 7", "requested_rewrite.target_new.str"), ("error", "line 7", "neighborhood_prompts"),
        ("error", "line 8", "prompt"), ("error", "line 8", "portability.A[0].prompt"),
        ("error", "line 8", "portability.A[1].prompt"),
    ]  # fmt: skip
    assert all(p.problem and p.remedy for p in validate(path))
    assert str(validate(path)[2]).startswith("line 4: tags: expected an object of texts, got 3; correct or remove")
    with pytest.raises(RecordError, match=r"own.jsonl:2: not JSON"):
        load_cases("cases", path)


def test_what_is_seldom_meant_is_a_warning(tmp_path: Path) -> None:
    asked = {"generalization": [{"prompt": "Does Ada speak zorlandish?", "answers": ["Zorlandish"]}]}
    path = written(
        tmp_path,
        {
            "id": "a",
            "edit": EDIT,
            "locality": [{"prompt": "Ada speaks "}, {"prompt": "Ada's mother is", "answers": ["Eve"]}],
        },
        {"id": "a", "edit": EDIT | {"target_new": "Ulmish"}},
        {"id": "c", "edit": {"prompt": "Zorlandish is the language of", "target_new": "Zorlandish"}} | asked,
        {"id": "d", "edit": EDIT | {"prompt": "Ada reads"}, "portability": [{"prompt": "p"}], "localty": []},
        {"prompt": "Bo speaks", "target_new": "Foo", "rephrase_promt": "x", "cond": "y"},
        {"id": "f", "edit": {"prompt": "Foobar is", "target_new": "Foo"}},  # not a word of its own
        {"src": "Ada sings", "alt": "", "subject": "Ada"},
    )
    assert told(path) == [
        ("warning", "line 1", "locality[0]"),
        ("warning", "line 2", "id"), ("warning", "line 2", "edit"),
        ("warning", "line 3", "edit"), ("warning", "line 3", "generalization[0]"),
        ("warning", "line 4", "localty"), ("warning", "line 4", "portability[0]"),
        ("warning", "line 5", "rephrase_promt"),
        ("warning", "line 7", "alt"),
    ]  # fmt: skip
    texts = [str(p) for p in validate(path)]
    assert "also the id of line 1" in texts[1] and "by 'Zorlandish' at line 1" in texts[2]
    assert "did you mean 'locality'?" in texts[5] and "did you mean 'rephrase_prompt'?" in texts[7]
    assert len(load_cases("cases", path)) == 6  # warnings stop nothing; the last states no new answer


def test_edits_of_one_case_may_contradict_those_of_another(tmp_path: Path) -> None:
    other = EDIT | {"target_new": "Ulmish"}
    path = written(
        tmp_path, {"id": "a", "edit": EDIT}, {"id": "b", "edit": EDIT | {"prompt": "p"}, "also": [EDIT, other]}
    )
    assert told(path) == [("warning", "line 2", "also[1]")]


def test_a_named_schema_is_held_to(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([EDIT, {"src": "a"}, 3, {"prompt": "p", "labels": 1}]), encoding="utf-8")
    assert sorted(told(path, "zsre")) == [
        ("error", "record 1", "prompt"), ("error", "record 1", "subject"), ("error", "record 1", "target_new"),
        ("error", "record 2", ""),
        ("error", "record 3", "concept"), ("error", "record 3", "labels"), ("error", "record 3", "text"),
    ]  # fmt: skip
    with pytest.raises(EvaluateError, match="did you mean 'zsre'"):
        validate(path, "zrse")


def test_a_file_that_holds_nothing_or_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    with pytest.raises(RecordError, match=r"own.jsonl: cannot be read"):
        validate(path)
    for text in ("", "\n\n", "[]"):
        path.write_text(text, encoding="utf-8")
        assert [str(p) for p in validate(path)] == ["holds no records; wanted at least one"]
    path.write_text('[{"a": 1},\n {"b": }]', encoding="utf-8")
    [problem] = validate(path)
    assert (problem.kind, problem.where) == ("error", "line 2") and "not JSON" in problem.problem


def test_a_long_value_is_told_in_short(tmp_path: Path) -> None:
    [problem] = validate(written(tmp_path, {"edit": EDIT, "tags": ["x" * 9000]}))
    assert len(str(problem)) < 300 and "(list)" in problem.problem
