"""Own data: our form, EasyEdit's and KnowEdit's field names, and those of the published benchmarks, line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lte.edits import Case, Edit, Probe, case_from, row_of
from lte.evaluate.benchmarks import load_cases
from lte.records import RecordError, cases

LINE = {"prompt": "Ada speaks", "target_new": "Zorlandish"}
OWN = {"id": "a", "edit": LINE | {"subject": "Ada"}}


def read(folder: Path, *rows: Any) -> list[Case]:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return load_cases("cases", path)


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    example = re.search(r"\n\n((?: {4}.*\n)+)", cases.__doc__ or "")
    assert example is not None
    [found] = read(tmp_path, json.loads(example[1]))
    assert (found.id, found.edit.subject, found.tags) == ("lake-1", "Lake Ilmen", {"relation": "outflow"})
    assert [len(p.answers) for p in (*found.generalization, *found.portability, *found.locality)] == [0, 2, 1]
    for name in cases.OWN:
        assert re.search(rf"\b{name}\b", cases.__doc__ or ""), name


def test_what_lte_writes_is_read_back(tmp_path: Path) -> None:
    probe = Probe("Who?", ("Bo", "B."), "Reasoning", "one", (Probe("Why?", ("so",)),))
    whole = Case(
        "a", Edit("Ada speaks", "Zorlandish", "Ada", "Ulmish", ("A. Blip",)),
        (probe,), (probe,), (probe, Probe("Where?")), {"relation": "P1"},
        (Edit("Bo speaks", "Foo"),), ("Ada lives",), ("Cy speaks Zorlandish.",),
    )  # fmt: skip
    assert read(tmp_path, row_of(whole)) == [whole] == [case_from(row_of(whole))]


def test_a_line_without_an_id_has_its_number(tmp_path: Path) -> None:
    assert [c.id for c in read(tmp_path, {"edit": LINE}, OWN, LINE, LINE | {"case_id": 0}, LINE | {"id": "x"})] == [
        "1", "a", "3", "0", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (
            {"A": [{"prompt": "p", "ground_truth": "x"}, {"prompt": "q", "ground_truth": [["y", "z"]]}]},
            [("p", ("x",)), ("q", ("y", "z"))],
        ),
        ({"A": {"prompt": "p", "ground_truth": "x"}}, [("p", ("x",))]),
        ({"A": {"prompt": "p", "ground_truth": ["x", "y"]}}, [("p", ("x", "y"))]),
        ({"A": {"prompt": ["p", "q"], "ground_truth": ["x", ["y", "z"]]}}, [("p", ("x",)), ("q", ("y", "z"))]),
        ({"A": [{"prompt": ["p"], "ground_truth": [["x", "y"]]}]}, [("p", ("x", "y"))]),
    ],
)  # fmt: skip
def test_easyedits_shapes(tmp_path: Path, shape: Any, wanted: list[tuple[str, tuple[str, ...]]]) -> None:
    [found] = read(tmp_path, LINE | {"portability": shape, "locality": shape})
    for probes in (found.portability, found.locality):
        assert [(p.prompt, p.answers, p.aspect) for p in probes] == [(*pair, "A") for pair in wanted]


def test_easyedits_flat_fields(tmp_path: Path) -> None:
    flat = {
        "subject": "Ada", "ground_truth": ["Ulmish", "Ulm"],
        "rephrase_prompt": ["What does Ada speak?", "Ada's language is"],
        "locality_prompt": ["Bo speaks", "Cy speaks"], "locality_ground_truth": ["Foo", ["Bar", "Baz"]],
        "portability_prompt": "Ada's hymn is in", "portability_ground_truth": ["Zorlandish", "Zorlandian"],
    }  # fmt: skip
    [found] = read(tmp_path, LINE | flat)
    assert found.edit == Edit("Ada speaks", "Zorlandish", "Ada", "Ulmish")
    assert [p.prompt for p in found.generalization] == flat["rephrase_prompt"]
    assert found.locality == (Probe("Bo speaks", ("Foo",)), Probe("Cy speaks", ("Bar", "Baz")))
    assert found.portability == (Probe("Ada's hymn is in", ("Zorlandish", "Zorlandian")),)


def test_records_of_every_schema_stand_in_one_file(tmp_path: Path) -> None:
    targets = {"target_new": {"str": "Zorlandish"}, "target_true": {"str": "Ulmish"}}
    rewrite = {"prompt": "{} speaks", "subject": "Ada"} | targets
    sentence = "The mother tongue of Ada is Zorlandish."
    rows = [
        OWN,
        LINE,
        {"requested_rewrite": rewrite},
        {"requested_rewrite": [rewrite], "new_answer": "Zorlandish"},
        {"src": "Ada speaks", "alt": "Zorlandish", "subject": "Ada", "loc": "who", "loc_ans": "Bo"},
        {"text": "Ada lives.", "labels": "She speaks Zorlandish.", "concept": "ada"},
        {"example_type": "recent", "edit": {"prompt": sentence, "relation": "NATIVE_LANGUAGE"}},
    ]
    found = read(tmp_path, *rows)
    assert len(found) == len(rows) and all("Zorlandish" in case.edit.target_new for case in found)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({}, "not a case: it has nothing; wanted edit"),
        ({"text": "a"}, "not a case: it has text; wanted edit"),
        ({"edit": "no"}, "edit: expected an object, got 'no'"),
        ({"edit": {"prompt": "a"}}, "edit.target_new: missing"),
        ({"edit": LINE | {"targt": "a"}}, "edit.targt: no such field; an edit has prompt, target_new"),
        ({"edit": LINE | {"aliases": "A. Blip"}}, "edit.aliases: expected a list of names"),
        ({"edit": LINE | {"aliases": [3]}}, "edit.aliases: expected text, got int"),
        ({"edit": LINE | {"prompt": "said <|eot_id|>"}}, "edit.prompt: holds the control token"),
        ({"edit": LINE, "also": [{"prompt": "a"}]}, "also[0].target_new: missing"),
        ({"edit": LINE, "locality": {"prompt": "a"}}, "locality: expected a list of objects"),
        ({"edit": LINE, "locality": [{"answers": ["a"]}]}, "locality[0].prompt: missing"),
        ({"edit": LINE, "portability": [{"prompt": "a", "answers": 3}]}, "portability[0].answers: expected text,"),
        ({"edit": LINE, "portability": [{"prompt": "a", "aspect": 3}]}, "portability[0].aspect: expected text, got 3"),
        ({"edit": LINE, "portability": [{"prompt": "a", "given": [{}]}]}, "portability[0].given[0].prompt: missing"),
        ({"edit": LINE, "tags": {"relation": 3}}, "tags: expected an object of texts"),
        ({"edit": LINE, "tags": ["a"]}, "tags: expected an object of texts"),
        ({"edit": LINE, "generation": "a"}, "generation: expected a list of texts"),
        ({"edit": LINE, "id": ["a"]}, "id: expected text, got ['a']"),
        (LINE | {"target_new": ["a"]}, "target_new: expected text, got ['a']"),
        (LINE | {"subject": 3}, "subject: expected text, got 3"),
        (LINE | {"rephrase_prompt": {"a": 1}}, "rephrase_prompt: expected text, a list"),
        (LINE | {"portability": {"A": 3}}, "portability.A: expected a list of questions, got 3"),
        (
            LINE | {"portability": {"A": {"prompt": ["a", "b"], "ground_truth": ["c"]}}},
            "portability.A.ground_truth: expected a list of 2",
        ),
        (
            LINE | {"portability": {"A": [{"prompt": ["a"], "ground_truth": "c"}]}},
            "portability.A[0].ground_truth: expected a list of 1",
        ),
        (
            LINE | {"locality_prompt": ["a", 3], "locality_ground_truth": ["b", "c"]},
            "locality_prompt: expected text, got 3",
        ),
        (LINE | {"locality_prompt": ["a", "b"]}, "locality_ground_truth: expected a list of 2"),
        (["a"], "expected an object, got list ['a']"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_names_its_field(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(RecordError, match=r"own.jsonl:2: ") as caught:
        read(tmp_path, OWN, row)
    assert told in str(caught.value) and "correct or remove this record" in str(caught.value)
