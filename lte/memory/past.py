"""What was: a number or a moment as a state of the log, and what a roll-back has to bring back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from lte.edits import EditError
from lte.memory import validity
from lte.memory.fault import MemoryFault
from lte.memory.record import Record
from lte.memory.store import Store

Target = tuple[list[str], dict[str, Record], dict[str, int]]


@dataclass(frozen=True)
class Moment:
    """A state of the log, by the number of its last change, and the time at which its records are looked at."""

    seq: int
    at: datetime


class Past:
    """Looks back in the log of a store."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock

    def resolve(self, as_of: int | datetime) -> Moment:
        """The state that `as_of` names: after a change, at the time of that change; or at a moment."""
        if isinstance(as_of, bool) or not isinstance(as_of, (int, datetime)):
            raise EditError(f"as_of: got {as_of!r:.80}; wanted the number of a change or an aware datetime")
        if isinstance(as_of, datetime):
            at = validity.moment("as_of", as_of)
            return Moment(self._store.last_at(at), at)
        last = self._store.last()
        if not 0 <= as_of <= last:
            raise EditError(f"as_of: got {as_of}; the log has changes 1 to {last}, and 0 is before all of them")
        changes = self._store.changes(as_of - 1, 1) if as_of else []
        return Moment(as_of, validity.moment("time", changes[0].time) if changes else self._clock())

    def target(self, to: int | datetime | None, ids: list[str] | None, batch: int | None) -> Target:
        """Which ids a roll-back concerns, the records they are to have, and the newest change of each that may go.

        A record that is not named is one that was not there; a point in time may undo any change behind it.
        """
        if batch is not None and (to is not None or ids is not None):
            raise MemoryFault("rollback: got a batch and more; give a batch, or a point, or ids, or ids to a point")
        if batch is not None:
            return self._before(batch)
        if to is not None:
            seq = self.resolve(to).seq
            for id in ids or ():
                self._store.history(id)  # refuses an id that never was
            concerned = ids if ids is not None else [change.id for change in self._store.changes(seq)]
            return list(dict.fromkeys(concerned)), self._standing(seq, concerned), {}
        if not ids:
            raise MemoryFault("rollback: got nothing to roll back; give a batch, or a point, or ids, or ids to a point")
        then, seen = {}, {}
        for id in dict.fromkeys(ids):
            *before, last = self._store.history(id)
            seen[id] = last.seq
            if before and (record := before[-1].record) is not None:
                then[id] = record
        return list(seen), then, seen

    def _before(self, batch: int) -> Target:
        changes = self._store.batch(batch)
        if not changes:
            raise MemoryFault(f"rollback: no write has the number {batch}; history() shows the batch of every change")
        seen = {change.id: change.seq for change in changes}
        return list(seen), self._standing(batch - 1, list(seen)), seen

    def _standing(self, seq: int, ids: list[str]) -> dict[str, Record]:
        return {c.id: c.record for c in self._store.standing(seq, ids) if c.record is not None}
