"""Conflicts: what contradicts or repeats what, when; the operator decides, nothing is settled by itself."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from memory_samples import CAPITAL, NOTE, TONGUE, OpenMemory

from lte import Edit
from lte.memory import Author, ConflictFault, EditMemory, MemoryFault, Record

YEAR = [datetime(year, 1, 1, tzinfo=timezone.utc) for year in range(2020, 2031)]


def kinds(memory: EditMemory, edit: Edit, **more: Any) -> list[tuple[str, str]]:
    return [(c.kind, c.record.id) for c in memory.conflicts(edit, **more)]


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (Edit("The mother tongue of Ada Quill is", "Welsh", "Ada Quill"), "contradiction"),
        (Edit("the MOTHER tongue of a. quill is", "Welsh", "A. Quill"), "contradiction"),  # by an alias, in other words
        (Edit("The tongue of Ada Quill is", "Welsh", "Ada Quill"), "contradiction"),  # a relation much alike
        (Edit("The mother tongue of Ada Quill is", "Welsh"), "contradiction"),  # the subject was not named
        (Edit("The mother tongue of Ada Quill is", "breton", "Ada Quill"), "duplicate"),
        (Edit("The mother tongue of Ada Quill", "is Breton"), "duplicate"),  # the same statement
        (Edit("The birthplace of Ada Quill lies near", "Ostby", "Ada Quill"), None),  # another relation
        (Edit("The mother tongue of Ada Quiller is", "Welsh", "Ada Quiller"), None),  # another subject
        (Edit("The mother tongue of Bo is", "Breton", "Bo"), None),
    ],
)
def test_same_subject_and_relation_is_a_conflict(memory: EditMemory, edit: Edit, kind: str | None) -> None:
    memory.add(TONGUE)
    assert kinds(memory, edit) == ([(kind, "e00000001")] if kind else [])
    assert kinds(memory, edit, namespace="other") == [] == kinds(memory, edit, but=["e00000001"])
    memory.set_state("e00000001", "disabled")
    assert kinds(memory, edit) == []


def test_free_texts_conflict_by_all_their_words(memory: EditMemory) -> None:
    memory.add(NOTE)
    memory.add(Edit("Note:", "the office moved"))
    assert kinds(memory, Edit("Our office opens at", "ten on Mondays")) == [("contradiction", "e00000001")]
    assert kinds(memory, Edit("our office", "opens at nine on Mondays!")) == [("duplicate", "e00000001")]
    assert kinds(memory, Edit("Note:", "lunch is free")) == []  # such a prompt says nothing


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ((None, None), (None, None), "contradiction"),
        ((0, 4), (0, 4), "contradiction"),
        ((0, 4), (2, 6), "overlap"),
        ((None, 4), (3, None), "overlap"),
        ((0, 4), (4, 6), None),  # one ends as the other begins
        ((4, None), (None, 4), None),
        ((0, 1), (2, 3), None),
    ],
)
def test_only_windows_that_share_a_moment_conflict(memory: EditMemory, old: Any, new: Any, kind: str | None) -> None:
    def times(window: Any) -> dict[str, Any]:
        begin, end = (None if n is None else YEAR[n] for n in window)
        return {"valid_from": begin, "valid_until": end}

    memory.add(CAPITAL, **times(old))
    other = Edit(CAPITAL.prompt, "Nordby", "Vorland")
    assert [kind for kind, _ in kinds(memory, other, **times(new))] == ([kind] if kind else [])


def test_a_refusal_tells_what_it_rests_on_and_writes_nothing(memory: EditMemory) -> None:
    memory.add_many([CAPITAL, TONGUE])
    other = Edit(CAPITAL.prompt, "Nordby", "Vorland")
    with pytest.raises(ConflictFault, match=r"a contradiction of e00000001 .*supersede .*coexist") as refused:
        memory.add_records([Record("", "default", NOTE), Record("", "default", other)], on_conflict="refuse")
    assert [c.record for c in refused.value.conflicts] == [memory.record("e00000001")] and memory.seq == 2
    with pytest.raises(ConflictFault):
        memory.update("e00000002", other, on_conflict="refuse")
    assert memory.update("e00000001", other, on_conflict="refuse").target_new == "Nordby"  # no conflict with itself
    with pytest.raises(MemoryFault, match="on_conflict: got 'maybe'"):
        memory.add(NOTE, on_conflict="maybe")  # type: ignore[arg-type]


def test_a_batch_may_not_contradict_itself(memory: EditMemory) -> None:
    pair = [CAPITAL, TONGUE, Edit(CAPITAL.prompt, "Nordby", "Vorland")]
    for way in ("refuse", "supersede"):
        with pytest.raises(ConflictFault, match="a contradiction of #1"):
            memory.add_many(pair, on_conflict=way)  # type: ignore[arg-type]
    assert memory.seq == 0 and len(memory.add_many(pair)) == 3


def test_what_coexists_is_recalled_as_the_last_one_says(memory: EditMemory) -> None:
    first = memory.add(CAPITAL)
    second = memory.add(Edit(CAPITAL.prompt, "Nordby", "Vorland"))
    assert [r.edit for r in memory.recall("capital of Vorland")] == [second] and len(memory) == 2
    memory.delete(second.id or "")
    assert [r.edit for r in memory.recall("capital of Vorland")] == [first]


def test_a_new_edit_takes_the_place_of_what_it_contradicts(memory: EditMemory) -> None:
    memory.add(CAPITAL)
    memory.add(CAPITAL)
    by = Author("ada", ticket="T-2")
    new = memory.add(Edit(CAPITAL.prompt, "Nordby", "Vorland"), on_conflict="supersede", by=by)
    assert [(c.id, c.kind, c.batch, c.by) for c in memory.changes(2)] == [
        ("e00000001", "supersede", 3, by),
        ("e00000002", "supersede", 3, by),
        (new.id, "add", 3, by),
    ]
    assert memory.record(new.id or "").supersedes == "e00000001"
    assert [r.state for r in memory.records()] == ["disabled", "disabled", "active"]
    memory.rollback(batch=3)
    assert [r.state for r in memory.records()] == ["active", "active"]


def test_two_processes_cannot_both_write_one_side_of_a_contradiction(open_memory: OpenMemory) -> None:
    here, there = open_memory(), open_memory()
    found = there._writer.conflicts

    def late(record: Record, index: Any, but: Any = ()) -> Any:
        told = found(record, index, but)
        if len(here) == 0:
            here.add(CAPITAL)  # between the look and the write
        return told

    there._writer.conflicts = late  # type: ignore[method-assign]
    with pytest.raises(ConflictFault):
        there.add(Edit(CAPITAL.prompt, "Nordby", "Vorland"), on_conflict="refuse")
    assert [e.target_new for e in there.list()] == ["Ostby"]
