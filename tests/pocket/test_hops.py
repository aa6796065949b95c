"""Questions one hop on, and those that tempt an edit to fire."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from lte.edits import Case, Edit, Probe
from lte.pocket.asked import with_hard, with_hops
from lte.pocket.facts import Fact, relations
from lte.pocket.hops import MET, NEW, Hops, led_on, wordings

FACTS = [
    Fact("Japan", "P37", "Japanese", "dev"),
    Fact("Japan", "P30", "Asia", "align"),
    Fact("Peru", "P37", "Spanish", "eval"),
    Fact("Norway", "P30", "Europe", "align"),
    Fact("Denmark", "P30", "Europe", "dev"),
    Fact("Ada Brandt", "P27", "Norway", "eval"),
    Fact("Bo Roth", "P27", "Denmark", "eval"),
    Fact("Carl Meier", "P27", "Japan", "align"),
    Fact("Dora Fischer", "P27", "Peru", "align"),
    Fact("Finn Olsen", "P103", "Danish", "dev"),
]


def case(subject: str, new: str, old: str, id: str = "P27-1") -> Case:
    return Case(
        id,
        Edit(f"{subject} is a citizen of", new, subject, old),
        generalization=(Probe(f"The nation of {subject} is", (new,)),),
        locality=(Probe("Gerd Olsen was born in", ("Bergen",), "unrelated"),),
        tags={"relation": "P27"},
    )


def encode(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors by the words of a text."""
    rows = []
    for text in texts:
        row = np.zeros(64)
        for word in text.split():
            row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_every_bridge_names_the_subject_once_and_one_is_kept_for_evaluation() -> None:
    assert set(wordings().bridges) | set(wordings().second) <= set(relations())
    for texts in wordings().bridges.values():
        assert len(set(texts)) == len(texts) >= 3 and all(text.count("{s}") == 1 for text in texts)


def test_a_question_one_hop_on_asks_of_the_new_object_and_says_what_must_be_known() -> None:
    found = Hops.of(FACTS).probes(case("Ada Brandt", "Japan", "Norway"), MET, False, 99, 0)
    assert {p.answers for p in found} == {("Japanese",), ("Asia",)}
    for probe in found:
        assert "Ada Brandt" in probe.prompt and "Japan" not in probe.prompt and probe.aspect == MET
        [given] = probe.given
        assert given.prompt.count("Japan") == 1 and given.answers == probe.answers
        assert probe.prompt[0].isupper()


def test_one_that_the_old_object_answers_alike_is_not_asked() -> None:
    hops = Hops.of(FACTS)
    assert hops.probes(case("Ada Brandt", "Denmark", "Norway"), MET, False, 9, 0) == []
    assert hops.probes(case("Ada Brandt", "Denmark", "Japan"), MET, False, 9, 0)
    other = Case("x", Edit("Finn speaks", "Japan", "Finn"), tags={"relation": "P103"})
    assert hops.probes(other, MET, False, 9, 0) == []  # its relation leads nowhere


def test_evaluation_asks_in_words_and_of_bridges_that_training_does_not() -> None:
    trained = Hops.of(FACTS).probes(case("Ada Brandt", "Japan", "Norway"), MET, False, 99, 0)
    held_out = Hops.of(FACTS).probes(case("Ada Brandt", "Japan", "Norway"), MET, True, 99, 0)
    assert held_out and not {p.prompt for p in trained} & {p.prompt for p in held_out}
    unseen = wordings().bridges["P27"][-1].format(s="ada brandt")
    assert all(unseen in p.prompt.lower() for p in held_out)
    assert not any(unseen in p.prompt.lower() for p in trained)
    peru = case("Ada Brandt", "Peru", "Norway")
    assert Hops.of(FACTS).probes(peru, MET, False, 9, 0) == []  # known, but of the split "eval"
    assert Hops.of(FACTS, ("eval",)).probes(peru, NEW, True, 9, 0)


def test_cases_to_align_on_are_led_on_by_chance() -> None:
    cases = [case(f"Person {i}", "Peru", "Norway", f"P27-{i}") for i in range(200)]
    none, half = led_on(cases, FACTS, 0, 1, 0), led_on(cases, FACTS, 0.5, 1, 0)
    assert not any(c.portability for c in none) and [c.edit for c in none] == [c.edit for c in cases]
    moved = [c for c in half if c.edit.target_new != "Peru"]
    assert 70 < len(moved) < 130 and {c.edit.target_new for c in moved} == {"Denmark", "Japan"}
    assert all(p.answers == (c.edit.target_new,) for c in moved for p in c.generalization)
    assert all(bool(c.portability) == (c.edit.target_new == "Japan") for c in moved)  # Denmark and Norway: both Europe
    assert half == led_on(cases, FACTS, 0.5, 1, 0) != led_on(cases, FACTS, 0.5, 1, 1)


def test_cases_with_a_question_one_hop_on_come_first_and_none_edits_what_it_leads_to() -> None:
    cases = [case("Bo Roth", "Norway", "Denmark", "a"), case("Ada Brandt", "Japan", "Norway", "b"),
             case("Japan", "Peru", "Norway", "c"), case("Carl Meier", "Peru", "Japan", "d")]  # fmt: skip
    chosen, rest = with_hops(cases, FACTS, 2, 0)
    assert [c.id for c in chosen] == ["b", "d"] and [c.id for c in rest] == ["a"]
    assert {p.aspect for p in chosen[0].portability} == {MET}
    assert {p.aspect for p in chosen[1].portability} == {NEW}


def test_hard_questions_are_none_that_an_edit_in_force_answers() -> None:
    cases = [case("Ada Brandt", "Japan", "Norway", "a"), case("Bo Roth", "Peru", "Denmark", "b")]
    others = [case("Carl Meier", "Norway", "Japan", "c")]
    made = with_hard(cases, others, FACTS, encode, 0)
    asked = [{p.aspect: p for p in c.locality} for c in made]
    assert [set(a) for a in asked] == [
        {"unrelated", "other_relation", "absent", "near_miss"}, {"unrelated", "other_relation", "near_miss"},
    ]  # fmt: skip
    own = {p.format(s="Ada Brandt") for p in relations()["P27"].held_out_probes}
    assert "Ada Brandt" in asked[0]["other_relation"].prompt and asked[0]["other_relation"].prompt not in own
    assert asked[0]["absent"].prompt == others[0].generalization[0].prompt and asked[0]["absent"].answers == ("Japan",)
    near = [a["near_miss"].prompt for a in asked]
    assert not any(name in prompt for name in ("Ada Brandt", "Bo Roth") for prompt in near)
    there = encode([c.edit.statement for c in cases] + [c.edit.prompt for c in cases])
    scores = (encode(near) @ there.T).max(1)
    assert scores[0] >= scores[1]  # the nearest first
