"""The chain over the log: each change carries a digest over itself and the digest in front of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = ("seq", "id", "kind", "namespace", "time", "record", "batch", "actor", "reason", "ticket", "source")


def genesis(memory: str) -> str:
    """The digest in front of the first change: of the memory's own id, so no log can pass for another's."""
    return hashlib.sha256(f"lte memory log 2\n{memory}".encode()).hexdigest()


def link(before: str, row: Sequence[Any]) -> str:
    """The digest of a change: SHA-256 over the digest in front and the row's `COLUMNS`, as canonical JSON.

    A value that a tampered row holds in place of text or a number counts by its representation.
    """
    text = json.dumps([before, *row], separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def broken(memory: str, rows: Iterable[Sequence[Any]], head: str | None) -> tuple[list[str], dict[int, str]]:
    """Where the chain does not hold, one line each, and the stored digest of each change, of change 0 the genesis.

    rows  the log in order: `COLUMNS`, then the digest
    head  number and digest of the newest change as the memory notes them beside the log
    """
    last, before = 0, genesis(memory)
    faults, digests = [], {0: before}
    for *row, digest in rows:
        seq = int(row[0])
        if seq != last + 1:
            faults.append(f"change {last + 1}: missing in the log, which goes on with {seq}; restore a backup")
        elif link(before, row) != digest:
            faults.append(f"change {seq}: was altered, or what stood in front of it; restore a backup")
        last, before = seq, str(digest)
        digests[seq] = before
    if head != f"{last} {before}":
        faults.append(f"the log ends with change {last}, its head says {head!s:.24}; its tail was cut or added to")
    return faults, digests
