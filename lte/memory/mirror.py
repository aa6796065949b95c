"""The index of a store, kept level with its log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lte.memory import indexfile
from lte.memory.change import Change
from lte.memory.encoder import Encoder, Vectors, checked_vectors
from lte.memory.fault import MemoryFault
from lte.memory.index import Index, views
from lte.memory.record import Record
from lte.memory.store import Store

log = logging.getLogger(__name__)
PAST = 2  # indexes of earlier states that are kept


class Mirror:
    """Builds the index from the log and follows what this and other processes write to it.

    file  where the vectors are kept between runs; None: nowhere
    """

    def __init__(self, store: Store, encoder: Encoder, file: Path | None) -> None:
        self.store, self.encoder, self.file = store, encoder, file
        self._index: Index | None = None  # none before the first edit: its dimension is the encoder's
        self._seq = 0  # the change up to which the index follows the log
        self._saved = 0  # the change up to which the file holds
        self._past: dict[int, Index] = {}  # indexes of earlier states, by the change they end with
        self._lock = threading.RLock()

    def index(self) -> Index:
        """The index, level with the log."""
        return self.level()[0]

    def level(self) -> tuple[Index, int]:
        """The index and the number of the change with which it is level, the newest of the log."""
        with self._lock:
            last = self.store.last()
            if self._index is None or last < self._seq:  # fewer changes than we saw: an older copy was put in place
                if not last:
                    return Index(0), 0
                self._past.clear()
                self._index, self._seq = self._built(last, self._kept(last)), last
            elif last > self._seq:
                changes = self.store.changes(self._seq)
                self._index.apply(changes, self._stored(changes, self._index.dim))
                self._seq = changes[-1].seq
            return self._index, self._seq

    def past(self, seq: int) -> Index:
        """The index as it was after change `seq`."""
        with self._lock:
            index, last = self.level()
            if seq == last:
                return index
            if not 0 < seq < last:
                return Index(0)
            if seq not in self._past:
                while len(self._past) >= PAST:
                    del self._past[next(iter(self._past))]
                self._past[seq] = self._built(seq, {})
            return self._past[seq]

    def encode(self, records: Sequence[Record], dim: int | None = None) -> list[Vectors]:
        """The vectors of each record's views; all texts are encoded together."""
        if not records:
            return []
        texts = [views(record.edit, record.keys) for record in records]
        flat = list(dict.fromkeys(t for of_edit in texts for t in of_edit))
        row = {text: i for i, text in enumerate(flat)}
        encoded = checked_vectors(self.encoder, flat, dim or (self._index.dim if self._index else None))
        return [encoded[[row[t] for t in of_edit]] for of_edit in texts]

    def rebuild(self) -> None:
        """Encode every edit anew and build the index from that; readers have the old one until it stands."""
        live = self.store.standing(self.store.last())
        if self.store.encoder():
            encoded = self.encode([r for c in live if (r := c.record)], self.encoder.dim)
            by_seq = {change.seq: vectors for change, vectors in zip(live, encoded)}
            self.store.encode_with(self.encoder.id, self.encoder.dim, by_seq, replace=True)
        with self._lock:
            last = self.store.last()
            self._past.clear()
            self._index, self._seq, self._saved = self._built(last, {}) if last else None, last, 0

    def differences(self) -> list[str]:
        """Where the index is not what the log makes it."""
        with self._lock:
            have = self.index().content()
            want = self._built(self._seq, {}).content() if self._seq else {}
        found = []
        for seq in sorted(have.keys() | want.keys()):
            if seq not in have or seq not in want:
                found.append(f"change {seq}: missing in the {'index' if seq in want else 'log'}; rebuild() mends it")
            elif have[seq][0].record != want[seq][0].record or not np.array_equal(have[seq][1], want[seq][1]):
                found.append(f"change {seq} ({have[seq][0].id}): the index differs from the log; rebuild() mends it")
        return found

    def save(self) -> None:
        """Keep the vectors in the file; a file that cannot be written is logged, since the log has everything."""
        with self._lock:
            if self.file is None or self._index is None or self._seq == self._saved:
                return
            vectors = {seq: rows for seq, (_, rows) in self._index.content().items()}
            try:
                indexfile.write(self.file, self._origin(self._index.dim), self._seq, vectors)
                self._saved = self._seq
            except OSError as error:
                log.warning(
                    "%s: cannot be written (%s); the next start reads the log instead", self.file, error.strerror
                )

    def _built(self, last: int, kept: dict[int, Vectors]) -> Index:
        """An index of its own, from change 1 to change `last`; vectors not in `kept` are read from the log."""
        dim = self._dim()
        live = self.store.standing(last)
        vectors = _fitting(live, kept)
        vectors |= self._stored([c for c in live if c.seq not in vectors], dim)
        index = Index(dim)
        index.apply(live, vectors)
        return index

    def _dim(self) -> int:
        stands = self.store.encoder()
        if stands is None or stands[0] == self.encoder.id:
            return stands[1] if stands else self.encoder.dim
        raise MemoryFault(
            f"{self.store.path}: was written with encoder {stands[0]}, the settings name {self.encoder.id}; "
            f"set encoder: {stands[0]}, or encode it anew: lte memory rebuild, or EditMemory.open(..., rebuild=True)"
        )

    def _stored(self, changes: Iterable[Change], dim: int) -> dict[int, Vectors]:
        """The vectors of changes as the database keeps them; those it lacks are encoded again."""
        changes = [change for change in changes if change.record is not None]
        found = _fitting(changes, self.store.views([change.seq for change in changes], self.encoder.id, dim))
        lost = [(change.seq, change.record) for change in changes if change.seq not in found]
        if lost:
            log.warning(
                "%s: encoding %d edits again, their vectors are lost; rebuild() mends it", self.store.path, len(lost)
            )
            found |= zip([seq for seq, _ in lost], self.encode([record for _, record in lost if record], dim))
        return found

    def _kept(self, last: int) -> dict[int, Vectors]:
        """The vectors in the file; none where it is damaged or of something else."""
        if self.file is None or not self.file.exists():
            return {}
        try:
            return indexfile.read(self.file, self._origin(self._dim()), last)
        except indexfile.Unusable as reason:
            log.warning("%s: %s; the index is built from the log instead", self.file, reason)
            return {}

    def _origin(self, dim: int) -> indexfile.Origin:
        return indexfile.Origin(self.store.memory_id, self.encoder.id, dim)


def _fitting(changes: Iterable[Change], vectors: Mapping[int, Vectors]) -> dict[int, Vectors]:
    """Those of `vectors` that have one row for each view of their change."""
    fitting = {}
    for change in changes:
        record, rows = change.record, vectors.get(change.seq)
        if record is not None and rows is not None and len(rows) == len(views(record.edit, record.keys)):
            fitting[change.seq] = rows
    return fitting
