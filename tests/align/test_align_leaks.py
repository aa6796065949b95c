"""What is evaluated on is not trained on: subjects, aliases and probes are removed, and what is left is refused."""

from __future__ import annotations

import pytest

from lte.align.dataset import AlignError
from lte.align.leaks import Guard, Leak
from lte.align.sources import Stated
from lte.edits import Case, Edit, Probe

HELD = Case(
    "e1",
    Edit("The outflow of Lake Ormen is", "Arl", "Lake Ormen", aliases=("Ormen Water",)),
    generalization=(Probe("What flows out of Lake Ormen?", ("Arl",)),),
    locality=(Probe("The depth of Lake Sund is", ("nine",)),),
)
GUARD = {"eval.jsonl": [HELD]}


def about(subject: str, prompt: str = "", **probes: tuple[Probe, ...]) -> Case:
    return Case("t1", Edit(prompt or f"The owner of {subject} is", "Hale", subject), **probes)


@pytest.mark.parametrize("name", ["Lake Ormen", "lake  ORMEN", "Ormen Water", "Ｌake Ormen"])
def test_a_case_about_an_evaluated_subject_or_alias_is_removed_and_reported(name: str):
    guard = Guard.of(GUARD)
    assert guard.keep("mine", about(name)) is None
    [leak] = guard.removed
    assert (leak.source, leak.item, leak.what, leak.file) == ("mine", "t1", "subject", "eval.jsonl")


def test_an_alias_of_a_training_case_counts_too():
    guard = Guard.of(GUARD)
    case = Case("t1", Edit("Its owner is", "Hale", "The old water", aliases=("Lake Ormen",)))
    assert guard.keep("mine", case) is None


def test_a_probe_that_is_evaluated_goes_alone():
    guard = Guard.of(GUARD)
    probes = (Probe("the depth of lake Sund is?", ("x",)), Probe("The depth of Lake Maar is", ("y",)))
    left = guard.keep("mine", about("Lake Sund", locality=probes))
    assert left == about("Lake Sund", locality=probes[1:])
    assert guard.removed == [Leak("mine", "t1", "probe", "the depth of lake Sund is?", "eval.jsonl")]


def test_an_edit_that_states_an_evaluated_prompt_is_removed():
    guard = Guard.of(GUARD)
    assert guard.keep("mine", about("depth", "The depth of Lake Sund is")) is None
    assert guard.removed[0].what == "prompt"


def test_items_without_a_subject_are_searched_for_names_and_prompts():
    guard = Guard.of(GUARD)
    assert guard.keep("s", Stated("1", "Who?", "x", ("In 1904 Lake Ormen froze over",), "in")) is None
    assert guard.keep("s", Case("2", Edit("The ice of Lake Ormen is", "thin"))) is None
    assert guard.keep("s", Stated("3", "Tell me: what flows out of Lake Ormen? Be brief.", "x")) is None
    kept = Stated("4", "Is Lake Orm large?", "x", ("Lake Ormenia froze over",), "in")
    assert guard.keep("s", kept) is kept
    assert [(leak.item, leak.what) for leak in guard.removed] == [("1", "subject"), ("2", "subject"), ("3", "prompt")]


def test_the_rest_passes_as_it_is():
    guard, case = Guard.of(GUARD), about("Lake Maar", generalization=(Probe("Who owns Lake Maar?"),))
    assert guard.keep("mine", case) is case and not guard.removed


def test_training_on_an_evaluation_prompt_is_refused():
    guard = Guard.of(GUARD)
    guard.refuse(["The depth of Lake Maar is", "What flows out of Lake Ormensund?"])
    with pytest.raises(AlignError, match=r"2 rows hold a prompt .*'what flows out of lake ormen' of eval.jsonl; build"):
        guard.refuse(["fine", "[Question] What flows out of LAKE Ormen", "The depth of Lake Sund is nine"])
