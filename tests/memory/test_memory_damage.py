"""Bits that flip in what is kept of the vectors: always noticed, never trusted, mended from the log."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from memory_samples import CAPITAL, CONFIG, NOTE, TONGUE, OpenMemory

from lte import Edit
from lte.memory import indexfile
from lte.memory.indexfile import Origin, Unusable

MUTATIONS = int(os.environ.get("LTE_DAMAGE_MUTATIONS", "100"))
ORIGIN = Origin("abc", "fake", 8)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one of the things that disks and copies do to them."""
    at, size = rng.randrange(len(data)), rng.randint(1, 40)
    kind = rng.choice(["flip", "cut", "zero", "more", "hole", "twice"])
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "zero":
        return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]
    if kind == "more":
        return data + bytes(rng.randrange(256) for _ in range(size))
    return data[:at] + (data[at + size :] if kind == "hole" else data[at : at + size] + data[at:])


def test_no_damage_to_the_index_file_passes(tmp_path: Path) -> None:
    rng, numbers, file = random.Random(0), np.random.default_rng(0), tmp_path / "index"
    views = {seq: numbers.standard_normal((2, 8)).astype(np.float32) for seq in range(1, 9)}
    indexfile.write(file, ORIGIN, 8, views)
    whole = file.read_bytes()
    for n in range(MUTATIONS):
        data = damaged(whole, rng)
        if data == whole:
            continue
        file.write_bytes(data)
        try:
            found = indexfile.read(file, ORIGIN, 8)
        except Unusable:
            continue
        # a blank between two words of the header may be another blank: then all it says is as it was
        assert data.split(b"\n", 2)[2] == whole.split(b"\n", 2)[2], f"mutation {n} was not noticed"
        assert all(np.array_equal(found[seq], views[seq]) for seq in views), f"mutation {n} was not noticed"


def test_no_flipped_bit_of_a_stored_vector_is_searched(
    open_memory: OpenMemory, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, rng = CONFIG.model_copy(update={"index_file": False}), random.Random(1)
    memory = open_memory(config)
    edits = memory.add_many([TONGUE, CAPITAL, NOTE, Edit("Ada speaks", "Welsh", "Ada")])
    memory.close()
    for n in range(10):
        db = sqlite3.connect(path)
        [blob] = db.execute("SELECT views FROM vectors WHERE seq = 1").fetchone()
        at = rng.randrange(len(blob))
        flipped = blob[:at] + bytes([blob[at] ^ (1 << rng.randrange(8))]) + blob[at + 1 :]
        db.execute("UPDATE vectors SET views = ? WHERE seq = 1", (flipped,))
        db.commit()
        caplog.clear()
        again = open_memory(config)
        assert "encoding 1 edits again" in caplog.text, f"flip {n} was not noticed"
        assert again.recall("A. Quill")[0].edit == edits[0] and again.verify() == []
        again.close()
        db.execute("UPDATE vectors SET views = ? WHERE seq = 1", (blob,))
        db.commit()
        db.close()
