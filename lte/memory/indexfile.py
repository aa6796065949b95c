"""The vectors of an index in one file beside the database, so that a large memory opens at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lte.memory.encoder import Vectors

MAGIC = b"lte index 2\n"


class Unusable(Exception):
    """The file is damaged or of another memory, encoder or state; the log has all that is needed to do without."""


@dataclass(frozen=True)
class Origin:
    """What a file of vectors was made from; it is used where all of this still holds."""

    memory: str
    encoder: str
    dim: int


def write(path: Path, origin: Origin, seq: int, views: Mapping[int, Vectors]) -> None:
    """Keep the views of each change up to number `seq`; the old file stands until the new one is whole on disk."""
    body = b"".join(
        [
            np.fromiter(views, "<i8", len(views)).tobytes(),
            np.fromiter((len(v) for v in views.values()), "<i4", len(views)).tobytes(),
            *(np.ascontiguousarray(v, "<f4").tobytes() for v in views.values()),
        ]
    )
    header: dict[str, Any] = {**asdict(origin), "seq": seq, "changes": len(views)}
    header["sha256"] = _sum(header, body)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(MAGIC + json.dumps(header).encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, origin: Origin, last: int) -> dict[int, Vectors]:
    """The views that `write` kept, by change number; `Unusable` says what is wrong with the file."""
    try:
        with path.open("rb") as file:
            if file.readline() != MAGIC:
                raise Unusable("not an index file")
            header, body = json.loads(file.readline()), file.read()
        if _sum({name: value for name, value in header.items() if name != "sha256"}, body) != header["sha256"]:
            raise Unusable("its checksum does not hold; it is cut short or damaged")
        made, changes = Origin(*(header[name] for name in ("memory", "encoder", "dim"))), int(header["changes"])
        if made != origin:
            raise Unusable(f"made from {made}, wanted {origin}")
        if header["seq"] > last:
            raise Unusable(f"made from {header['seq']} changes, the log has {last}; the database is an older copy")
        seqs = np.frombuffer(body, "<i8", changes)
        counts = np.frombuffer(body, "<i4", changes, offset=8 * changes)
        rows = np.frombuffer(body, "<f4", offset=12 * changes).reshape(-1, origin.dim)
        ends = np.cumsum(counts)
        if len(rows) != (int(ends[-1]) if changes else 0):
            raise Unusable("holds another number of rows than it says")
        return {int(seq): rows[end - n : end] for seq, n, end in zip(seqs, counts, ends)}
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"is damaged ({error})") from error


def _sum(header: dict[str, Any], body: bytes) -> str:
    """SHA-256 over header and body: a flipped bit in either is noticed."""
    said = json.dumps(header, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(said).digest() + hashlib.sha256(body).digest()).hexdigest()
