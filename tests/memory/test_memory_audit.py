"""The chain and its checkpoints: whatever is done to the log behind the memory's back, `verify` finds it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_samples import CAPITAL, CONFIG, NOTE, TONGUE, FakeEncoder, OpenMemory

from lte import Edit
from lte.memory import Author, EditMemory, MemoryFault
from lte.memory.audit import COLUMNS, genesis, link

BY = Author("ada", "the old one was wrong", "T-1", "the gazette")
MUTATIONS = 200


def reopened(path: Path) -> EditMemory:
    return EditMemory.open(path, CONFIG, FakeEncoder())


@pytest.fixture
def told(path: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A memory of twelve changes with two checkpoints, and its anchor file."""
    memory = reopened(path)
    ids = [memory.add(e, by=BY).id or "" for e in (TONGUE, CAPITAL, NOTE)]
    memory.update(ids[0], Edit("The mother tongue of Ada Quill is", "Welsh", "Ada Quill"), by=BY)
    memory.set_state(ids[1], "disabled", by=BY)
    memory.checkpoint()
    memory.add_many([Edit(f"Robot {i} likes", "oil", f"Robot {i}") for i in range(5)])
    memory.delete(ids[2], by=BY)
    memory.rollback(ids=[ids[2]], by=BY)
    memory.anchor(tmp_path / "anchor.jsonl")
    memory.close()
    return path, tmp_path / "anchor.jsonl"


def tampered(path: Path, statements: Callable[[sqlite3.Connection], object]) -> None:
    """Do something to the database with its triggers out of the way."""
    db = sqlite3.connect(path)
    for [name] in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    statements(db)
    db.commit()
    db.close()


def rechained(db: sqlite3.Connection) -> None:
    """Recompute the whole chain, and its head, as one would who knows how it is made."""
    [memory] = db.execute("SELECT value FROM meta WHERE key = 'memory'").fetchone()
    digest, last = genesis(memory), 0
    for row in db.execute(f"SELECT {', '.join(COLUMNS)} FROM events ORDER BY seq").fetchall():
        digest, last = link(digest, row), row[0]
        db.execute("UPDATE events SET digest = ? WHERE seq = ?", (digest, last))
    db.execute("UPDATE meta SET value = ? WHERE key = 'head'", (f"{last} {digest}",))


def found(path: Path, anchor: Path | None = None) -> list[str]:
    """What is found wrong, be it already when the memory is opened."""
    try:
        with reopened(path) as memory:
            return memory.verify(anchor)
    except MemoryFault as fault:
        return [str(fault)]


def test_an_untouched_log_holds(told: tuple[Path, Path]) -> None:
    path, anchor = told
    assert found(path) == found(path, anchor) == []
    with reopened(path) as memory:
        assert memory.verify(anchor, memory.public_key()) == []
        assert [c.seq for c in memory._store.checkpoints()] == [5, 12]


def test_a_change_says_who_and_why(told: tuple[Path, Path]) -> None:
    with reopened(told[0]) as memory:
        changes = memory.changes()
    assert [c.by for c in changes[:5]] == [BY] * 5 and changes[5].by == Author("local")
    assert [c.batch for c in changes] == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 11, 12]
    assert len({c.digest for c in changes}) == 12


def mutate(db: sqlite3.Connection, rng: random.Random) -> str:
    """One change that nobody may make to the log."""
    seqs = [seq for [seq] in db.execute("SELECT seq FROM events")]
    seq, other = rng.sample(seqs, 2)
    kind = rng.choice(["edit", "delete", "insert", "reorder", "truncate", "digest", "checkpoint", "head", "memory"])
    if kind == "edit":
        column = rng.choice(COLUMNS[1:])
        [was] = db.execute(f"SELECT {column} FROM events WHERE seq = ?", (seq,)).fetchone()
        now = rng.choice([f"{was}x", f"{was}"[:-1], rng.random(), b"\x00", ""]) if was else "x"
        now = "y" if now == was else now
        db.execute(f"UPDATE events SET {column} = ? WHERE seq = ?", (now, seq))
    elif kind == "delete":
        db.execute("DELETE FROM vectors WHERE seq = ?", (seq,))
        db.execute("DELETE FROM events WHERE seq = ?", (seq,))
    elif kind == "insert":
        new = rng.choice([0, -3, max(seqs) + 1, max(seqs) + 99])
        kind = "append" if new == max(seqs) + 1 else kind  # well chained it would be a write: anchors are of the past
        names = ", ".join([*COLUMNS[1:], "digest"])
        db.execute(f"INSERT INTO events (seq, {names}) SELECT ?, {names} FROM events WHERE seq = ?", (new, seq))
    elif kind == "reorder":
        for was, now in ((seq, -1), (other, seq), (-1, other)):
            db.execute("UPDATE events SET seq = ? WHERE seq = ?", (now, was))
    elif kind == "truncate":
        db.execute("DELETE FROM vectors WHERE seq >= ?", (seq,))
        db.execute("DELETE FROM events WHERE seq >= ?", (seq,))
    elif kind == "digest":
        db.execute("UPDATE events SET digest = ? WHERE seq = ?", (link("", [seq]), seq))
    elif kind == "checkpoint":
        column = rng.choice(["seq", "digest", "time", "public_key", "signature", None])
        [at] = rng.choice(db.execute("SELECT seq FROM checkpoints").fetchall())
        if column is None:
            db.execute("DELETE FROM checkpoints WHERE seq = ?", (12,))
        else:
            [was] = db.execute(f"SELECT {column} FROM checkpoints WHERE seq = ?", (at,)).fetchone()
            now = was + 1 if column == "seq" else f"{was[:-1]}{'0' if was[-1] != '0' else '1'}"
            db.execute(f"UPDATE checkpoints SET {column} = ? WHERE seq = ?", (now, at))
    else:
        [was] = db.execute("SELECT value FROM meta WHERE key = ?", (kind,)).fetchone()
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (f"{was[:-1]}{'0' if was[-1] != '0' else '1'}", kind))
    if kind in ("edit", "delete", "insert", "reorder", "truncate") and rng.random() < 0.5:
        rechained(db)  # one who knows how the chain is made
    return kind


