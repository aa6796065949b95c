"""Every way to change a memory: the new records are made from the newest state, and written if that still stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from lte.memory.change import Change, Draft
from lte.memory.conflicts import Alike, Conflict, between, conflicts, names
from lte.memory.encoder import Encoder, Vectors, checked_vectors
from lte.memory.fault import ConflictFault, MemoryFault, Outdated
from lte.memory.gate import words
from lte.memory.index import Index, views
from lte.memory.mirror import Mirror
from lte.memory.record import Author, Record, State
from lte.memory.store import Stale, Store, unknown

OnConflict = Literal["refuse", "coexist", "supersede"]
TRIES = 1000  # another process may be quicker so often before a write gives up
KIND: dict[State, str] = {
    "active": "activate",
    "shadow": "shadow",
    "quarantined": "quarantine",
    "disabled": "disable",
}
CHANGEABLE = ("edit", "keys", "valid_from", "valid_until", "state", "tests")


@dataclass
class Writer:
    """Writes to the store; acknowledged only once the index has it."""

    store: Store
    mirror: Mirror
    encoder: Encoder
    alike: Alike
    lock: threading.RLock  # threads take turns here rather than at the file's lock, which is not fair
    closed: Callable[[], None]  # raises where the memory was closed

    def add(self, records: Sequence[Record], by: Author, on_conflict: OnConflict) -> list[Record]:
        """New records under ids of their own."""
        if on_conflict not in get_args(OnConflict):
            raise MemoryFault(f"on_conflict: got {on_conflict!r}; wanted one of {', '.join(get_args(OnConflict))}")
        fresh = [replace(r, id="", seq=0, version=0, created=None, updated=None) for r in records]
        encoded = self.mirror.encode(fresh)

        def make(index: Index) -> list[Draft]:
            added, retired = fresh, dict[str, Draft]()
            if on_conflict != "coexist":
                found = [self.conflicts(record, index) for record in fresh]
                within = self._within(fresh)  # of two new ones neither can take the other's place
                if within or (on_conflict == "refuse" and any(found)):
                    raise ConflictFault([c for some in (*found, within) for c in some])
                retired = {c.record.id: self._retire(c.record, r) for r, some in zip(fresh, found) for c in some}
                added = [replace(r, supersedes=some[0].record.id) if some else r for r, some in zip(fresh, found)]
            return [*retired.values(), *(Draft("add", r, r.namespace, views=v) for r, v in zip(added, encoded))]

        changes = self.write(make, by, exact=on_conflict != "coexist")
        return [c.record for c in changes if c.kind == "add" and c.record is not None]

    def change(
        self, id: str, fields: dict[str, Any], by: Author, expected: int | None, on_conflict: OnConflict, kind: str
    ) -> Record:
        """The record with other values in some fields."""
        if unknown_names := sorted(set(fields) - set(CHANGEABLE)):
            raise MemoryFault(f"{unknown_names[0]}: cannot be changed; a record has {', '.join(CHANGEABLE)}")

        def make(index: Index) -> list[Draft]:
            old = self.current(index, id, expected)
            new = replace(old, **fields)
            retired: list[Draft] = []
            if on_conflict != "coexist" and new.state == "active":
                found = self.conflicts(new, index, but=[id])
                if found and on_conflict == "refuse":
                    raise ConflictFault(found)
                retired = [self._retire(conflict.record, new) for conflict in found]
            return [*retired, self._draft(kind, old, new)]

        [*_, last] = self.write(make, by, exact=on_conflict != "coexist")
        assert last.record is not None
        return last.record

    def supersede(self, id: str, new: Record, by: Author, expected: int | None, on_conflict: OnConflict) -> Record:
        """A new record in the place of one, which holds until the new begins; disabled where that is at once."""
        [encoded] = self.mirror.encode([new])

        def make(index: Index) -> list[Draft]:
            old = self.current(index, id, expected)
            record = replace(new, namespace=old.namespace, supersedes=id)
            found = [] if on_conflict == "coexist" else self.conflicts(record, index, but=[id])
            if found and on_conflict == "refuse":
                raise ConflictFault(found)
            retired = [self._retire(r, record) for r in (old, *(c.record for c in found))]
            return [*retired, Draft("add", record, record.namespace, views=encoded)]

        [*_, last] = self.write(make, by, exact=on_conflict != "coexist")
        assert last.record is not None
        return last.record

    def delete(self, ids: Sequence[str], by: Author, expected: int | None) -> list[Change]:
        """Take records away; the log keeps what they were."""

        def make(index: Index) -> list[Draft]:
            old = [self.current(index, id, expected) for id in dict.fromkeys(ids)]
            return [Draft("delete", None, r.namespace, r.id, r.seq) for r in old]

        return self.write(make, by)

    def restore(self, ids: Sequence[str], to: dict[str, Record], by: Author, seen: dict[str, int]) -> list[Change]:
        """Give records back the content that `to` has for them; those it has not are taken away.

        seen  the newest change of a record that may be undone; where another came since, `Outdated` is raised
        """

        def make(index: Index) -> list[Draft]:
            drafts = []
            for id in ids:
                entry, then = index.get(id), to.get(id)
                now = None if entry is None else entry.record
                if id in seen and seen[id] != (now.seq if now else self.store.history(id)[-1].seq):
                    raise Outdated(f"id {id!r}: was changed since; roll that back first, or roll back to a point")
                if then is None and now is not None:
                    drafts.append(Draft("rollback", None, now.namespace, id, now.seq))
                elif then is not None and (now is None or _content(now) != _content(then)):
                    drafts.append(self._restored(then, now))
            return drafts

        return self.write(make, by)

    def conflicts(self, record: Record, index: Index, but: Iterable[str] = ()) -> list[Conflict]:
        """The records that `record` does not go together with."""
        return conflicts(record, index, self.alike, self._encoded, but) if len(index) else []

    def write(self, make: Callable[[Index], list[Draft]], by: Author, exact: bool = False) -> list[Change]:
        """Write what `make` makes of the newest state; where another process came in between, it is made again.

        exact  the drafts rest on all of the log, not on the records that they change alone
        """
        if not isinstance(by, Author):
            raise MemoryFault(f"by: got {by!r:.80}; wanted an Author(actor=..., reason=..., ticket=..., source=...)")
        with self.lock:
            for _ in range(TRIES):
                self.closed()
                index, last = self.mirror.level()
                drafts = make(index)
                if not drafts:
                    return []
                if self.store.encoder() is None:
                    self.store.encode_with(self.encoder.id, self.encoder.dim, {})
                try:
                    changes = self.store.append(drafts, self.encoder.id, by, last if exact else None)
                except Stale:
                    continue
                self.mirror.index()  # acknowledged only once it is searchable
                return changes
        raise MemoryFault(f"{self.store.path}: others change these edits faster than this write is made; try again")

    def current(self, index: Index, id: str, expected: int | None = None) -> Record:
        """The newest record of an id; with `expected`, only where it is still that of the change a caller saw."""
        entry = index.get(id)
        if entry is None or entry.record is None:
            raise unknown(self.store.path, id)
        if expected is not None and entry.seq != expected:
            raise Outdated(f"id {id!r}: was changed (change {entry.seq}, you saw {expected}); look at it and try again")
        return entry.record

    def _draft(self, kind: str, old: Record, new: Record) -> Draft:
        if views(old.edit, old.keys) == views(new.edit, new.keys):
            return Draft(kind, new, old.namespace, old.id, old.seq, like=old.seq)
        return Draft(kind, new, old.namespace, old.id, old.seq, views=self.mirror.encode([new])[0])

    def _restored(self, then: Record, now: Record | None) -> Draft:
        """`then` in the place of `now`, or of the deletion that took it away."""
        history = [] if now is not None else self.store.history(then.id)
        version, last = (len(history), history[-1].seq) if now is None else (now.version, now.seq)
        like = then.seq if self.store.views([then.seq], self.encoder.id, self.encoder.dim) else None
        encoded = None if like else self.mirror.encode([then])[0]
        return Draft("rollback", replace(then, version=version), then.namespace, then.id, last, encoded, like)

    def _retire(self, old: Record, new: Record) -> Draft:
        """`old` to hold until `new` begins; disabled where that is at once, or where it would begin later itself."""
        start = new.valid_from
        if start is None or (old.valid_from is not None and old.valid_from >= start):
            record = replace(old, state="disabled")
        else:
            record = replace(old, valid_until=start if old.valid_until is None else min(old.valid_until, start))
        return Draft("supersede", record, old.namespace, old.id, old.seq, like=old.seq)

    def _within(self, records: Sequence[Record]) -> list[Conflict]:
        """The conflicts of records with those in front of them in the same write."""
        if len(records) < 2:
            return []
        groups: dict[Any, list[Record]] = {}
        found = []
        for n, record in enumerate(records):
            record = replace(record, id=f"#{n + 1}")
            marks = {
                (record.namespace, name) for name in (*names(record.edit), ("prompt:", *words(record.edit.prompt)))
            }
            others = {other.id: other for mark in marks for other in groups.get(mark, ())}
            found += between(record, others.values(), self.alike, self._encoded)
            for mark in marks:
                groups.setdefault(mark, []).append(record)
        return found

    def _encoded(self, texts: Sequence[str]) -> Vectors:
        return checked_vectors(self.encoder, texts)


def _content(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in (*CHANGEABLE, "supersedes")}
