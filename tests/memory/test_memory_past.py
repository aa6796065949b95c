"""Records: states, keys, versions; what was can be read and written again."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from memory_samples import CAPITAL, CONFIG, NOTE, TONGUE, FakeEncoder, OpenMemory
from test_memory_faults import CHILD

from lte import Edit
from lte.edits import EditError
from lte.memory import Author, EditMemory, EditTest, MemoryFault, Outdated, Record

NORDBY = Edit(CAPITAL.prompt, "Nordby", "Vorland")
NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


def test_a_record_is_found_by_its_best_view(memory: EditMemory) -> None:
    added = memory.add(NOTE, keys=["When can I come to you?"])
    assert [r.edit for r in memory.recall("when can I come to you")] == [added]
    assert memory.recall("when can I come to you")[0].score == pytest.approx(1.0, abs=1e-5)
    memory.change(added.id or "", keys=[])
    assert memory.recall("when can I come to you") == [] and memory.recall(NOTE.prompt)
    memory.change(added.id or "", keys=["May I visit today?"])
    assert memory.recall("may I visit today") and memory.verify() == []


@pytest.mark.parametrize("state", ["shadow", "quarantined", "disabled"])
def test_only_what_is_active_is_recalled(memory: EditMemory, state: Any) -> None:
    id = memory.add(CAPITAL).id or ""
    record = memory.set_state(id, state)
    assert memory.recall("capital of Vorland") == [] and memory.get(id).target_new == "Ostby"
    assert [r.edit.id for r in memory.recall("capital of Vorland", states=[state, "active"])] == [id]
    assert (record.version, record.seq, record.state) == (2, 2, state)
    assert memory.records(states=["active"]) == [] and memory.records(states=[state]) == [record]
    memory.set_state(id, "active")
    assert memory.recall("capital of Vorland")
    assert [c.kind for c in memory.history(id)] == [
        "add",
        {"shadow": "shadow", "quarantined": "quarantine", "disabled": "disable"}[state],
        "activate",
    ]


def test_a_record_keeps_what_a_change_does_not_name(open_memory: OpenMemory) -> None:
    memory, test = open_memory(), EditTest("Where does the king live?", "Ostby")
    id = memory.add(CAPITAL, keys=["king's town"], tests=[test], valid_until=NOON + timedelta(9999)).id or ""
    memory.update(id, NORDBY)
    record = memory.record(id)
    assert (record.edit, record.keys, record.tests, record.version) == (
        NORDBY.with_id(id),
        ("king's town",),
        (test,),
        2,
    )
    assert record.created is not None and record.updated is not None and record.created <= record.updated
    memory.close()
    assert open_memory().record(id) == record


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"state": "deleted"}, EditError, "state: 'deleted'; wanted one of active"),
        ({"keys": "a question"}, EditError, "keys: 'a question'; wanted a list"),
        ({"keys": ["<|eot_id|>"]}, EditError, "keys: holds the control token"),
        ({"tests": [{"prompt": "?", "value": "(", "match": "regex"}]}, EditError, "no regular expression"),
        ({"tests": [{"prompt": "?", "valu": "x"}]}, EditError, "is no test .*; one has prompt, value"),
        ({"valid_until": "2026-13-01"}, EditError, "valid_until: '2026-13-01'; wanted a time"),
        ({"namespace": "x"}, MemoryFault, "namespace: cannot be changed"),
    ],
)
def test_what_cannot_be_a_record_is_refused(memory: EditMemory, fields: Any, error: Any, message: str) -> None:
    id = memory.add(CAPITAL).id or ""
    with pytest.raises(error, match=message):
        memory.change(id, **fields)
    assert memory.seq == 1


def test_a_change_of_something_else_than_was_seen_is_refused(open_memory: OpenMemory) -> None:
    here, there = open_memory(), open_memory()
    id = here.add(CAPITAL).id or ""
    there.update(id, NORDBY)
    for call in (
        lambda: here.update(id, CAPITAL, expected=1),
        lambda: here.delete(id, expected=1),
        lambda: here.set_state(id, "disabled", expected=1),
        lambda: here.supersede(id, CAPITAL, expected=1),
    ):
        with pytest.raises(Outdated, match=r"was changed \(change 2, you saw 1\)"):
            call()
    here.delete(id, expected=2)
    assert there.list() == []


def test_what_was_written_last_stands_for_its_topic_only_while_it_is_in_force(memory: EditMemory) -> None:
    first = memory.add(CAPITAL)
    last = memory.add(NORDBY, valid_until=NOON + timedelta(9999)).id or ""
    asked = "The capital of Vorland is"
    assert [r.edit.id for r in memory.recall(asked)] == [last]
    assert [r.edit for r in memory.recall(asked, as_of=NOON + timedelta(9999))] == [first]
    memory.set_state(last, "quarantined")
    assert [r.edit for r in memory.recall(asked)] == [first]


def test_neither_of_two_changes_at_once_is_lost(open_memory: OpenMemory) -> None:
    here, there = open_memory(), open_memory()
    id, level = here.add(CAPITAL).id or "", here._mirror.level
    times = iter(range(99))

    def late() -> Any:
        now = level()
        if next(times) == 0:
            there.change(id, keys=["king's town"])  # between the look and the write
        return now

    here._mirror.level = late  # type: ignore[method-assign]
    here.update(id, NORDBY)
    record = here.record(id)
    assert (record.edit.target_new, record.keys, record.version, record.seq) == ("Nordby", ("king's town",), 3, 3)


def test_what_was_is_read_by_change_and_by_time(path: Path) -> None:
    clock = [NOON]
    with EditMemory.open(path, CONFIG, FakeEncoder(), clock=lambda: clock[0]) as memory:
        id = memory.add(CAPITAL).id or ""
        clock[0] += timedelta(hours=1)
        memory.update(id, NORDBY)
        clock[0] += timedelta(hours=1)
        memory.delete(id)
        memory.add(TONGUE)
        for as_of, target in ((1, "Ostby"), (2, "Nordby"), (NOON, "Ostby"), (NOON + timedelta(minutes=61), "Nordby")):
            assert memory.get(id, as_of).target_new == target
            assert [e.target_new for e in memory.list(as_of=as_of)] == [target]
            assert [r.edit.target_new for r in memory.recall("capital of Vorland", as_of=as_of)] == [target]
            assert memory.recall("capital of Vorland", as_of=as_of, namespace="other") == []
        for as_of in (0, 3, 4, NOON - timedelta(1), clock[0]):
            assert memory.recall("capital of Vorland", as_of=as_of) == []
            with pytest.raises(MemoryFault, match="no such edit"):
                memory.get(id, as_of)
        assert memory.recall("capital of Vorland") == [] and len(memory.recall("Ada Quill")) == 1
        for wrong in (5, -1, True, "yesterday", datetime(2026, 1, 1)):
            with pytest.raises(EditError, match="as_of: "):
                memory.list(as_of=wrong)  # type: ignore[arg-type]


def test_a_successor_at_once_and_at_a_time(memory: EditMemory) -> None:
    first = memory.add(CAPITAL, namespace="lands").id or ""
    second = memory.supersede(first, NORDBY, by=Author("ada"))
    assert (second.namespace, second.supersedes, second.version) == ("lands", first, 1)
    assert memory.record(first).state == "disabled"
    later = NOON + timedelta(9999)
    third = memory.supersede(second.id, CAPITAL, valid_from=later, keys=["king's town"])
    assert memory.record(second.id).valid_until == later == third.valid_from
    for at, id in ((later - timedelta(seconds=1), second.id), (later, third.id)):
        assert [r.edit.id for r in memory.recall("capital of Vorland", namespace="lands", as_of=at)] == [id]
    assert memory.conflicts(NOTE, "lands") == [] and [c.batch for c in memory.changes(3)] == [4, 4]
    with pytest.raises(MemoryFault, match="no such edit"):
        memory.supersede("e9", NOTE)


def test_roll_back_of_one_edit_of_a_write_and_to_a_point(memory: EditMemory) -> None:
    ids = [e.id or "" for e in memory.add_many([CAPITAL, TONGUE, NOTE])]
    memory.update(ids[0], NORDBY)
    memory.delete_many(ids[1:])  # 5, 6
    by = Author("bo", "a mistake")
    assert [(c.kind, c.by) for c in memory.rollback(ids=[ids[0]], by=by)] == [("rollback", by)]
    assert memory.get(ids[0]).target_new == "Ostby"
    assert memory.rollback(ids=[ids[0]]) and memory.get(ids[0]).target_new == "Nordby"  # undone, and done again
    memory.rollback(batch=5)
    assert [e.id for e in memory.list()] == ids and memory.recall("A. Quill")[0].edit.id == ids[1]
    assert memory.record(ids[1]).version == 3
    memory.rollback(to=3)
    assert [e.target_new for e in memory.list()] == ["Ostby", "Breton", "nine on Mondays"]
    assert memory.rollback(to=3) == []  # it is so
    memory.rollback(to=0, ids=[ids[2]])
    assert [e.id for e in memory.list()] == ids[:2]
    memory.rollback(to=0)
    assert memory.list() == [] and memory.verify() == []
    assert [c.kind for c in memory.history(ids[2])] == ["add", "delete", "rollback", "rollback"]


def test_a_write_that_others_built_on_is_not_rolled_back(memory: EditMemory) -> None:
    [a, b] = [e.id or "" for e in memory.add_many([CAPITAL, TONGUE])]
    memory.update(b, NOTE)
    with pytest.raises(Outdated, match=rf"id '{b}': was changed since"):
        memory.rollback(batch=1)
    assert [e.id for e in memory.list()] == [a, b]
    for wrong, message in (
        ({}, "got nothing"),
        ({"batch": 7}, "no write has the number 7"),
        ({"ids": ["e9"]}, "no such"),
    ):
        with pytest.raises(MemoryFault, match=message):
            memory.rollback(**wrong)
    with pytest.raises(MemoryFault, match="got a batch and more"):
        memory.rollback(to=1, batch=1)


def test_a_write_is_seen_in_another_process_at_once(open_memory: OpenMemory, path: Path) -> None:
    memory = open_memory()
    memory.add(TONGUE)
    code = (
        "import sys; from memory_samples import *\n"
        "memory = EditMemory.open(sys.argv[1], CONFIG, FakeEncoder())\n"
        "for line in sys.stdin: print(*(r.edit.target_new for r in memory.recall(line)), flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], env=CHILD, text=True, **pipes)  # type: ignore[call-overload]

    def asked() -> str:
        other.stdin.write("capital of Vorland\n")
        other.stdin.flush()
        return str(other.stdout.readline()).strip()

    assert asked() == ""
    id = memory.add(CAPITAL).id or ""
    assert asked() == "Ostby"
    memory.update(id, NORDBY)
    assert asked() == "Nordby"
    memory.set_state(id, "disabled")
    assert asked() == ""
    memory.rollback(to=2)
    assert asked() == "Ostby"
    other.communicate(timeout=20)


def test_a_record_without_a_memory_has_no_number() -> None:
    record = Record("", "default", CAPITAL)
    assert (record.seq, record.version, record.created) == (0, 0, None) and record.in_force(NOON)
