from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from evaluate_kit import case

from lte.edits import Probe, write_jsonl
from lte.evaluate.benchmarks import BENCHMARKS, find, load_cases
from lte.evaluate.config import BenchmarkConfig, EvaluateError
from lte.evaluate.validate import validate
from lte.records import RecordError

FULL = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "Elvish", "id": "Q1"},
        "target_true": {"str": "Dwarvish", "id": "Q2"},
        "subject": "Person7",
    },
    "paraphrase_prompts": ["It rained. Person7 speaks", "Person7 was raised in"],
    "neighborhood_prompts": ["The mother tongue of Person8 is"],
    "attribute_prompts": ["Person9 speaks"],
    "generation_prompts": ["Person7 lives"],
}
REDUCED = {
    "case_id": 7,
    "prompt": "The mother tongue of Person7 is",
    "target_new": "Elvish",
    "subject": "Person7",
    "ground_truth": "Dwarvish",
    "rephrase_prompt": "Person7 was raised in",
    "locality_prompt": "The mother tongue of Person8 is",
    "locality_ground_truth": "Dwarvish",
}
KNOWEDIT = {"subject": "Person7", "prompt": "Person7 speaks", "target_new": "Elvish"}


def written(folder: Path, *records: Any, lines: bool = False) -> Path:
    path = folder / "records.json"
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records) if lines else json.dumps(list(records))
    path.write_text(text, encoding="utf-8")
    return path


def test_counterfact_in_full(tmp_path: Path) -> None:
    [found] = load_cases("counterfact", written(tmp_path, FULL))
    assert (found.id, found.edit.subject, found.tags) == ("7", "Person7", {"relation": "P103", "target": "Q1"})
    assert found.edit.statement == "The mother tongue of Person7 is Elvish"
    assert found.edit.target_true == "Dwarvish"
    assert [p.prompt for p in found.generalization] == FULL["paraphrase_prompts"]
    assert {p.answers for p in found.generalization} == {("Elvish",)}
    assert found.locality == (
        Probe("The mother tongue of Person8 is", ("Dwarvish",), "neighborhood"),
        Probe("Person9 speaks", (), "attribute"),  # true of others already: no answer of theirs is known
    )
    assert found.generation == ("Person7 lives",) and found.references == ()


def test_counterfact_reduced_says_the_same(tmp_path: Path) -> None:
    [full] = load_cases("counterfact", written(tmp_path, FULL))
    [reduced] = load_cases("counterfact", written(tmp_path, REDUCED))
    assert reduced.edit == full.edit
    assert [(p.prompt, p.answers) for p in reduced.locality] == [(p.prompt, p.answers) for p in full.locality[:1]]
    assert reduced.generalization == full.generalization[1:]


def test_both_schemas_in_one_file_of_lines(tmp_path: Path) -> None:
    assert [c.id for c in load_cases("counterfact", written(tmp_path, FULL, REDUCED, lines=True))] == ["7", "7"]


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        ("Tengwar", ("Tengwar",)),
        (["Tengwar"], ("Tengwar",)),
        (["Tengwar", "the Tengwar"], ("Tengwar", "the Tengwar")),
        ([["Tengwar", "the Tengwar"], ["Cirth"], []], ("Tengwar", "the Tengwar", "Cirth")),
        ([["Tengwar"], ["Tengwar", ""]], ("Tengwar",)),
        ([[]], ()),
        ("", ()),
        (None, ()),
    ],
)
def test_every_shape_of_gold(tmp_path: Path, gold: Any, answers: tuple[str, ...]) -> None:
    asked = [{"prompt": "The script of Person7 is", "ground_truth": gold}]
    row = KNOWEDIT | {"ground_truth": gold, "locality": {"Forgetfulness": asked}, "portability": {"Reasoning": asked}}
    [found] = load_cases("wiki_recent", written(tmp_path, row))
    assert found.locality == (Probe("The script of Person7 is", answers, "Forgetfulness"),)
    assert found.edit.target_true == (answers[0] if answers else None)
    assert len(found.portability) == bool(answers)  # without an answer it cannot be scored


