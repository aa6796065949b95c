"""Rows of vectors and the entries they belong to: searched exactly, filtered before the cut, never half-written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lte.edits import Edit
from lte.memory.coarse import Coarse
from lte.memory.encoder import Vectors
from lte.memory.gate import words
from lte.memory.record import STATES, Record, State
from lte.memory.validity import ALWAYS, window

SLACK = 64  # dead rows a shelf may carry in any case before it is packed
SHARE = 8  # and one in so many of its rows; as many may come behind its coarse copy before that is made anew
MANY = 20_000  # rows from which on a coarse copy is worth its making
FEW = 20  # queries below which FAISS looks at rows one by one, and so can pass over those that are filtered out
ACTIVE: tuple[State, ...] = ("active",)


def bit(states: Collection[State]) -> int:
    """States as the bits of one number."""
    return sum(1 << STATES.index(state) for state in set(states))


PLAIN = (*ALWAYS, bit(ACTIVE))  # the marks of an entry that is active and always valid


@dataclass(frozen=True, eq=False)
class Entry:
    """An edit that is not deleted, as change number `seq` left it; without a record it is active and always valid."""

    id: str
    namespace: str
    seq: int
    edit: Edit
    record: Record | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the edit's subject is called; nothing where it has no subject."""
        return (self.edit.subject, *self.edit.aliases) if self.edit.subject.strip() else ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The further texts it is found by."""
        return () if self.record is None else self.record.keys

    @cached_property
    def marks(self) -> tuple[int, int, int]:
        """What filters look at: first tick of validity, first tick after it, and the state as one bit."""
        if self.record is None:
            return (*ALWAYS, bit(ACTIVE))
        return (*window(self.record), bit((self.record.state,)))

    def passes(self, at: int | None, states: int) -> bool:
        """Whether a search that asks for `states` at the tick `at` may find it; None: at any time."""
        begin, end, state = self.marks
        return bool(state & states) and (at is None or begin <= at < end)

    @cached_property
    def topic(self) -> str:
        """Two edits of one topic contradict or repeat each other: subject and prompt, or all of a free text.

        The prompt of a free text may be a mere "Note:", so there the answer counts as well.
        """
        edit = self.edit
        parts = (edit.subject, edit.prompt) if self.names else (edit.prompt, edit.target_new)
        return "\n".join(" ".join(words(part)) or part for part in parts)


class Shelf:
    """Vectors in rows and the entry each belongs to; never changed, only succeeded by another.

    A successor shares the rows of its predecessor and writes behind them, so a reader that still holds the
    predecessor sees neither a new row nor a half-written one, and adding an edit copies nothing.

    marks   (3, capacity): `Entry.marks` of each row's entry; None while all of them are active and always valid
    coarse  a small copy of the first rows, to look through faster
    """

    def __init__(
        self,
        rows: Vectors,
        owners: list[Entry],
        size: int,
        dead: frozenset[int] = frozenset(),
        marks: NDArray[np.int64] | None = None,
        coarse: Coarse | None = None,
    ) -> None:
        self.rows, self.owners, self.size, self.dead, self.marks = rows, owners, size, dead, marks
        self.coarse = coarse

    def append(self, entry: Entry, vectors: Vectors) -> Shelf:
        """This shelf and the entry behind it. Only the newest shelf of a line may be appended to."""
        rows, marks, size = self.rows, self.marks, self.size + len(vectors)
        if size > len(rows):
            rows = np.empty((max(size, 2 * len(rows), 16), rows.shape[1]), np.float32)
            rows[: self.size] = self.rows[: self.size]
        rows[self.size : size] = vectors
        plain = entry.marks == PLAIN
        if marks is None and not plain:
            marks = np.tile(np.array(PLAIN, np.int64)[:, None], len(rows))
        elif marks is not None and marks.shape[1] < len(rows):
            marks = np.concatenate([marks, np.empty((3, len(rows) - marks.shape[1]), np.int64)], axis=1)
        if marks is not None:
            marks[:, self.size : size] = np.array(entry.marks, np.int64)[:, None]
        self.owners.extend([entry] * len(vectors))
        return Shelf(rows, self.owners, size, self.dead, marks, self.coarse)

    def without(self, dead: Iterable[int]) -> Shelf:
        """This shelf less some rows: passed over while they are few, packed away once they are many."""
        gone = self.dead.union(dead)
        if len(gone) <= max(SLACK, self.size // SHARE):
            return Shelf(self.rows, self.owners, self.size, gone, self.marks, self.coarse)
        kept = np.setdiff1d(np.arange(self.size), np.fromiter(gone, np.int64))
        marks = None if self.marks is None else np.ascontiguousarray(self.marks[:, kept])
        return Shelf(self.rows[kept], [self.owners[i] for i in kept], len(kept), marks=marks)

    def copied(self) -> Shelf:
        """This shelf with a coarse copy of its rows, where they are many and the one it has lacks too many of them."""
        behind = self.size - (self.coarse.size if self.coarse else 0)
        if self.size < MANY or behind <= self.size // SHARE:
            return self
        return Shelf(self.rows, self.owners, self.size, self.dead, self.marks, Coarse(self.rows[: self.size]))

    def allowed(self, at: int | None, states: int) -> NDArray[np.bool_] | None:
        """Which rows a search for `states` at the tick `at` may find; None: all of them."""
        mask: NDArray[np.bool_]
        if self.marks is None:
            mask = np.full(self.size, bool(states & PLAIN[2]))
        else:
            begin, end, state = self.marks[:, : self.size]
            mask = (state & states) != 0
            if at is not None:
                mask &= (begin <= at) & (at < end)
        if len(self.dead) > SLACK:
            mask[np.fromiter(self.dead, np.int64)] = False
        return None if mask.all() else mask

    def nearest(
        self, queries: Vectors, count: int, allowed: NDArray[np.bool_] | None = None, floor: float = -np.inf
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and row numbers of the `count` nearest rows of each query, best first, among those `allowed`.

        floor  the least score that matters: of rows below, others may come in their place
        """
        import faiss  # here: importing a room does no work

        rows, real = self.rows[: self.size], None
        if allowed is not None and len(queries) >= FEW:  # one copy costs less than that many walks over the rows
            real = np.flatnonzero(allowed)
            rows, allowed = rows[real], None
        count = min(count, len(rows) if allowed is None else int(allowed.sum()))
        if not count:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # a second thread waits at barriers when its core is taken: 40 times slower
        try:
            if self.coarse is not None and len(queries) < FEW:
                return self._looked_up(self.coarse, queries, count, allowed, floor)
            if allowed is None:
                scores, found = faiss.knn(queries, rows, count, metric=faiss.METRIC_INNER_PRODUCT)
                return scores, found if real is None else real[found]
            return _selected(queries, rows, count, allowed)
        finally:
            faiss.omp_set_num_threads(threads)

    def _looked_up(
        self, coarse: Coarse, queries: Vectors, count: int, allowed: NDArray[np.bool_] | None, floor: float
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """`nearest` of a few queries: by the coarse copy and, behind it, row by row."""
        scores, found = np.full((len(queries), count), -np.inf, np.float32), np.zeros((len(queries), count), np.int64)
        first, tail = coarse.size, slice(coarse.size, self.size)
        masks = (None, None) if allowed is None else (allowed[:first], allowed[tail])
        for i, query in enumerate(queries):
            parts = [coarse.nearest(query, self.rows[:first], count, floor, masks[0])]
            rest = [(0, self.rows[:first], masks[0])] if parts[0] is None else []
            for start, rows, mask in [*rest, (first, self.rows[tail], masks[1])]:
                many = min(count, len(rows) if mask is None else int(mask.sum()))
                if many:
                    all_of = np.ones(len(rows), bool) if mask is None else mask
                    near, places = _selected(query[None], rows, many, all_of)
                    parts.append((near[0], places[0] + start))
            near = np.concatenate([part[0] for part in parts if part])
            places = np.concatenate([part[1] for part in parts if part])
            best = np.argsort(-near, kind="stable")[:count]
            scores[i, : len(best)], found[i, : len(best)] = near[best], places[best]
        return scores, found


def _selected(
    queries: Vectors, rows: Vectors, count: int, allowed: NDArray[np.bool_]
) -> tuple[Vectors, NDArray[np.int64]]:
    """`faiss.knn` by inner product among the rows that are allowed, which its Python front has no argument for."""
    import faiss

    queries, size = np.ascontiguousarray(queries), len(queries)
    scores, found = np.empty((size, count), np.float32), np.empty((size, count), np.int64)
    bits = np.packbits(allowed, bitorder="little")
    at = faiss.swig_ptr
    faiss.knn_inner_product(
        *(at(queries), at(rows), rows.shape[1], size, len(rows), count, at(scores), at(found)),
        faiss.IDSelectorBitmap(bits),  # type: ignore[call-arg, arg-type]
    )
    return scores, found


def nearest(
    shelf: Shelf, vectors: Sequence[Vectors], k: int, floor: float, allowed: NDArray[np.bool_] | None = None
) -> list[dict[Entry, float]]:
    """At least the k best entries of each query that score `floor` or more, with their scores, among `allowed` rows.

    An edit holds several rows, and the rows of one edit could fill the list; so we ask for more until k are there.
    """
    found: list[dict[Entry, float]] = [{} for _ in vectors]
    size = shelf.size if allowed is None else int(allowed.sum())
    pending, count = list(range(len(vectors))), 4 * k + min(len(shelf.dead), SLACK)
    while pending and size:
        ends = np.cumsum([len(vectors[i]) for i in pending])
        scores, rows = shelf.nearest(np.concatenate([vectors[i] for i in pending]), count, allowed, floor)
        left = []
        for i, start, end in zip(pending, [0, *ends[:-1]], ends):
            fewest = k
            for view_scores, view_rows in zip(scores[start:end], rows[start:end]):
                seen: set[str] = set()
                for score, row in zip(view_scores.tolist(), view_rows.tolist()):
                    if row not in shelf.dead and score >= floor:
                        entry = shelf.owners[row]
                        seen.add(entry.topic)
                        found[i][entry] = max(score, found[i].get(entry, -np.inf))
                if view_scores[-1] >= floor:
                    fewest = min(fewest, len(seen))
            if fewest < k:
                left.append(i)
        if count >= size:
            break
        pending, count = left, 4 * count
    return found
