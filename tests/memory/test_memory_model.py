"""Any order of writes, reopenings, roll-backs and reads: the memory does what a dictionary with a history does."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_samples import CONFIG, FakeEncoder

from lte import Edit
from lte.memory import Author, ConflictFault, EditMemory, MemoryFault, Outdated, Record
from lte.memory.gate import words

BASE = datetime(2026, 1, 1, tzinfo=timezone.utc)
NAMES = ("Ada Quill", "Bo Reed", "Bo", "Cy Reed-Quill", "")
EDITS = st.builds(
    lambda subject, verb, answer, aliases: Edit(f"{subject} {verb}".strip(), answer, subject, aliases=aliases),
    st.sampled_from(NAMES),
    st.sampled_from(("speaks", "was born in", "plays the")),
    st.sampled_from(("Breton", "Ostby", "lute")),
    st.lists(st.sampled_from(("A. Q.", "the poet")), max_size=2, unique=True).map(tuple),
)
KEYS = st.lists(st.sampled_from(("who is it", "what about the town", "say more")), max_size=2, unique=True).map(tuple)
SPACES = st.sampled_from(("default", "other"))
STATES = st.sampled_from(("active", "shadow", "quarantined", "disabled"))
PICK = st.integers(0, 10**6)  # which of what is there; taken modulo how many there are
HOURS = st.integers(-4, 8)
WINDOWS = st.tuples(st.none() | HOURS, st.none() | HOURS).filter(lambda w: None in w or w[0] < w[1])
QUERIES = st.sampled_from(("Ada Quill speaks", "where was Bo Reed born", "the poet", "plays the lute", "say more"))


@dataclass(frozen=True)
class Held:
    """What the memory ought to hold under one id."""

    space: str
    edit: Edit
    keys: tuple[str, ...] = ()
    window: tuple[datetime | None, datetime | None] = (None, None)
    state: str = "active"
    supersedes: str | None = None

    def holds(self, at: datetime) -> bool:
        begin, end = self.window
        return (begin is None or begin <= at) and (end is None or at < end)

    def meets(self, other: Held) -> bool:
        starts = [b for b, _ in (self.window, other.window) if b]
        ends = [e for _, e in (self.window, other.window) if e]
        return not starts or not ends or max(starts) < min(ends)


def held(record: Record) -> Held:
    window = (record.valid_from, record.valid_until)
    return Held(record.namespace, record.edit, record.keys, window, record.state, record.supersedes)


def conflicting(new: Held, old: Held) -> bool:
    if new.space != old.space or old.state != "active" or not new.meets(old):
        return False

    def names(edit: Edit) -> set[tuple[str, ...]]:
        return {tuple(words(n)) for n in (edit.subject, *edit.aliases)} if edit.subject else set()

    one, two = names(new.edit), names(old.edit)
    verbs = [tuple(words(e.prompt))[len(words(e.subject)) :] for e in (new.edit, old.edit)]
    if one and two:
        return bool(one & two) and verbs[0] == verbs[1]
    same_prompt = words(new.edit.prompt) == words(old.edit.prompt)
    told = same_prompt and (bool(one or two) or len(words(new.edit.prompt)) >= 3)
    return told or words(new.edit.statement) == words(old.edit.statement)


class MemoryIsADictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "memory.db"
        self.encoder = FakeEncoder()
        self.now = BASE
        self.memory, self.beside = self.opened(), self.opened()
        self.there: dict[str, Held] = {}
        self.past: dict[str, list[Held | None]] = {}
        self.points: list[tuple[int, datetime, dict[str, Held]]] = [(0, BASE - timedelta(days=9), {})]
        self.batches: list[tuple[int, dict[str, Held | None], dict[str, int]]] = []
        self.latest = BASE

    def opened(self) -> EditMemory:
        return EditMemory.open(self.path, CONFIG, self.encoder, clock=lambda: self.now)

    def pick(self, number: int) -> str:
        return sorted(self.there)[number % len(self.there)]

    def wrote(self, first: int, after: dict[str, Held | None]) -> None:
        """Take over what one write left of each id that it changed."""
        before = {id: self.there.get(id) for id in after}
        for id, content in after.items():
            self.past.setdefault(id, []).append(content)
            self.there.pop(id, None)
            if content is not None:
                self.there[id] = content
        self.latest = max(self.latest, self.now)
        if after:
            self.batches.append((first, before, {id: len(self.past[id]) for id in after}))
        self.points.append((self.memory.seq, self.latest, dict(self.there)))

    def window(self, hours: tuple[int | None, int | None]) -> tuple[datetime | None, datetime | None]:
        begin, end = (None if h is None else BASE + timedelta(hours=h) for h in hours)
        return begin, end

    # --- writing

    @rule(edit=EDITS, space=SPACES)
    def add(self, edit: Edit, space: str) -> None:
        made, first = self.memory.add(edit, space), self.memory.seq
        self.wrote(first, {made.id or "": Held(space, made)})

    @rule(edits=st.lists(EDITS, max_size=3), space=SPACES)
    def add_many(self, edits: list[Edit], space: str) -> None:
        first = self.memory.seq + 1
        made = self.memory.add_many(edits, space)
        self.wrote(first, {e.id or "": Held(space, e) for e in made})

    @rule(edit=EDITS, space=SPACES, keys=KEYS, hours=WINDOWS, state=STATES)
    def add_whole(self, edit: Edit, space: str, keys: Any, hours: Any, state: Any) -> None:
        first, (begin, end) = self.memory.seq + 1, self.window(hours)
        [made] = self.memory.add_records([Record("", space, edit, keys, begin, end, state)])
        self.wrote(first, {made.id: Held(space, made.edit, keys, (begin, end), state)})

    @rule(edit=EDITS, space=SPACES, way=st.sampled_from(("refuse", "supersede")))
    def add_without_conflict(self, edit: Edit, space: str, way: Any) -> None:
        first, new = self.memory.seq + 1, Held(space, edit)
        found = {id: old for id, old in self.there.items() if conflicting(new, old)}
        if way == "refuse" and found:
            with pytest.raises(ConflictFault) as refused:
                self.beside.add(edit, space, on_conflict=way)
            assert {c.record.id for c in refused.value.conflicts} == found.keys() and self.memory.seq == first - 1
            return
        made = self.beside.add(edit, space, on_conflict=way)
        old = self.memory.record(made.id or "").supersedes
        assert (old in found) if found else old is None
        retired = {id: replace(h, state="disabled") for id, h in found.items()}
        self.wrote(first, {**retired, made.id or "": Held(space, made, supersedes=old)})

    @precondition(lambda self: self.there)
    @rule(n=PICK, edit=EDITS, beside=st.booleans())
    def update(self, n: int, edit: Edit, beside: bool) -> None:
        id, first = self.pick(n), self.memory.seq + 1
        made = (self.beside if beside else self.memory).update(id, edit)
        self.wrote(first, {id: replace(self.there[id], edit=made)})

    @precondition(lambda self: self.there)
    @rule(n=PICK, keys=KEYS)
    def change_keys(self, n: int, keys: Any) -> None:
        id, first = self.pick(n), self.memory.seq + 1
        self.memory.change(id, keys=keys, by=Author("ada"))
        self.wrote(first, {id: replace(self.there[id], keys=keys)})

    @precondition(lambda self: self.there)
    @rule(n=PICK, hours=WINDOWS)
    def change_validity(self, n: int, hours: Any) -> None:
        id, first, (begin, end) = self.pick(n), self.memory.seq + 1, self.window(hours)
        self.memory.change(id, valid_from=begin, valid_until=end)
        self.wrote(first, {id: replace(self.there[id], window=(begin, end))})

    @precondition(lambda self: self.there)
    @rule(n=PICK, state=STATES, beside=st.booleans())
    def set_state(self, n: int, state: Any, beside: bool) -> None:
        id, first = self.pick(n), self.memory.seq + 1
        (self.beside if beside else self.memory).set_state(id, state)
        self.wrote(first, {id: replace(self.there[id], state=state)})

    @precondition(lambda self: self.there)
    @rule(n=PICK, edit=EDITS, hour=st.none() | HOURS)
    def supersede(self, n: int, edit: Edit, hour: int | None) -> None:
        id, first, (begin, _) = self.pick(n), self.memory.seq + 1, self.window((hour, None))
        old = self.there[id]
        made = self.memory.supersede(id, edit, **({} if begin is None else {"valid_from": begin}))
        if begin is None or (old.window[0] and old.window[0] >= begin):
            after = replace(old, state="disabled")
        else:
            end = old.window[1]
            after = replace(old, window=(old.window[0], begin if end is None else min(begin, end)))
        self.wrote(first, {id: after, made.id: Held(old.space, made.edit, window=(begin, None), supersedes=id)})

    @precondition(lambda self: self.there)
    @rule(numbers=st.lists(PICK, min_size=1, max_size=2))
    def delete(self, numbers: list[int]) -> None:
        ids, first = {self.pick(n) for n in numbers}, self.memory.seq + 1
        if len(ids) == 1:
            self.memory.delete(*ids)
        else:
            self.memory.delete_many(ids)
        self.wrote(first, dict.fromkeys(ids))

    @precondition(lambda self: self.past)
    @rule(n=PICK)
    def roll_back_one(self, n: int) -> None:
        id, first = sorted(self.past)[n % len(self.past)], self.memory.seq + 1
        *before, now = self.past[id]
        then = before[-1] if before else None
        self.memory.rollback(ids=[id])
        self.wrote(first, {id: then} if then != now else {})

    @precondition(lambda self: self.batches)
    @rule(n=PICK)
    def roll_back_a_write(self, n: int) -> None:
        number, before, lengths = self.batches[n % len(self.batches)]
        first = self.memory.seq + 1
        if any(len(self.past[id]) != length for id, length in lengths.items()):
            with pytest.raises(Outdated):
                self.memory.rollback(batch=number)
            return
        self.memory.rollback(batch=number)
        self.wrote(first, {id: then for id, then in before.items() if then != self.there.get(id)})

    @rule(n=PICK, by_time=st.booleans())
    def roll_back_to_a_point(self, n: int, by_time: bool) -> None:
        first = self.memory.seq + 1
        seq, at, then = self.points[n % len(self.points)]
        if by_time:
            then = [state for _, time, state in self.points if time <= at][-1]
        self.beside.rollback(to=at if by_time else seq)
        concerned = self.there.keys() | then.keys()
        self.wrote(first, {id: then.get(id) for id in concerned if then.get(id) != self.there.get(id)})

    @rule(space=SPACES)
    def export_and_import(self, space: str) -> None:
        first, file = self.memory.seq + 1, Path(self.folder.name) / "out.jsonl"
        sent = {id: h for id, h in self.there.items() if h.space == space}
        if len(sent) > 4:
            return
        assert self.memory.export_jsonl(file, space) == len(sent)
        made = self.beside.import_jsonl(file, "imported")
        contents = [replace(h, space="imported", supersedes=None) for _, h in sorted(sent.items())]
        self.wrote(first, {e.id or "": replace(h, edit=e) for e, h in zip(made, contents, strict=True)})

    # --- around it

    @rule(hours=st.integers(-1, 3))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(kept=st.booleans())
    def reopen(self, kept: bool) -> None:
        if kept:
            self.memory.close()
        else:
            self.memory._store.close()  # without writing the index file
        self.memory = self.opened()

    @rule()
    def rebuild(self) -> None:
        self.memory.rebuild()

    @rule()
    def sign(self) -> None:
        assert self.memory.checkpoint().seq == self.memory.seq

    @rule()
    def verify(self) -> None:
        assert self.memory.verify() == [] == self.beside.verify()

    # --- reading

    @rule(query=QUERIES, space=SPACES, state=STATES, n=st.none() | PICK)
    def recall(self, query: str, space: str, state: Any, n: int | None) -> None:
        there, at, when = self.there, self.now, {}
        if n is not None:
            seq, at, there = self.points[n % len(self.points)]
            when = {"as_of": seq}
            at = at if seq else self.now
        found = self.memory.recall(query, k=100, namespace=space, states=[state], **when)
        assert found == self.beside.recall(query, k=100, namespace=space, states=[state], **when)
        for recalled in found:
            wanted = there[recalled.edit.id or ""]
            assert (wanted.space, wanted.state, wanted.edit) == (space, state, recalled.edit) and wanted.holds(at)
        near = self.memory.search(query, k=100, namespace=space, states=[state], **when)
        assert {r.edit.id for r in near if r.in_play} == {r.edit.id for r in found}
        assert all(there[r.edit.id or ""].state == state and there[r.edit.id or ""].holds(at) for r in near)

    @precondition(lambda self: self.there)
    @rule(n=PICK)
    def its_own_words_find_an_edit(self, n: int) -> None:
        id = self.pick(n)
        h = self.there[id]
        found = {r.edit.prompt for r in self.memory.recall(h.edit.prompt, k=100, namespace=h.space)}
        if h.state == "active" and h.holds(self.now):
            assert h.edit.prompt in found
        assert id not in {r.edit.id for r in self.memory.search("x", k=100, namespace="nowhere")}

    @rule(n=PICK, by_time=st.booleans(), space=st.none() | SPACES)
    def what_was(self, n: int, by_time: bool, space: str | None) -> None:
        seq, at, then = self.points[n % len(self.points)]
        if by_time:
            then = [state for _, time, state in self.points if time <= at][-1]
        as_of: Any = at if by_time else seq
        wanted = {id: h for id, h in then.items() if space in (None, h.space)}
        assert {r.id: held(r) for r in self.memory.records(space, as_of)} == wanted
        for id in self.past:
            if id in then:
                assert self.memory.get(id, as_of) == then[id].edit
            else:
                with pytest.raises(MemoryFault, match="no such edit"):
                    self.memory.get(id, as_of)

    @precondition(lambda self: self.past)
    @rule(n=PICK)
    def history(self, n: int) -> None:
        id = sorted(self.past)[n % len(self.past)]
        assert [c.record and held(c.record) for c in self.beside.history(id)] == self.past[id]

    @rule(edit=EDITS, space=SPACES, hours=WINDOWS)
    def conflicts(self, edit: Edit, space: str, hours: Any) -> None:
        window = self.window(hours)
        found = self.memory.conflicts(edit, space, valid_from=window[0], valid_until=window[1])
        new = Held(space, edit, window=window)
        assert {c.record.id for c in found} == {id for id, old in self.there.items() if conflicting(new, old)}
        for conflict in found:
            same = words(conflict.record.edit.target_new) == words(edit.target_new)
            assert (conflict.kind == "duplicate") == (same or conflict.record.edit.statement == edit.statement)

    @invariant()
    def holds_what_was_written(self) -> None:
        for memory in (self.memory, self.beside):
            assert {r.id: held(r) for r in memory.records()} == self.there
            assert len(memory) == len(self.there)

    def teardown(self) -> None:
        assert self.memory.verify() == [] == self.beside.verify()
        self.memory.close()
        self.beside.close()
        self.folder.cleanup()


TestMemoryIsADictionary = MemoryIsADictionary.TestCase
TestMemoryIsADictionary.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
