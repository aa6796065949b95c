"""The facts the pocket model is taught, and the cases made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lte.pocket.cases import build_cases
from lte.pocket.facts import Fact, choose, load_facts, read_facts, relations, write_facts

FACTS = [
    Fact("Ada Brandt", "P103", "Danish", "eval"),
    Fact("Ada Brandt", "P19", "Aarhus", "eval"),
    Fact("Bo Lindqvist", "P103", "Danish", "eval"),
    Fact("Carl Meier", "P103", "German", "eval"),
    Fact("Dora Fischer", "P19", "Vienna", "eval"),
    Fact("Emil Roth", "P103", "German", "align"),
    Fact("Finn Olsen", "P103", "Danish", "dev"),
    Fact("Gerd Olsen", "P19", "Vienna", "dev"),
]


def record(prompt: str, subject: str, true: str, new: str = "x") -> dict[str, str]:
    return {"prompt": prompt, "subject": subject, "ground_truth": true, "target_new": new}


def test_every_relation_has_enough_phrasings_and_none_is_both_trained_and_held_out():
    for relation in relations().values():
        assert len(relation.statements) >= 6 and len(relation.questions) >= 3 and len(relation.held_out) >= 2
        assert all(s.endswith("{o}") and s.count("{o}") == 1 and s.count("{s}") == 1 for s in relation.statements)
        assert all(q.endswith("?") and "{o}" not in q and q.count("{s}") == 1 for q in relation.questions)
        assert not set(relation.probes) & set(relation.held_out_probes)


def test_a_record_gives_the_fact_and_not_its_words(tmp_path: Path):
    file = tmp_path / "records.json"
    file.write_text(json.dumps([
        record("The mother tongue of Ada Brandt is", "Ada Brandt", "Danish"),
        record("Mount Foo is located in", "Mount Foo", "Antarctica"),
        record("Ada Brandt is a citizen of", "Ada Brandt", "Denmark"),
        record("Castle Bar is located in", "Castle Bar", "Denmark"),
        record("Castle Baz is located in", "Castle Baz", "Aarhus"),
        record("A sentence without its subject", "Ada", "x"),
    ]))  # fmt: skip
    found = {(f.subject, f.relation): f.object for f in read_facts(file)}
    assert found == {
        ("Ada Brandt", "P103"): "Danish",
        ("Ada Brandt", "P27"): "Denmark",
        ("Mount Foo", "P30"): "Antarctica",
        ("Castle Bar", "P17"): "Denmark",
        ("Castle Baz", "P131"): "Aarhus",
    }


def test_a_subject_with_two_objects_for_a_relation_is_left_out(tmp_path: Path):
    file = tmp_path / "records.json"
    twice = [record("The mother tongue of Ada is", "Ada", o) for o in ("Danish", "German")]
    file.write_text(json.dumps(twice))
    assert read_facts(file) == []


def test_no_subject_is_in_two_splits_and_the_choice_is_seeded():
    aligned = [Fact(f"A{i}", "P103", "Danish") for i in range(60)] + [Fact("Both", "P19", "Aarhus")]
    tested = [Fact(f"B{i}", "P103", "German") for i in range(60)] + [Fact("Both", "P103", "Danish")]
    chosen = choose(aligned, tested, n=80, per_relation=30, seed=3)
    assert chosen == choose(aligned, tested, n=80, per_relation=30, seed=3)
    splits: dict[str, set[str]] = {}
    for fact in chosen:
        splits.setdefault(fact.subject, set()).add(fact.split)
    assert all(len(s) == 1 for s in splits.values())
    assert splits.get("Both", {"eval"}) != {"align"}
    assert max(sum(f.split == "align" for f in chosen), sum(f.split != "align" for f in chosen)) <= 40


def test_facts_survive_their_file(tmp_path: Path):
    write_facts(tmp_path / "facts.tsv", FACTS)
    assert load_facts(tmp_path / "facts.tsv") == FACTS


@pytest.mark.parametrize("held_out", [True, False])
def test_a_case_states_another_object_and_probes_it_in_the_right_phrasings(held_out: bool):
    cases = build_cases(FACTS, "eval", seed=0, held_out=held_out)
    assert {c.edit.subject for c in cases} == {f.subject for f in FACTS if f.split == "eval"}
    for case in cases:
        relation = relations()[case.tags["relation"]]
        phrasings = relation.held_out_probes if held_out else relation.probes
        allowed = {p.format(s=case.edit.subject) for p in phrasings}
        assert case.edit.target_new != case.edit.target_true
        assert case.edit.subject in case.edit.prompt
        assert {p.prompt for p in case.generalization} <= allowed - {case.edit.prompt}
        for probe in case.locality:
            if probe.aspect == "same_subject":
                assert case.edit.subject in probe.prompt and probe.prompt not in allowed
            else:
                assert case.edit.subject not in probe.prompt
                assert not held_out or "Olsen" in probe.prompt, "a neighbour that no other case edits"


def test_the_bundled_cases_are_about_known_facts_and_no_subject_of_the_alignment():
    from lte.edits import read_cases
    from lte.pocket import home

    facts = load_facts(home() / "facts.tsv")
    cases = read_cases(home() / "cases.jsonl")
    known = {(f.subject, f.object) for f in facts if f.split == "eval"}
    aligned = {c.edit.subject for c in read_cases(home() / "align.jsonl")}
    assert len(cases) == 1000
    assert all((c.edit.subject, c.edit.target_true) in known for c in cases)
    assert not aligned & {c.edit.subject for c in cases}
