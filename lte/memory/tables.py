"""The tables of a memory's database: the log, its checkpoints, and the vectors, which are a cache."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import sqlalchemy as sa

from lte.memory.encoder import Vectors

SCHEMA = 2

tables = sa.MetaData()
meta = sa.Table(
    "meta", tables, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
AUTHOR = ("actor", "reason", "ticket", "source")
events = sa.Table(
    "events",
    tables,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),  # 1, 2, 3, ... without gaps
    sa.Column("id", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),  # ISO 8601 in UTC; never before that of the change in front
    sa.Column("record", sa.Text),  # the whole record after the change, as JSON; none where it is deleted
    sa.Column("batch", sa.Integer, nullable=False, server_default="0"),  # the first change of the same write
    *(sa.Column(name, sa.Text, nullable=False, server_default="") for name in AUTHOR),
    sa.Column("digest", sa.Text, nullable=False, server_default=""),  # over the digest in front and this row
)
checkpoints = sa.Table(
    "checkpoints",
    tables,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("public_key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
)
vectors = sa.Table(  # a cache, in the same transaction as its event: the index is built without encoding again
    "vectors",
    tables,
    sa.Column("seq", sa.Integer, sa.ForeignKey("events.seq"), primary_key=True),
    sa.Column("encoder", sa.Text, primary_key=True),
    sa.Column("views", sa.LargeBinary, nullable=False),  # (n, dim) float32, little-endian, row after row
    sa.Column("sha256", sa.Text, nullable=False, server_default=""),  # of `views`: a flipped bit is noticed
)
TRIGGERS = [
    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
    for table in ("events", "checkpoints")
    for verb in ("update", "delete")
]


def vector_row(seq: int, encoder: str, views: Vectors) -> dict[str, Any]:
    """A row of `vectors`."""
    blob = np.ascontiguousarray(views, dtype="<f4").tobytes()
    return {"seq": seq, "encoder": encoder, "views": blob, "sha256": hashlib.sha256(blob).hexdigest()}


def vectors_of(row: Any, dim: int) -> Vectors | None:
    """The (n, dim) vectors of a row of `vectors`; None where they are damaged."""
    blob = row.views
    if not isinstance(blob, bytes) or not blob or len(blob) % (4 * dim):
        return None
    if hashlib.sha256(blob).hexdigest() != row.sha256:
        return None
    return np.frombuffer(blob, dtype="<f4").reshape(-1, dim).astype(np.float32, copy=False)
