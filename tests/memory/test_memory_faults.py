"""Damaged, locked, full and foreign files: a clear error, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from memory_samples import CAPITAL, CONFIG, NOTE, TONGUE, FakeEncoder, OpenMemory

from lte.memory import EditMemory, MemoryFault

CHILD = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}", "OMP_NUM_THREADS": "1"}


def index_file(path: Path) -> Path:
    return path.with_name(path.name + ".index")


@pytest.mark.parametrize("statement", ["UPDATE events SET namespace = 'x'", "DELETE FROM events"])
def test_the_log_can_only_grow(memory: EditMemory, path: Path, statement: str) -> None:
    memory.add(TONGUE)
    with sqlite3.connect(path) as db, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        db.execute(statement)
    db.close()
    assert [c.kind for c in memory._store.changes()] == ["add"]


def test_a_commit_waits_for_the_disk(memory: EditMemory) -> None:
    with memory._store.reading() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_a_newer_schema_is_refused(open_memory: OpenMemory, path: Path) -> None:
    open_memory().close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")
    db.close()
    with pytest.raises(MemoryFault, match=r"memory\.db: has schema 3, this lte reads schema 2; use the newer lte"):
        open_memory()


def test_a_file_that_is_no_database_is_refused_and_left_alone(open_memory: OpenMemory, path: Path) -> None:
    path.write_text("dear diary, " * 100)
    with pytest.raises(MemoryFault, match=r"memory\.db: not an edit memory; give the path"):
        open_memory()
    assert path.read_text() == "dear diary, " * 100


def test_a_database_of_something_else_is_refused(open_memory: OpenMemory, path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with pytest.raises(MemoryFault, match=r"is a database of something else \(has recipes\)"):
        open_memory()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MemoryFault, match="cannot be opened; the folder must exist"):
        EditMemory.open(tmp_path / "no" / "memory.db", CONFIG, FakeEncoder())


def test_a_damaged_database_is_told_from_a_sound_one(open_memory: OpenMemory, path: Path) -> None:
    memory = open_memory()
    memory.add_many([TONGUE, CAPITAL, NOTE] * 20)
    memory.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(MemoryFault, match=r"memory\.db: .*(damaged|refused)"):
        open_memory().verify()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_locked_database_is_named_and_nothing_is_written(memory: EditMemory, path: Path, begin: str) -> None:
    memory.add(TONGUE)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(begin)
    with pytest.raises(MemoryFault, match=r"memory\.db: locked by another process \(waited 0.2 s\)"):
        memory.add(CAPITAL)
    assert memory.recall("Ada Quill")[0].edit.target_new == "Breton"  # readers go on
    other.execute("ROLLBACK")
    other.close()
    assert len(memory) == 1 and memory.add(CAPITAL).id == "e00000002"


def test_a_memory_opens_while_another_process_writes(open_memory: OpenMemory, path: Path) -> None:
    open_memory().add(TONGUE)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert open_memory().recall("Ada Quill")
    other.close()


def test_a_memory_that_another_process_has_for_itself_is_named(open_memory: OpenMemory, path: Path) -> None:
    open_memory().close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("CREATE TABLE more (x)")
    with pytest.raises(MemoryFault, match=r"memory\.db: locked by another process"):
        open_memory()
    other.close()
    assert open_memory().list() == []


def test_a_full_database_keeps_what_it_had(memory: EditMemory) -> None:
    kept = memory.add(TONGUE)
    with memory._store.writing() as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar()
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(MemoryFault, match=r"the disk is full; nothing of this write was kept"):
        memory.add_many([CAPITAL, NOTE] * 50)
    assert memory.list() == [kept] and memory.verify() == []
    with memory._store.writing() as db:
        db.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert len(memory.add_many([CAPITAL, NOTE])) == 2 and len(memory) == 3


def test_a_disk_that_takes_no_more_bytes_keeps_what_was_acknowledged(path: Path, open_memory: OpenMemory) -> None:
    limit = 300_000  # bytes a file of the child may have: the log's writes begin to fail half-way
    code = (
        "import sys; from memory_samples import *; from lte.memory import MemoryFault\n"
        "memory = EditMemory.open(sys.argv[1], CONFIG, FakeEncoder())\n"
        "try:\n"
        "    for i in range(10_000):\n"
        "        print(memory.add(Edit(f'Robot {i} likes', 'oil', subject=f'Robot {i}')).id, flush=True)\n"
        "except MemoryFault as fault:\n"
        "    print(len(memory), fault, file=sys.stderr)\n"
    )

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=CHILD,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        timeout=60,
    )
    acknowledged = done.stdout.split()
    assert acknowledged and "the disk" in done.stderr, done.stderr
    memory = open_memory()
    assert [e.id for e in memory.list()] == acknowledged and memory.verify() == []


def test_another_encoder_is_refused_until_the_memory_is_encoded_anew(open_memory: OpenMemory) -> None:
    first = open_memory()
    edits = first.add_many([TONGUE, CAPITAL])
    first.delete(edits[1].id or "")
    other = FakeEncoder("other", dim=32)
    with pytest.raises(MemoryFault, match=r"written with encoder fake, the settings name other; .*rebuild=True"):
        open_memory(encoder=other)
    anew = open_memory(encoder=other, rebuild=True)
    assert anew.list() == edits[:1] and anew.recall("Ada Quill")[0].edit == edits[0]
    assert anew.verify() == [] and len(anew.history(edits[1].id or "")) == 2
    with pytest.raises(MemoryFault, match="is now encoded by other, not fake; open it again"):
        first.add(NOTE)
    assert first.recall("Ada Quill")[0].edit == edits[0]


def test_an_emptied_memory_takes_another_encoder(open_memory: OpenMemory) -> None:
    first = open_memory()
    first.delete(first.add(TONGUE).id or "")
    first.close()
    anew = open_memory(encoder=FakeEncoder("other", dim=32), rebuild=True)
    assert anew.list() == [] and anew.add(CAPITAL).id == "e00000003" and anew.recall("capital of Vorland")


def test_lost_vectors_are_encoded_again(open_memory: OpenMemory, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = CONFIG.model_copy(update={"index_file": False})
    memory = open_memory(config)
    edits = memory.add_many([TONGUE, CAPITAL, NOTE])
    memory.close()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM vectors WHERE seq = 1")
        db.execute("UPDATE vectors SET views = x'0102' WHERE seq = 2")
    db.close()
    again = open_memory(config)
    assert [r.edit for r in again.recall("A. Quill")] == edits[:1] and again.verify() == []
    assert "encoding 2 edits again" in caplog.text
    again.rebuild()
    caplog.clear()
    assert len(open_memory(config)) == 3 and not caplog.text


@pytest.mark.parametrize("file", [True, False])
def test_the_index_file_changes_nothing_but_the_time_to_open(open_memory: OpenMemory, path: Path, file: bool) -> None:
    config = CONFIG.model_copy(update={"index_file": file})
    memory = open_memory(config)
    edits = memory.add_many([TONGUE, CAPITAL])
    memory.close()
    assert index_file(path).exists() == file
    memory = open_memory(config)
    edits.append(memory.add(NOTE))
    memory._store.close()  # as after a kill: the file is now behind the log
    memory._closed = True
    again = open_memory(config)
    assert again.list() == edits and again.verify() == []
    assert again.recall("A. Quill")[0].edit == edits[0] and again.recall(NOTE.prompt)[0].edit == edits[2]


def damage(name: str, file: Path) -> None:
    data = file.read_bytes()
    magic, header, body = data.split(b"\n", 2)
    about = json.loads(header)
    if name == "cut short":
        data = data[:-5]
    elif name == "one bit":
        data = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    elif name == "empty":
        data = b""
    elif name == "text":
        data = b"dear diary\n" * 10
    elif name == "no header":
        data = magic + b"\n{}\n" + body
    else:
        change = {"memory": "another", "encoder": "another", "seq": 99, "dim": 63, "changes": 1}
        data = b"\n".join([magic, json.dumps({**about, name: change[name]}).encode(), body])
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["cut short", "one bit", "empty", "text", "no header", "memory", "encoder", "seq", "dim", "changes"]
)
def test_a_bad_index_file_is_noticed_and_the_log_is_used(
    open_memory: OpenMemory, path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = open_memory()
    edits = memory.add_many([TONGUE, CAPITAL, NOTE])
    memory.close()
    damage(name, index_file(path))
    again = open_memory()
    assert again.list() == edits and again.verify() == []
    assert again.recall("A. Quill")[0].edit == edits[0]
    assert "memory.db.index: " in caplog.text and "built from the log instead" in caplog.text
    again.close()
    caplog.clear()
    assert len(open_memory()) == 3


def test_an_index_file_that_cannot_be_written_is_only_logged(
    open_memory: OpenMemory, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_file(path).mkdir()
    memory = open_memory()
    memory.add(TONGUE)
    memory.close()
    assert "cannot be written" in caplog.text
    assert sorted(p.name for p in path.parent.iterdir() if ".part" in p.name) == []
    assert open_memory().recall("Ada Quill")


def test_verify_sees_an_index_that_left_the_log(memory: EditMemory) -> None:
    memory.add_many([TONGUE, CAPITAL])
    index = memory._mirror.index()
    index._spaces["default"].shelves[True].rows[0] *= -1
    assert [line.split(":")[0] for line in memory.verify()] == ["change 1 (e00000001)"]
    memory.rebuild()
    assert memory.verify() == []


def test_an_older_copy_put_in_place_is_noticed(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.add_many([TONGUE, CAPITAL])
    with memory._store.writing() as db:  # what restoring a backup does
        db.exec_driver_sql("DROP TRIGGER events_no_delete")
        db.execute(sa.text("DELETE FROM vectors WHERE seq = 2"))
        db.execute(sa.text("DELETE FROM events WHERE seq = 2"))
        db.execute(sa.text("UPDATE meta SET value = '1 ' || (SELECT digest FROM events) WHERE key = 'head'"))
    assert [e.subject for e in memory.list()] == ["Ada Quill"] and memory.verify() == []
