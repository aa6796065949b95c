"""Brings the database of an older lte to the schema of this one, in place and in one transaction."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa

from lte.memory import audit
from lte.memory.tables import AUTHOR, SCHEMA, TRIGGERS, checkpoints, events, meta, vectors

UNKNOWN = "unknown"  # the actor of changes that were written before the log kept one
SOME = 1000  # rows rewritten at once


def migrate(db: sa.Connection) -> None:
    """From schema 1: every change gets its author (unknown), its batch and its place in the chain; none is lost.

    The transaction that `db` is in holds the write lock; where anything fails, the old file stands.
    """
    memory = str(db.scalar(sa.select(meta.c.value).where(meta.c.key == "memory")))
    for verb in ("update", "delete"):
        db.exec_driver_sql(f"DROP TRIGGER IF EXISTS events_no_{verb}")
    db.exec_driver_sql("ALTER TABLE events RENAME COLUMN edit TO record")
    db.exec_driver_sql("ALTER TABLE events ADD COLUMN batch INTEGER NOT NULL DEFAULT 0")
    for name in (*AUTHOR, "digest"):
        db.exec_driver_sql(f"ALTER TABLE events ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
    db.exec_driver_sql("ALTER TABLE vectors ADD COLUMN sha256 TEXT NOT NULL DEFAULT ''")
    checkpoints.create(db)
    head = _chained(db, memory)
    _summed(db)
    for trigger in TRIGGERS:
        db.exec_driver_sql(trigger)
    db.execute(meta.insert(), {"key": "head", "value": head})
    db.execute(sa.update(meta).where(meta.c.key == "schema").values(value=str(SCHEMA)))


def _chained(db: sa.Connection, memory: str) -> str:
    """Rewrite every change as schema 2 has it; returns the head of the log."""
    digest, last, versions, born = audit.genesis(memory), 0, dict[str, int](), dict[str, str]()
    put = sa.update(events).where(events.c.seq == sa.bindparam("at"))
    while rows := db.execute(sa.select(events).where(events.c.seq > last).order_by(events.c.seq).limit(SOME)).all():
        changed = []
        for row in rows:
            versions[row.id] = versions.get(row.id, 0) + 1
            record = row.record
            if record is not None:
                more = {"version": versions[row.id], "created": born.setdefault(row.id, row.time)}
                said = json.loads(record) | more
                record = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            new = {"record": record, "batch": row.seq, "actor": UNKNOWN, "reason": "", "ticket": "", "source": ""}
            whole = {**row._mapping, **new}
            digest = audit.link(digest, [whole[name] for name in audit.COLUMNS])
            changed.append({**new, "digest": digest, "at": row.seq})
            last = row.seq
        db.execute(put, changed)
    return f"{last} {digest}"


def _summed(db: sa.Connection) -> None:
    """Give the stored vectors their checksums."""
    put = sa.update(vectors).where(vectors.c.seq == sa.bindparam("at"), vectors.c.encoder == sa.bindparam("by"))
    put, last = put.values(sha256=sa.bindparam("sum")), 0
    some = sa.select(vectors).order_by(vectors.c.seq).limit(SOME)
    while rows := db.execute(some.where(vectors.c.seq > last)).all():
        sums = [{"at": r.seq, "by": r.encoder, "sum": hashlib.sha256(r.views).hexdigest()} for r in rows]
        db.execute(put, sums)
        last = rows[-1].seq
