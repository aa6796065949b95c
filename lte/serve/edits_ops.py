"""Changes of edits that have tests: an edit is in force only once they pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lte.edits import EditError
from lte.memory import Author, Record
from lte.memory.record import State
from lte.memory.writer import OnConflict
from lte.serve.checks import Checks, Report
from lte.serve.errors import ServeError
from lte.serve.store import Store, from_edit

TRIES = 5  # another writer may come in between so often
Look = Callable[[Record], None]  # raises a `ServeError` where a record will not do


@dataclass(frozen=True)
class Done:
    """A record as it stands now, and what came of its tests where they were run."""

    record: Record
    report: Report | None = None


class EditOps:
    """Writes edits; those that are to be active and have tests are tested first."""

    def __init__(self, store: Store, checks: Checks) -> None:
        self._store, self._checks = store, checks

    async def create(self, records: Sequence[Record], by: Author, on_conflict: OnConflict) -> list[Done]:
        """New records, all or none. Those with tests are written as quarantined, tested, then activated, or left so."""
        held = [bool(record.tests) and record.state == "active" for record in records]
        waits = any(held) and on_conflict == "supersede"  # nothing gives way to an edit that may yet fail
        if waits and len(records) > 1:
            text = "on_conflict: supersede takes edits with tests one at a time, as each may fail; send them singly"
            raise ServeError(text, 422, "on_conflict", "invalid_edit")
        put = [replace(r, state="quarantined") if h else r for r, h in zip(records, held, strict=True)]
        first: OnConflict = "coexist" if waits else on_conflict
        written = await self._store.write(lambda memory: memory.add_records(put, by=by, on_conflict=first))
        return [await self._admit(r, by, on_conflict) if h else Done(r) for r, h in zip(written, held, strict=True)]

    async def _admit(self, record: Record, by: Author, on_conflict: OnConflict) -> Done:
        """The quarantined record activated where its tests pass; a failure is told and not raised: it is written."""
        report = Report()
        try:
            report = await self._checks.run(record, await self._displaced(record, on_conflict))
            if not report.passed:
                return Done(record, report)
            return Done(await self._set_state(record, "active", by, on_conflict), report)
        except ServeError as error:
            return Done(record, Report(report.outcomes, str(error)))

    async def change(
        self,
        id: str,
        make: Callable[[Record], dict[str, Any]],
        by: Author,
        on_conflict: OnConflict,
        seen: Look,
        if_match: bool,
        fit: Look,
    ) -> Done:
        """The record with the fields that `make` makes of it; where its tests fail with them, it goes to quarantine.

        Tested before it is written: until then the record stays in force as it was.

        seen  looks at the record as it stands, for If-Match; fit: at what it is to be
        """
        for _ in range(TRIES):
            old = await self._store.read(lambda memory: memory.record(id), id)
            seen(old)
            try:
                fields = make(old)
                new = replace(old, **fields)
            except EditError as error:
                raise from_edit(error) from error
            fit(new)
            report = None
            if new.state == "active" and new.tests:
                report = await self._checks.run(new, await self._displaced(new, on_conflict))
                if not report.passed:
                    fields = {**fields, "state": "quarantined"}
            try:
                return Done(await self._write(old, fields, by, on_conflict), report)
            except ServeError as error:
                if error.code != "edit_changed":
                    raise
                if if_match:
                    raise changed_since(error) from error
        raise ServeError(f"id {id!r}: others change it faster than this change is made", 409, "id", "edit_changed")

    async def _write(self, old: Record, fields: dict[str, Any], by: Author, on_conflict: OnConflict) -> Record:
        return await self._store.write(
            lambda memory: memory.change(old.id, by=by, expected=old.seq, on_conflict=on_conflict, **fields), old.id
        )

    async def supersede(self, old: Record, new: Record, by: Author, on_conflict: OnConflict) -> Done:
        """A new record in the place of `old`. One whose tests fail is kept in quarantine, and the old one stays."""
        report = None
        if new.state == "active" and new.tests:
            gone = [old.id, *await self._displaced(new, on_conflict)]
            report = await self._checks.run(new, gone)
            if not report.passed:
                kept = replace(new, state="quarantined")
                [record] = await self._store.write(lambda memory: memory.add_records([kept], by=by))
                return Done(record, report)
        more = {name: getattr(new, name) for name in ("keys", "valid_from", "valid_until", "state", "tests")}
        return Done(
            await self._store.write(
                lambda memory: memory.supersede(
                    old.id, new.edit, by=by, expected=old.seq, on_conflict=on_conflict, **more
                ),
                old.id,
            ),
            report,
        )

    async def set_state(self, old: Record, state: State, by: Author, on_conflict: OnConflict) -> Done:
        """The record in another state; to be active, its tests have to pass, or it goes to quarantine."""
        if old.state == state:
            return Done(old)
        report = None
        if state == "active" and old.tests:
            report = await self._checks.run(old, await self._displaced(old, on_conflict))
            state = "active" if report.passed else "quarantined"
            if old.state == state:
                return Done(old, report)
        return Done(await self._set_state(old, state, by, on_conflict), report)

    async def test(self, record: Record, quarantine: bool, by: Author) -> Done:
        """What comes of the tests now; with `quarantine` an edit that fails is recalled no more."""
        report = await self._checks.run(record)
        if quarantine and not report.passed and record.state != "quarantined":
            record = await self._set_state(record, "quarantined", by, "coexist")
        return Done(record, report)

    async def _set_state(self, old: Record, state: State, by: Author, on_conflict: OnConflict) -> Record:
        return await self._store.write(
            lambda memory: memory.set_state(old.id, state, by=by, expected=old.seq, on_conflict=on_conflict), old.id
        )

    async def _displaced(self, record: Record, on_conflict: OnConflict) -> list[str]:
        """The ids that give way where the record is activated."""
        if on_conflict != "supersede":
            return []
        found = await self._store.read(
            lambda memory: memory.conflicts(
                record.edit,
                record.namespace,
                but=[record.id],
                valid_from=record.valid_from,
                valid_until=record.valid_until,
            )
        )
        return [conflict.record.id for conflict in found]


def changed_since(error: ServeError) -> ServeError:
    """The 412 of a change that was meant for another state."""
    return ServeError(str(error), 412, "If-Match", "precondition_failed")
