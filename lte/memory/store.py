"""The append-only log in SQLite: what was added, changed and deleted, in order. All else follows from it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from lte.edits import Edit, EditError, edit_from, row_of
from lte.memory.encoder import Vectors
from lte.memory.fault import MemoryFault, UnknownEdit

SCHEMA = 1
KINDS = ("add", "update", "delete")
SOME = 500  # values in one IN (...): below the limit of every SQLite in use

_tables = sa.MetaData()
_meta = sa.Table(
    "meta", _tables, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
_events = sa.Table(
    "events",
    _tables,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),  # 1, 2, 3, ... without gaps
    sa.Column("id", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("edit", sa.Text),  # JSON; none where the edit was deleted
)
_vectors = sa.Table(  # a cache, in the same transaction as its event: the index is built without encoding again
    "vectors",
    _tables,
    sa.Column("seq", sa.Integer, sa.ForeignKey("events.seq"), primary_key=True),
    sa.Column("encoder", sa.Text, primary_key=True),
    sa.Column("views", sa.LargeBinary, nullable=False),  # (n, dim) float32, little-endian, row after row
)
_TRIGGERS = [
    f"CREATE TRIGGER events_no_{verb} BEFORE {verb.upper()} ON events "
    f"BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
    for verb in ("update", "delete")
]


@dataclass(frozen=True)
class Change:
    """One line of the log: at `time`, the edit `id` was added, updated (to `edit`) or deleted (`edit` is None)."""

    seq: int
    id: str
    kind: str
    namespace: str
    time: str
    edit: Edit | None


@dataclass(frozen=True)
class Draft:
    """A change to be written; without an id it is given one."""

    kind: str
    namespace: str
    edit: Edit | None
    id: str | None = None
    views: Vectors | None = None


class Store:
    """The log of one database file, or of one process where `path` is ":memory:"."""

    def __init__(self, path: str | Path, lock_timeout: float = 5.0) -> None:
        self.path, self.lock_timeout = str(path), lock_timeout
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
                ready = self._is_ours(db)
            if not ready:
                with self.writing() as db:
                    self._make(db)
            with self.reading() as db:
                self.memory_id = str(self._meta(db, "memory"))
        except BaseException:
            self.close()
            raise

    def append(self, drafts: Sequence[Draft], encoder: str) -> list[Change]:
        """The drafts as durable changes, all of them or none; an update or delete of an unknown id is refused."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        with self.writing() as db:
            if (recorded := self._meta(db, "encoder")) != encoder:
                raise MemoryFault(f"{self.path}: is now encoded by {recorded}, not {encoder}; open it again")
            first = self._last(db) + 1
            namespaces = self._alive(db, [d.id for d in drafts if d.id is not None])
            changes, rows = [], []
            for seq, draft in enumerate(drafts, first):
                id, namespace = draft.id or f"e{seq:08d}", draft.namespace
                if draft.kind == "add":
                    namespaces[id] = namespace
                elif id not in namespaces:
                    raise unknown(self.path, id)
                else:
                    namespace = namespaces.pop(id) if draft.kind == "delete" else namespaces[id]
                edit = draft.edit.with_id(id) if draft.edit else None
                changes.append(Change(seq, id, draft.kind, namespace, now, edit))
                if draft.views is not None:
                    rows.append({"seq": seq, "encoder": encoder, "views": _blob(draft.views)})
            db.execute(_events.insert(), [_event_row(c) for c in changes])
            if rows:
                db.execute(_vectors.insert(), rows)
        return changes

    def last(self) -> int:
        """Number of the newest change; 0 where there is none."""
        with self.reading() as db:
            return self._last(db)

    def changes(self, after: int = 0) -> list[Change]:
        """Every change behind number `after`, in order."""
        with self.reading() as db:
            return [_change(row) for row in db.execute(_select().where(_events.c.seq > after))]

    def history(self, id: str) -> list[Change]:
        """Every change of one edit, in order; an id that never was is refused."""
        with self.reading() as db:
            found = [_change(row) for row in db.execute(_select().where(_events.c.id == id))]
        if not found:
            raise unknown(self.path, id)
        return found

    def views(self, seqs: Iterable[int], encoder: str, dim: int) -> dict[int, Vectors]:
        """The stored vectors of changes; those that are missing or damaged are left out."""
        wanted, found = list(seqs), {}
        with self.reading() as db:
            for start in range(0, len(wanted), SOME):
                some = _vectors.c.seq.in_(wanted[start : start + SOME])
                query = sa.select(_vectors.c.seq, _vectors.c.views).where(_vectors.c.encoder == encoder, some)
                for seq, blob in db.execute(query):
                    if blob and len(blob) % (4 * dim) == 0:
                        found[seq] = np.frombuffer(blob, dtype="<f4").reshape(-1, dim).astype(np.float32, copy=False)
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
            db.execute(_vectors.delete())
            for key, value in (("encoder", encoder), ("dim", str(dim))):
                db.execute(_meta.delete().where(_meta.c.key == key))
                db.execute(_meta.insert(), {"key": key, "value": value})
            if views:
                rows = [{"seq": seq, "encoder": encoder, "views": _blob(v)} for seq, v in views.items()]
                db.execute(_vectors.insert(), rows)
        return encoder, dim

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; nothing where it is sound."""
        with self.reading() as db:
            found = [str(row[0]) for row in db.exec_driver_sql("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

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

    def _is_ours(self, db: sa.Connection) -> bool:
        """Whether the tables are there; those of anything else, or of another schema, are refused."""
        names = sa.inspect(db).get_table_names()
        if not names:
            return False
        if not {"meta", "events", "vectors"} <= set(names):
            found = ", ".join(names)
            raise MemoryFault(f"{self.path}: is a database of something else (has {found}); name another file")
        schema = int(self._meta(db, "schema") or 0)
        if schema != SCHEMA:
            raise MemoryFault(
                f"{self.path}: has schema {schema}, this lte reads schema {SCHEMA}; "
                + ("use the newer lte that wrote it" if schema > SCHEMA else "name a file that an lte memory wrote")
            )
        return True

    def _make(self, db: sa.Connection) -> None:
        if self._is_ours(db):  # another process was quicker
            return
        _tables.create_all(db)
        for trigger in _TRIGGERS:
            db.exec_driver_sql(trigger)
        about = {"schema": str(SCHEMA), "memory": uuid.uuid4().hex}
        db.execute(_meta.insert(), [{"key": key, "value": value} for key, value in about.items()])

    def _meta(self, db: sa.Connection, key: str) -> str | None:
        return db.scalar(sa.select(_meta.c.value).where(_meta.c.key == key))

    def _last(self, db: sa.Connection) -> int:
        return int(db.scalar(sa.select(sa.func.max(_events.c.seq))) or 0)

    def _alive(self, db: sa.Connection, ids: Sequence[str]) -> dict[str, str]:
        """id -> namespace of those among `ids` whose newest change is no deletion."""
        alive = {}
        for start in range(0, len(ids), SOME):
            some = _events.c.id.in_(ids[start : start + SOME])
            query = sa.select(_events.c.id, _events.c.namespace, _events.c.kind).where(some).order_by(_events.c.seq)
            for id, namespace, kind in db.execute(query):
                alive[id] = None if kind == "delete" else namespace
        return {id: namespace for id, namespace in alive.items() if namespace is not None}

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
    return sa.select(_events).order_by(_events.c.seq)


def _event_row(change: Change) -> dict[str, Any]:
    edit = None if change.edit is None else json.dumps(row_of(change.edit), ensure_ascii=False)
    return {**change.__dict__, "edit": edit}


def _change(row: Any) -> Change:
    try:
        edit = None if row.edit is None else edit_from(json.loads(row.edit))
    except (EditError, ValueError) as error:
        raise MemoryFault(f"event {row.seq} ({row.id}): holds no edit ({error}); restore a backup") from error
    return Change(row.seq, row.id, row.kind, row.namespace, row.time, edit)


def _blob(views: Vectors) -> bytes:
    return np.ascontiguousarray(views, dtype="<f4").tobytes()