def test_every_probe_and_every_aspect_counts(tmp_path: Path) -> None:
    def ask(*prompts: str) -> list[dict[str, str]]:
        return [{"prompt": p, "ground_truth": "x"} for p in prompts]

    row = KNOWEDIT | {
        "rephrase_prompt": "What does Person7 speak?",
        "portability": {"Reasoning": ask("a", "b"), "Subject_Aliasing": ask("c")},
        "locality": {"Relation_Specificity": ask("d"), "Forgetfulness": None},
    }
    [found] = load_cases("zsre", written(tmp_path, row))
    assert [(p.prompt, p.aspect) for p in found.portability] == [
        ("a", "Reasoning"), ("b", "Reasoning"), ("c", "Subject_Aliasing"),
    ]  # fmt: skip
    assert [p.prompt for p in found.generalization + found.locality] == ["What does Person7 speak?", "d"]


def test_a_dropped_question_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = KNOWEDIT | {"portability": {"Reasoning": [{"prompt": "a", "ground_truth": [[]]}]}}
    assert load_cases("zsre", written(tmp_path, row))[0].portability == ()
    assert "1 portability questions have no answer" in caplog.text


def test_a_biography(tmp_path: Path) -> None:
    row = {"concept": "person7", "text": "This is a passage about person7.", "labels": "He spoke Elvish.",
           "locality": {"Relation_Specificity": [{"prompt": "person7 trade", "ground_truth": ["smith"]}]}}  # fmt: skip
    [found] = load_cases("wikibio", written(tmp_path, row))
    assert found.edit.statement == "This is a passage about person7. He spoke Elvish."
    assert found.locality == (Probe("person7 trade", ("smith",), "Relation_Specificity"),)


def test_own_cases_come_back(tmp_path: Path) -> None:
    cases = [case(n) for n in range(3)]
    write_jsonl(tmp_path / "cases.jsonl", cases)
    assert load_cases("cases", tmp_path / "cases.jsonl") == cases
    assert load_cases("pocket", tmp_path / "cases.jsonl", limit=2) == cases[:2]


def test_the_shuffle_is_seeded_and_comes_before_the_limit(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "cases.jsonl", [case(n) for n in range(30)])
    first, again, other = (
        [c.id for c in load_cases("cases", tmp_path / "cases.jsonl", 9, True, seed)] for seed in (1, 1, 2)
    )
    assert first == again != other and len(set(first)) == 9


