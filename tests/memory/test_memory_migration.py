"""A memory of schema 1 opens as one of schema 2, with all that it held."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from memory_samples import CAPITAL, NOTE, TONGUE, FakeEncoder, OpenMemory

from lte.edits import Edit, row_of
from lte.memory import Author, MemoryFault
from lte.memory.index import views

SCHEMA_1 = """
CREATE TABLE meta ("key" TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE events (seq INTEGER NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL,
                     time TEXT NOT NULL, edit TEXT, PRIMARY KEY (seq));
CREATE INDEX ix_events_id ON events (id);
CREATE TABLE vectors (seq INTEGER NOT NULL, encoder TEXT NOT NULL, views BLOB NOT NULL, PRIMARY KEY (seq, encoder),
                      FOREIGN KEY(seq) REFERENCES events (seq));
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
INSERT INTO meta VALUES ('schema', '1'), ('memory', 'abc'), ('encoder', 'fake'), ('dim', '64');
"""
WELSH = Edit(TONGUE.prompt, "Welsh", TONGUE.subject, aliases=TONGUE.aliases)
EVENTS: list[tuple[str, str, str, Edit | None]] = [
    ("e00000001", "add", "default", TONGUE),
    ("e00000002", "add", "default", CAPITAL),
    ("e00000001", "update", "default", WELSH),
    ("e00000004", "add", "other", NOTE),
    ("e00000002", "delete", "default", None),
]


@pytest.fixture
def old(path: Path) -> Path:
    """A file as lte wrote it with schema 1."""
    encoder = FakeEncoder()
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_1)
    for seq, (id, kind, namespace, edit) in enumerate(EVENTS, 1):
        text = None if edit is None else json.dumps(row_of(edit.with_id(id)))
        row = (seq, id, kind, namespace, f"2026-01-0{seq}T00:00:00.123+00:00", text)
        db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
        if edit is not None:
            blob = np.ascontiguousarray(encoder.encode(views(edit)), "<f4").tobytes()
            db.execute("INSERT INTO vectors VALUES (?, 'fake', ?)", (seq, blob))
    db.commit()
    db.close()
    return path


def test_nothing_is_lost_and_nothing_encoded_again(old: Path, open_memory: OpenMemory) -> None:
    encoder = FakeEncoder()
    memory = open_memory(encoder=encoder)
    assert memory.list() == [WELSH.with_id("e00000001"), NOTE.with_id("e00000004")] and encoder.calls == []
    changes = memory.changes()
    assert [(c.id, c.kind, c.namespace) for c in changes] == [row[:3] for row in EVENTS]
    assert [c.edit and c.edit.target_new for c in changes] == [e and e.target_new for *_, e in EVENTS]
    assert [c.time[:10] for c in changes] == [f"2026-01-0{n}" for n in range(1, 6)]
    assert {c.by for c in changes} == {Author("unknown")} and [c.batch for c in changes] == [1, 2, 3, 4, 5]
    record = memory.record("e00000001")
    assert (record.version, record.seq, record.state) == (2, 3, "active")
    assert record.created is not None and record.created.day == 1 and record.updated is not None
    assert memory.verify() == [] and memory.recall("A. Quill")[0].edit.target_new == "Welsh"


def test_it_goes_on_as_any_other(old: Path, open_memory: OpenMemory) -> None:
    memory = open_memory()
    assert memory.add(CAPITAL, by=Author("ada")).id == "e00000006"
    memory.rollback(to=2)
    assert [e.target_new for e in memory.list()] == ["Breton", "Ostby"]
    assert memory.recall("A. Quill")[0].edit.target_new == "Breton"
    memory.close()
    assert open_memory().verify() == []


def test_a_migration_that_fails_leaves_the_file_as_it_was(old: Path, open_memory: OpenMemory) -> None:
    db = sqlite3.connect(old)
    db.execute("CREATE TABLE checkpoints (x)")  # in the way of the new one
    db.commit()
    with pytest.raises(MemoryFault, match="checkpoints already exists"):
        open_memory()
    db.execute("DROP TABLE checkpoints")
    assert [row[1] for row in db.execute("PRAGMA table_info(events)")] == [
        *("seq", "id", "kind", "namespace", "time", "edit")
    ]
    db.close()
    assert len(open_memory()) == 2


def test_the_log_can_only_grow_afterwards_as_well(old: Path, open_memory: OpenMemory) -> None:
    open_memory()
    with sqlite3.connect(old) as db, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        db.execute("UPDATE events SET actor = 'eve'")
    db.close()
