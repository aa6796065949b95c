"""Calibration: the thresholds that recall most within a budget of false fires."""

from __future__ import annotations

import pytest
from memory_samples import FakeEncoder

from lte import Case, Edit, Probe
from lte.memory import MemoryFault
from lte.memory.calibrate import calibrate, measure, queries_of

CASES = [
    Case(
        id=str(i),
        edit=Edit(f"The mother tongue of Robot {i} is", "oil", subject=f"Robot {i}"),
        generalization=(Probe(f"It rained. Robot {i} grew up with the mother tongue"),),
        portability=(Probe("Oil is spoken in"),),
        locality=(Probe(f"The mother tongue of Person {i} is"), Probe(f"Robot {i} eats very many green apples daily")),
    )
    for i in range(12)
]


def test_cases_give_their_queries() -> None:
    edits, inside, outside = queries_of(CASES[:2])
    assert edits == [case.edit for case in CASES[:2]]
    assert inside[2:] == [(CASES[1].edit.prompt, 1), (CASES[1].generalization[0].prompt, 1)]
    assert outside == [probe.prompt for case in CASES[:2] for probe in case.locality]


def test_the_thresholds_keep_edits_apart_from_what_they_do_not_concern() -> None:
    encoder = FakeEncoder()
    found = calibrate(encoder, *queries_of(CASES), max_false_fire=0.05)
    assert (found.best.recall, found.best.false_fire, found.dropped) == (1.0, 0.0, 0)
    assert found.thresholds.named > found.thresholds.mentioned
    again = measure(encoder, found.thresholds, *queries_of(CASES))
    assert (again.recall, again.false_fire) == (1.0, 0.0)


def test_more_is_recalled_and_more_fires_the_lower_the_thresholds() -> None:
    found = calibrate(FakeEncoder(), *queries_of(CASES))
    for trials in (found.with_subject, found.without_subject):
        loosest = min(trials, key=lambda t: (t.thresholds.named, t.thresholds.mentioned, t.thresholds.free))
        assert all(t.recall <= loosest.recall and t.false_fire <= loosest.false_fire for t in trials)
    assert loosest.false_fire > 0.4


def test_a_query_that_is_the_prompt_of_an_edit_is_no_false_fire() -> None:
    edits, inside, outside = queries_of(CASES)
    found = calibrate(FakeEncoder(), edits, inside, [*outside, "the mother tongue of ROBOT 3 is"])
    assert found.dropped == 1


def test_a_budget_that_cannot_be_kept_gives_the_quietest_setting() -> None:
    edits, inside, _ = queries_of(CASES)
    loud = [f"{edit.prompt} it" for edit in edits]
    found = calibrate(FakeEncoder(), edits, inside, loud, max_false_fire=0.0)
    assert found.best.false_fire == min(t.false_fire for t in found.with_subject)


def test_calibration_needs_both_kinds_of_query() -> None:
    with pytest.raises(MemoryFault, match="got 1 edits, 2 in-scope and 0 out-of-scope queries"):
        edits, inside, _ = queries_of(CASES[:1])
        calibrate(FakeEncoder(), edits, inside, [])