def without(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != field}


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("counterfact", without(REDUCED, "target_new"), "target_new: missing"),
        ("counterfact", REDUCED | {"locality_prompt": ""}, "locality_prompt: expected text, got ''"),
        ("counterfact", REDUCED | {"prompt": "said <|eot_id|>"}, "control token"),
        ("counterfact", REDUCED | {"target_new": "x" * 3000}, "target_new: 3000 bytes"),
        ("counterfact", FULL | {"requested_rewrite": "no"}, "requested_rewrite: expected an object"),
        ("counterfact", FULL | {"paraphrase_prompts": "no list"}, "paraphrase_prompts: expected a list of texts"),
        (
            "counterfact",
            FULL | {"requested_rewrite": FULL["requested_rewrite"] | {"prompt": "no place"}},
            "requested_rewrite.prompt: expected {}",
        ),
        ("zsre", KNOWEDIT | {"ground_truth": 3}, "ground_truth: expected text, a list of texts or a list of alias"),
        ("zsre", KNOWEDIT | {"locality": []} | {"portability": ["no"]}, "portability: expected an object of aspects"),
        ("zsre", KNOWEDIT | {"portability": {"Reasoning": "no"}}, "portability.Reasoning: expected a list"),
        ("zsre", KNOWEDIT | {"locality": {"F": [{"ground_truth": "x"}]}}, "locality.F[0].prompt: expected text"),
        ("zsre", KNOWEDIT | {"locality": {"F": [{"prompt": "a", "ground_truth": [1]}]}}, "locality.F[0].ground_truth"),
        ("wikibio", {"concept": "p", "text": "t", "labels": None}, "labels: expected text, got None"),
        ("zsre", ["no object"], "expected an object, got list"),
    ],
)
def test_an_unreadable_record_is_named(tmp_path: Path, name: str, row: Any, field: str) -> None:
    good = {"counterfact": REDUCED, "zsre": KNOWEDIT, "wikibio": {"concept": "p", "text": "t", "labels": "l"}}
    path = written(tmp_path, good[name], row)
    with pytest.raises(RecordError, match="record 1") as caught:
        load_cases(name, path)
    assert str(path) in str(caught.value) and field in str(caught.value) and "remove" in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('[{"a": 1', encoding="utf-8")
    with pytest.raises(RecordError, match="not JSON"):
        load_cases("zsre", broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="cannot be read"):
        load_cases("zsre", broken)
    broken.write_text("[]", encoding="utf-8")
    with pytest.raises(EvaluateError, match="holds no records"):
        load_cases("zsre", broken)
    broken.write_text('{"id": "a"}', encoding="utf-8")
    with pytest.raises(RecordError, match=r"broken.json:1: not a case: it has id; wanted edit"):
        load_cases("cases", broken)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    good = json.dumps(KNOWEDIT)
    path.write_text(f"{good}\n\n{good[:-1]}\n", encoding="utf-8")
    for name in ("zsre", "cases"):
        with pytest.raises(RecordError, match=r"lines.jsonl:3: not JSON \(Expecting.*wanted one object a line"):
            load_cases(name, path)
    path.write_text(json.dumps([KNOWEDIT, KNOWEDIT], indent=0)[:-9], encoding="utf-8")
    with pytest.raises(RecordError, match=r"lines.jsonl:\d+: not JSON .*array of records"):
        load_cases("zsre", path)
    path.write_text(f"{good}\n{json.dumps(without(KNOWEDIT, 'target_new'))}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"lines.jsonl:2: target_new: missing; correct or remove"):
        load_cases("zsre", path)


def test_lines_end_where_json_says(tmp_path: Path) -> None:
    row = KNOWEDIT | {"prompt": "Person7\u2028speaks", "ground_truth": "\x85"}
    path = tmp_path / "lines.jsonl"
    path.write_text("\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert load_cases("zsre", path)[0].edit.prompt == "Person7\u2028speaks"
    path.write_text(json.dumps(row, indent=2), encoding="utf-8")  # one record over many lines
    assert len(load_cases("zsre", path)) == 1


def test_a_missing_file_is_said_to_be_missing_and_where_it_is_published(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=r"no file named; set path to the records \(zjunlp/KnowEdit"):
        load_cases("zsre", None)
    with pytest.raises(EvaluateError, match=r"gone.json: no such file; set path .*counterfact.json"):
        load_cases("counterfact", tmp_path / "gone.json")
    with pytest.raises(EvaluateError, match=r"no such benchmark; there are .*zsre, .*; did you mean 'zsre'\?"):
        load_cases("zsree", None)


def published() -> Path:
    return Path(os.environ.get("LTE_BENCHMARKS") or Path(__file__).parents[2] / "../shared/benchmarks").resolve()


@pytest.mark.skipif(
    not published().is_dir(), reason="LTE_BENCHMARKS or ../shared/benchmarks names no folder: published files NOT read"
)
@pytest.mark.parametrize(
    ("name", "file", "records"),
    [
        ("counterfact", "counterfact/counterfact_edit.json", 10_000),
        ("counterfact", "counterfact/counterfact_train.json", 10_000),
        ("zsre", "knowedit/zsre_test.json", 1_304),
        ("wiki_counterfact", "knowedit/wiki_counterfact_train.json", 1_428),
        ("wiki_recent", "knowedit/wiki_recent_train.json", 570),
        ("wikibio", "knowedit/wikibio_train.json", 464),
    ],
)
def test_a_published_file_is_read_whole(name: str, file: str, records: int) -> None:
    cases = load_cases(name, published() / file)
    assert len(cases) == records
    assert all(case.locality or case.portability or name.startswith("wiki") for case in cases)
    assert all(p.answers for case in cases for p in case.portability)
    assert set(BENCHMARKS) >= {name}
    assert not [p for p in validate(published() / file) if p.kind == "error"]  # by its fields alone
    assert find(BenchmarkConfig(name=name), published(), False).name in {Path(f).name for f in BENCHMARKS[name].files}