def test_every_mutation_is_found(told: tuple[Path, Path], tmp_path: Path) -> None:
    path, anchor = told
    kinds = []
    for n in range(MUTATIONS):
        copy = tmp_path / "copy.db"
        shutil.copy(path, copy)
        shutil.copy(f"{path}.key", f"{copy}.key")
        rng = random.Random(n)
        tampered(copy, lambda db, rng=rng: kinds.append(mutate(db, rng)))  # type: ignore[misc]
        assert found(copy, anchor), f"mutation {n}, {kinds[-1]}, was not found"
        for file in tmp_path.glob("copy.db*"):
            file.unlink()
    assert len(set(kinds)) == 10


def rewritten(path: Path, key: bool) -> None:
    """Another history from the first change on, signed anew: by this memory's key, or by one made up."""
    tampered(path, lambda db: (db.execute("UPDATE events SET actor = 'eve' WHERE seq = 1"), rechained(db)))
    tampered(path, lambda db: db.execute("DELETE FROM checkpoints"))
    if key:
        Path(f"{path}.key").unlink()
    with reopened(path) as memory:
        memory.checkpoint()


@pytest.mark.parametrize("key", [False, True])
def test_only_what_lies_outside_shows_a_rewrite_of_everything(told: tuple[Path, Path], key: bool) -> None:
    path, anchor = told
    with reopened(path) as memory:
        pem = memory.public_key()
    rewritten(path, key)
    assert found(path) == []  # it is whole in itself
    told_of = found(path, anchor)
    assert any("the log has another digest there" in line for line in told_of)
    assert any("anchored, but gone from the memory" in line for line in told_of)
    with reopened(path) as memory:
        assert bool(memory.verify(public_key=pem)) == key  # whose own key is safe knows another's


def test_a_tail_cut_to_the_last_checkpoint_is_known_by_a_later_anchor(told: tuple[Path, Path]) -> None:
    path, anchor = told
    for statement in ("vectors WHERE seq > 5", "events WHERE seq > 5", "checkpoints WHERE seq > 5"):
        tampered(path, lambda db, s=statement: (db.execute(f"DELETE FROM {s}"), rechained(db)))  # type: ignore[misc]
    assert found(path) == []
    assert any("the log has no such change" in line for line in found(path, anchor))


def test_the_key_is_its_owners_alone(told: tuple[Path, Path]) -> None:
    key = Path(f"{told[0]}.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and b"PRIVATE KEY" in key.read_bytes()
    key.chmod(0o644)
    with reopened(told[0]) as memory, pytest.raises(MemoryFault, match="others may read this private key; chmod 600"):
        memory.checkpoint()
    key.chmod(0o600)
    key.write_text("no key")
    with reopened(told[0]) as memory, pytest.raises(MemoryFault, match="holds no private key in PEM"):
        memory.anchor(told[1])


def test_no_key_is_made_before_something_is_signed(open_memory: OpenMemory, path: Path) -> None:
    memory = open_memory()
    memory.add(TONGUE)
    assert memory.verify() == [] and not Path(f"{path}.key").exists()
    first = memory.checkpoint()
    assert memory.checkpoint() == first and first.holds() and Path(f"{path}.key").exists()
    with EditMemory.open(encoder=FakeEncoder()) as in_process, pytest.raises(MemoryFault, match="name one: key_file"):
        in_process.checkpoint()


@pytest.mark.parametrize(
    ("text", "message"), [("", "holds no checkpoint"), ("{}\n", r"anchor\.jsonl:1: no checkpoint"), ("x", ":1: no ch")]
)
def test_a_damaged_anchor_is_no_anchor(told: tuple[Path, Path], text: str, message: str) -> None:
    told[1].write_text(text)
    with reopened(told[0]) as memory, pytest.raises(MemoryFault, match=message):
        memory.verify(told[1])


def test_an_anchor_of_another_memory_is_named(told: tuple[Path, Path], tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "other.db", CONFIG, FakeEncoder()) as other:
        other.add(TONGUE)
        other.anchor(tmp_path / "others.jsonl")
    assert any("give this memory's own" in line for line in found(told[0], tmp_path / "others.jsonl"))
