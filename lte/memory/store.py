"""The append-only log in SQLite: what was added, changed and deleted, in order. All else follows from it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from lte.memory import audit, validity
from lte.memory.change import Change, Draft, changes_from, row_from, written
from lte.memory.encoder import Vectors
from lte.memory.fault import MemoryFault, UnknownEdit
from lte.memory.migration import migrate
from lte.memory.record import Author
from lte.memory.signing import Checkpoint
from lte.memory.tables import SCHEMA, TRIGGERS, checkpoints, events, meta, tables, vector_row, vectors, vectors_of

SOME = 500  # values in one IN (...): below the limit of every SQLite in use


class Stale(Exception):
    """The log moved on between reading and writing: read again."""


class _End(NamedTuple):
    """The newest change: its number, its digest and when it was made."""

    seq: int
    digest: str
    at: datetime


class Store:
    """The log of one database file, or of one process where `path` is ":memory:"."""

    def __init__(
        self, path: str | Path, lock_timeout: float = 5.0, clock: Callable[[], datetime] = validity.now
    ) -> None:
        self.path, self.lock_timeout, self.clock = str(path), lock_timeout, clock
        in_process = self.path == ":memory:"
        # one connection cannot hold two transactions: in process, threads take turns; on file, each has its own
        self._turn: Any = threading.RLock() if in_process else nullcontext()
        pool = {"poolclass": StaticPool} if in_process else {}
        url = sa.URL.create("sqlite", database=None if in_process else self.path)
        self._engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": lock_timeout}, **pool)
        sa.event.listen(self._engine, "connect", self._on_connect)
        sa.event.listen(self._engine, "begin", _on_begin)
        try:
            with self.reading() as db:  # a reader waits for nobody
                ready = self._schema(db) == SCHEMA
            if not ready:
                with self.writing() as db:
                    self._make_or_migrate(db)
            with self.reading() as db:
                self.memory_id = str(self._meta(db, "memory"))
        except BaseException:
            self.close()
            raise

    def append(self, drafts: Sequence[Draft], encoder: str, by: Author, last: int | None = None) -> list[Change]:
        """The drafts as durable changes, all of them or none.

        Raises `Stale` where a draft was made from a record that another change has replaced since; with `last`, where
        the log is not exactly so long any more.
        """
        with self.writing() as db:
            if (recorded := self._meta(db, "encoder")) != encoder:
                raise MemoryFault(f"{self.path}: is now encoded by {recorded}, not {encoder}; open it again")
            end = self._end(db)
            newest = self._newest(db, [d.id for d in drafts if d.id is not None])
            if last not in (None, end.seq) or any(newest.get(d.id, 0) != d.expected for d in drafts if d.id):
                raise Stale
            # times never go back, also where a clock does: what was at a moment is what was written up to it
            at = max(validity.moment("clock", self.clock()), end.at)
            changes, rows, digest = [], [], end.digest
            for seq, draft in enumerate(drafts, end.seq + 1):
                change = written(draft, seq, at, end.seq + 1, by)
                row = row_from(change)
                digest = row["digest"] = audit.link(digest, [row[name] for name in audit.COLUMNS])
                changes.append(replace(change, digest=digest))
                rows.append(row)
            db.execute(events.insert(), rows)
            self._note(db, "head", f"{changes[-1].seq} {digest}")
            stored = [vector_row(c.seq, encoder, d.views) for c, d in zip(changes, drafts) if d.views is not None]
            if stored:
                db.execute(vectors.insert(), stored)
            for change, draft in zip(changes, drafts):
                if draft.like is not None:
                    same = (vectors.c.seq == draft.like) & (vectors.c.encoder == encoder)
                    copied = sa.select(sa.literal(change.seq), vectors.c.encoder, vectors.c.views, vectors.c.sha256)
                    db.execute(vectors.insert().from_select(list(vectors.c.keys()), copied.where(same)))
        return changes

    def last(self) -> int:
        """Number of the newest change; 0 where there is none."""
        with self.reading() as db:
            return int(db.scalar(sa.select(sa.func.max(events.c.seq))) or 0)

    def last_at(self, at: datetime) -> int:
        """Number of the newest change that was made up to a moment; 0 where there is none."""
        with self.reading() as db:
            upto = events.c.time <= at.isoformat(timespec="microseconds")
            return int(db.scalar(sa.select(sa.func.max(events.c.seq)).where(upto)) or 0)

    def changes(self, after: int = 0, count: int | None = None) -> list[Change]:
        """The changes behind number `after`, in order, all or so many."""
        with self.reading() as db:
            return list(changes_from(db.execute(_select().where(events.c.seq > after).limit(count))))

    def standing(self, upto: int, ids: Iterable[str] | None = None) -> list[Change]:
        """The newest change of every edit that is there after change `upto`, in order: the log, folded."""
        newest = sa.select(sa.func.max(events.c.seq)).where(events.c.seq <= upto).group_by(events.c.id)
        found: list[Change] = []
        with self.reading() as db:
            for some in [None] if ids is None else _parts(list(ids)):
                of_some = newest if some is None else newest.where(events.c.id.in_(some))
                there = _select().where(events.c.seq.in_(of_some), events.c.record.is_not(None))
                found += changes_from(db.execute(there))
        return sorted(found, key=lambda change: change.seq)

    def batch(self, number: int) -> list[Change]:
        """The changes of one write, by the number of its first."""
        with self.reading() as db:
            behind = _select().where(events.c.seq >= number, events.c.batch == number)
            return list(changes_from(db.execute(behind)))

    def history(self, id: str) -> list[Change]:
        """Every change of one edit, in order; an id that never was is refused."""
        with self.reading() as db:
            found = list(changes_from(db.execute(_select().where(events.c.id == id))))
        if not found:
            raise unknown(self.path, id)
        return found

    def views(self, seqs: Iterable[int], encoder: str, dim: int) -> dict[int, Vectors]:
        """The stored vectors of changes; those that are missing or damaged are left out."""
        found = {}
        with self.reading() as db:
            for some in _parts(list(seqs)):
                query = sa.select(vectors).where(vectors.c.encoder == encoder, vectors.c.seq.in_(some))
                for row in db.execute(query):
                    if (sound := vectors_of(row, dim)) is not None:
                        found[row.seq] = sound
        return found

    def encoder(self) -> tuple[str, int] | None:
        """Id and dimension of the encoder of this memory; None before the first edit."""
        with self.reading() as db:
            id = self._meta(db, "encoder")
            return (id, int(self._meta(db, "dim") or 0)) if id else None

    def encode_with(self, encoder: str, dim: int, views: dict[int, Vectors], replace: bool = False) -> tuple[str, int]:
        """Record the encoder, with vectors of changes already in the log; returns the encoder that stands now.

        Without `replace` the first to write wins: two processes may open an empty memory at once.
        """
        with self.writing() as db:
            if (stands := self._meta(db, "encoder")) and not replace:
                return stands, int(self._meta(db, "dim") or 0)
            db.execute(vectors.delete())
            for key, value in (("encoder", encoder), ("dim", str(dim))):
                self._note(db, key, value)
            if views:
                db.execute(vectors.insert(), [vector_row(seq, encoder, v) for seq, v in views.items()])
        return encoder, dim

    def check(self) -> tuple[list[str], dict[int, str]]:
        """What is wrong with the file and with its chain, and the digest of each change."""
        with self.reading() as db:
            found = [str(row[0]) for row in db.exec_driver_sql("PRAGMA integrity_check")]
            names = [events.c[name] for name in (*audit.COLUMNS, "digest")]
            rows = db.execute(sa.select(*names).order_by(events.c.seq))
            faults, digests = audit.broken(self.memory_id, rows, self._meta(db, "head"))
        return ([] if found == ["ok"] else found) + faults, digests

    def head(self) -> tuple[int, str]:
        """Number and digest of the newest change."""
        with self.reading() as db:
            end = self._end(db)
        return end.seq, end.digest

    def checkpoints(self) -> list[Checkpoint]:
        """The signed checkpoints, oldest first."""
        with self.reading() as db:
            rows = db.execute(sa.select(checkpoints).order_by(checkpoints.c.seq, checkpoints.c.time)).mappings()
            return [Checkpoint(memory=self.memory_id, **{k: v for k, v in row.items()}) for row in rows]

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; on disk on return."""
        row = {name: getattr(checkpoint, name) for name in checkpoints.columns.keys()}  # noqa: SIM118
        with self.writing() as db:
            db.execute(sa.insert(checkpoints).prefix_with("OR IGNORE"), row)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the log."""
        with self._turn, self._told(), self._engine.begin() as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that alone may write; on disk when it ends, undone when it fails."""
        with self._turn, self._told(), self._engine.connect().execution_options(write=True) as db, db.begin():
            yield db

    def _schema(self, db: sa.Connection) -> int:
        """The schema of the tables, 0 where there are none; those of anything else, or of a newer lte, are refused."""
        names = sa.inspect(db).get_table_names()
        if not names:
            return 0
        if not {"meta", "events", "vectors"} <= set(names):
            found = ", ".join(names)
            raise MemoryFault(f"{self.path}: is a database of something else (has {found}); name another file")
        schema = int(self._meta(db, "schema") or 0)
        if not 1 <= schema <= SCHEMA:
            raise MemoryFault(
                f"{self.path}: has schema {schema}, this lte reads schema {SCHEMA}; "
                + ("use the newer lte that wrote it" if schema > SCHEMA else "name a file that an lte memory wrote")
            )
        return schema

    def _make_or_migrate(self, db: sa.Connection) -> None:
        schema = self._schema(db)
        if schema == SCHEMA:  # another process was quicker
            return
        if schema:
            migrate(db)
            return
        tables.create_all(db)
        for trigger in TRIGGERS:
            db.exec_driver_sql(trigger)
        memory = uuid.uuid4().hex
        about = {"schema": str(SCHEMA), "memory": memory, "head": f"0 {audit.genesis(memory)}"}
        db.execute(meta.insert(), [{"key": key, "value": value} for key, value in about.items()])

    def _meta(self, db: sa.Connection, key: str) -> str | None:
        return db.scalar(sa.select(meta.c.value).where(meta.c.key == key))

    def _note(self, db: sa.Connection, key: str, value: str) -> None:
        db.execute(sa.insert(meta).prefix_with("OR REPLACE"), {"key": key, "value": value})

    def _end(self, db: sa.Connection) -> _End:
        row = db.execute(sa.select(events).order_by(events.c.seq.desc()).limit(1)).first()
        if row is None:
            return _End(0, audit.genesis(str(self._meta(db, "memory"))), validity.EPOCH)
        return _End(row.seq, row.digest, validity.moment("time", row.time))

    def _newest(self, db: sa.Connection, ids: Sequence[str]) -> dict[str | None, int]:
        """Number of the newest change of each id."""
        newest: dict[str | None, int] = {}
        for some in _parts(ids):
            query = sa.select(events.c.id, sa.func.max(events.c.seq)).where(events.c.id.in_(some))
            newest |= {id: seq for id, seq in db.execute(query.group_by(events.c.id))}
        return newest

    def _on_connect(self, connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver's own transactions begin too late; `_on_begin` begins ours
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(self.lock_timeout * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")  # readers go on while one writes
        cursor.execute("PRAGMA synchronous = FULL")  # a commit is on disk, also after a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise MemoryFault(f"{self.path}: {_remedy(str(error.orig), self.lock_timeout)}") from error


def unknown(path: str, id: str) -> UnknownEdit:
    """The fault of an id that is not in the memory."""
    return UnknownEdit(f"{path}: id {id!r}: no such edit, or deleted; list() has those in force, history(id) what was")


def _on_begin(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock at once: two writers that both read first would otherwise fail half-way
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _remedy(cause: str, waited: float) -> str:
    remedies = {
        "locked": f"locked by another process (waited {waited:g} s); end it or try again; nothing was written",
        "full": "the disk is full; nothing of this write was kept, all earlier edits are; free space and write again",
        "not a database": "not an edit memory; give the path of a file that lte wrote, or of a new one",
        "malformed": "the database is damaged; restore it from a backup or an export",
        "unable to open": "cannot be opened; the folder must exist and be writable",
        "readonly": "cannot be written; make the file and its folder writable",
        "disk I/O": "the disk failed; nothing of this write was acknowledged; check the disk and its free space",
        "append-only": "the log is append-only; write an update or a deletion instead",
    }
    known = next((text for sign, text in remedies.items() if sign in cause), "the database refused; see the cause")
    return f"{known} ({cause})"


def _select() -> sa.Select[Any]:
    return sa.select(events).order_by(events.c.seq)


def _parts(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + SOME] for start in range(0, len(values), SOME)]
