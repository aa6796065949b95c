"""The index of a store, kept level with its log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lte.edits import Edit
from lte.memory import indexfile
from lte.memory.encoder import Encoder, Vectors, checked_vectors
from lte.memory.fault import MemoryFault
from lte.memory.index import Index, views
from lte.memory.store import Change, Store

log = logging.getLogger(__name__)


class Mirror:
    """Builds the index from the log and follows what this and other processes write to it.

    file  where the vectors are kept between runs; None: nowhere
    """

    def __init__(self, store: Store, encoder: Encoder, file: Path | None) -> None:
        self.store, self.encoder, self.file = store, encoder, file
        self._index: Index | None = None  # none before the first edit: its dimension is the encoder's
        self._seq = 0  # the change up to which the index follows the log
        self._saved = 0  # the change up to which the file holds
        self._lock = threading.RLock()

    def index(self) -> Index:
        """The index, level with the log."""
        with self._lock:
            last = self.store.last()
            if self._index is None or last < self._seq:  # fewer changes than we saw: an older copy was put in place
                if not last:
                    return Index(0)
                self._index, self._seq = self._built(last, self._kept(last)), last
            elif last > self._seq:
                changes = self.store.changes(self._seq)
                self._index.apply(changes, self._stored(_with_edit(changes), self._index.dim))
                self._seq = changes[-1].seq
            return self._index

    def encode(self, edits: Sequence[Edit], dim: int | None = None) -> list[Vectors]:
        """The vectors of each edit's views; all texts are encoded together."""
        if not edits:
            return []
        texts = [views(edit) for edit in edits]
        flat = list(dict.fromkeys(t for of_edit in texts for t in of_edit))
        row = {text: i for i, text in enumerate(flat)}
        encoded = checked_vectors(self.encoder, flat, dim or (self._index.dim if self._index else None))
        return [encoded[[row[t] for t in of_edit]] for of_edit in texts]

    def rebuild(self) -> None:
        """Encode every edit in force anew and build the index from that; readers have the old one until it stands."""
        live = _in_force(self.store.changes())
        if self.store.encoder():
            encoded = self.encode([edit for _, edit in live], self.encoder.dim)
            by_seq = {change.seq: vectors for (change, _), vectors in zip(live, encoded)}
            self.store.encode_with(self.encoder.id, self.encoder.dim, by_seq, replace=True)
        with self._lock:
            last = self.store.last()
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
            elif have[seq][0].edit != want[seq][0].edit or not np.array_equal(have[seq][1], want[seq][1]):
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
        live = _in_force(change for change in self.store.changes() if change.seq <= last)
        vectors = {c.seq: kept[c.seq] for c, edit in live if len(kept.get(c.seq, ())) == len(views(edit))}
        vectors |= self._stored([(c, edit) for c, edit in live if c.seq not in vectors], dim)
        index = Index(dim)
        index.apply([change for change, _ in live], vectors)
        return index

    def _dim(self) -> int:
        stands = self.store.encoder()
        if stands is None or stands[0] == self.encoder.id:
            return stands[1] if stands else self.encoder.dim
        raise MemoryFault(
            f"{self.store.path}: was written with encoder {stands[0]}, the settings name {self.encoder.id}; "
            f"set encoder: {stands[0]}, or encode it anew: lte memory rebuild, or EditMemory.open(..., rebuild=True)"
        )

    def _stored(self, edited: Sequence[tuple[Change, Edit]], dim: int) -> dict[int, Vectors]:
        """The vectors of changes as the database keeps them; those it lacks are encoded again."""
        found = self.store.views([change.seq for change, _ in edited], self.encoder.id, dim)
        found = {c.seq: found[c.seq] for c, edit in edited if len(found.get(c.seq, ())) == len(views(edit))}
        lost = [(change.seq, edit) for change, edit in edited if change.seq not in found]
        if lost:
            log.warning(
                "%s: encoding %d edits again, their vectors are lost; rebuild() mends it", self.store.path, len(lost)
            )
            found |= zip([seq for seq, _ in lost], self.encode([edit for _, edit in lost], dim))
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


def _with_edit(changes: Iterable[Change]) -> list[tuple[Change, Edit]]:
    return [(change, change.edit) for change in changes if change.edit is not None]


def _in_force(changes: Iterable[Change]) -> list[tuple[Change, Edit]]:
    """The newest change of every edit that is not deleted, in order: the log, folded."""
    newest = {change.id: change for change in changes}
    return sorted(_with_edit(newest.values()), key=lambda pair: pair[0].seq)
