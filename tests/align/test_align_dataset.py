"""The parallel dataset: every role is there, answers come from where they should, nothing leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from lte.align.dataset import AlignError, DatasetConfig, build, describe, refuse_leaks
from lte.edits import Case, Edit, Probe
from lte.prompt import ASK, HEADER


class Parrot:
    """A model whose own answer to a query can be told from any gold answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, queries: Sequence[str]) -> list[str]:
        self.asked += queries
        return [f"own({q})" for q in queries]


def case(i: int, relation: str = "P103") -> Case:
    subject = f"Person{i:02d}"
    return Case(
        id=str(i),
        edit=Edit(f"The mother tongue of {subject} is", f"Target{i:02d}", subject),
        generalization=(Probe(f"What is {subject}'s native language?", (f"Target{i:02d}",)),),
        portability=(Probe(f"Which script does {subject} write?", (f"Script{i:02d}", "alias")),),
        locality=(
            Probe(f"Where was {subject} born?", (), "same_subject"),
            Probe(f"The mother tongue of Neighbour{i:02d} is", (), "same_relation"),
            Probe("What is the capital of Peru?", ("Lima",), "Forgetfulness"),
        ),
        tags={"relation": relation},
    )


CASES = [case(i, "P103" if i % 2 else "P19") for i in range(40)]


def edits_in(prompt: str) -> list[str]:
    return [line[2:] for line in prompt.splitlines() if line.startswith("- ")]


def query_of(prompt: str) -> str:
    return prompt.partition(f"{ASK} ")[2] or prompt


def test_every_role_is_there_and_a_seed_gives_the_same_rows():
    rows = build(CASES, Parrot(), DatasetConfig())
    assert rows == build(CASES, Parrot(), DatasetConfig())
    assert rows != build(CASES, Parrot(), DatasetConfig(seed=1))
    roles = Counter(r.role for r in rows)
    assert set(roles) == {
        "in scope", "same subject", "same relation", "unrelated", "true edit absent", "twin without edit",
    }  # fmt: skip
    assert describe(rows)["roles"] == dict(roles)


def test_in_scope_answers_are_the_edits_and_all_others_the_models_own():
    for row in build(CASES, Parrot(), DatasetConfig()):
        query = query_of(row.prompt)
        if row.role == "in scope":
            assert row.answer.startswith(("Target", "Script"))
            number = row.answer[-2:]
            assert any(f"Person{number}" in e and f"Target{number}" in e for e in edits_in(row.prompt))
        else:
            assert row.answer == f"own({query})"


def test_the_true_edit_stands_in_every_place_and_is_absent_where_the_role_says_so():
    rows = build(CASES, Parrot(), DatasetConfig(in_scope=3, distractors=(0, 0, 1.0)))
    places = Counter()
    for row in rows:
        subject = next((w for w in query_of(row.prompt).replace("'s", "").split() if w.startswith("Person")), None)
        holding = [i for i, e in enumerate(edits_in(row.prompt)) if subject and subject in e]
        if row.role == "in scope":
            places.update(holding)
        if row.role == "true edit absent":
            assert edits_in(row.prompt) and not holding
        if row.role == "same subject":
            assert len(holding) == 1
    assert set(places) == {0, 1, 2} and min(places.values()) > 0.2 * max(places.values())


def test_a_twin_is_the_bare_question():
    twins = [r for r in build(CASES, Parrot(), DatasetConfig()) if r.role == "twin without edit"]
    assert twins and all(HEADER not in r.prompt for r in twins)


def test_no_subject_stands_twice_among_the_edits_of_a_prompt():
    for row in build(CASES, Parrot(), DatasetConfig(distractors=(0, 0, 0, 1.0), near=1.0)):
        subjects = [w for e in edits_in(row.prompt) for w in e.split() if w.startswith("Person")]
        assert len(subjects) == len(set(subjects))


def test_the_model_is_asked_once_for_each_question_without_any_edit():
    model = Parrot()
    build(CASES, model, DatasetConfig())
    assert len(model.asked) == len(set(model.asked))
    assert not any(HEADER in q for q in model.asked)


def test_an_empty_own_answer_gives_no_row():
    class Silent:
        def answer(self, queries: Sequence[str]) -> list[str]:
            return [""] * len(queries)

    assert {r.role for r in build(CASES, Silent(), DatasetConfig())} == {"in scope"}


def test_too_few_subjects_and_leaks_are_refused():
    with pytest.raises(AlignError, match="fewer than two subjects"):
        build(CASES[:1], Parrot(), DatasetConfig())
    refuse_leaks(CASES[:20], CASES[20:])
    with pytest.raises(AlignError, match=r"1 subjects .*Person19.*remove them"):
        refuse_leaks(CASES[:20], CASES[19:])
