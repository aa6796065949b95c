"""A change of the log, and the draft of one that is to be written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lte.edits import Edit
from lte.memory.encoder import Vectors
from lte.memory.fault import MemoryFault
from lte.memory.record import LOCAL, Author, Record, restored, stored
from lte.memory.tables import AUTHOR

KINDS = ("add", "update", "supersede", "activate", "shadow", "quarantine", "disable", "delete", "rollback")


@dataclass(frozen=True)
class Change:
    """One line of the log: at `time`, `by` someone, the edit `id` became `edit`; none where it was taken away.

    record  the whole record after the change
    batch   number of the first change of the same write
    digest  of this change and all before it
    """

    seq: int
    id: str
    kind: str
    namespace: str
    time: str
    edit: Edit | None
    record: Record | None = None
    by: Author = LOCAL
    batch: int = 0
    digest: str = ""


@dataclass(frozen=True)
class Draft:
    """A change to be written.

    record    as it is to be; what the memory gives is filled in when it is written. None: it is taken away
    id        whose; None: a new one is given
    expected  the change that `record` was made from: where another came in between, nothing is written
    views     the vectors of the record's views, or `like`: the change whose stored ones are the same
    """

    kind: str
    record: Record | None
    namespace: str
    id: str | None = None
    expected: int = 0
    views: Vectors | None = None
    like: int | None = None


def written(draft: Draft, seq: int, at: datetime, batch: int, by: Author) -> Change:
    """The change that a draft becomes as number `seq`, still without its digest."""
    id, record, edit = draft.id or f"e{seq:08d}", draft.record, None
    if record is not None:
        edit = record.edit.with_id(id)
        given = {"id": id, "edit": edit, "seq": seq, "version": record.version + 1, "updated": at}
        record = replace(record, **given, created=record.created or at)  # type: ignore[arg-type]
    return Change(seq, id, draft.kind, draft.namespace, at.isoformat(timespec="microseconds"), edit, record, by, batch)


def row_from(change: Change) -> dict[str, Any]:
    """A row of the log."""
    row = {name: getattr(change, name) for name in ("seq", "id", "kind", "namespace", "time", "batch", "digest")}
    row |= {name: getattr(change.by, name) for name in AUTHOR}
    return row | {"record": None if change.record is None else stored(change.record)}


def changes_from(rows: Iterable[Any]) -> Iterator[Change]:
    """The changes of rows of the log; a row that holds none is a `MemoryFault` that names it."""
    authors: dict[tuple[str, ...], Author] = {}  # a log of many changes has few authors
    for row in rows:
        try:
            who = tuple(getattr(row, name) for name in AUTHOR)
            if who not in authors:
                authors[who] = Author(*who)
            record = None
            if row.record is not None:
                record = restored(row.record, row.id, row.namespace, row.seq, row.time)
        except (ValueError, TypeError, AttributeError) as error:
            raise MemoryFault(f"event {row.seq} ({row.id}): holds no edit ({error}); restore a backup") from error
        edit = None if record is None else record.edit
        yield Change(
            *(row.seq, row.id, row.kind, row.namespace, row.time, edit, record),
            by=authors[who],
            batch=row.batch,
            digest=row.digest,
        )
