"""Finds the edits nearest to a query: a cache of the log, exact, in memory, one compartment per namespace."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lte.edits import Edit
from lte.memory.encoder import Vectors
from lte.memory.gate import Mentions, Thresholds, words
from lte.memory.store import Change

SLACK = 64  # dead rows a shelf may carry before it is packed


@dataclass(frozen=True, eq=False)
class Entry:
    """An edit in force, as change number `seq` left it."""

    id: str
    namespace: str
    seq: int
    edit: Edit

    @property
    def names(self) -> tuple[str, ...]:
        """What the edit's subject is called; nothing where it has no subject."""
        return (self.edit.subject, *self.edit.aliases) if self.edit.subject.strip() else ()

    @cached_property
    def topic(self) -> str:
        """Two edits of one topic contradict or repeat each other: subject and prompt, or all of a free text.

        The prompt of a free text may be a mere "Note:", so there the answer counts as well.
        """
        edit = self.edit
        parts = (edit.subject, edit.prompt) if self.names else (edit.prompt, edit.target_new)
        return "\n".join(" ".join(words(part)) or part for part in parts)


@dataclass(frozen=True)
class Hit:
    """An edit that came near a query, and the threshold it had to reach."""

    entry: Entry
    score: float
    mentioned: bool
    threshold: float

    @property
    def in_play(self) -> bool:
        """Whether the edit is recalled."""
        return self.score >= self.threshold


def views(edit: Edit) -> list[str]:
    """The texts an edit is found by: its statement, its prompt, and the prompt under each alias; the best counts."""
    aliased = [edit.prompt.replace(edit.subject, a) for a in edit.aliases] if edit.subject else []
    return list(dict.fromkeys([edit.statement, edit.prompt, *aliased]))


class Shelf:
    """Vectors in rows and the entry each belongs to; never changed, only succeeded by another.

    A successor shares the rows of its predecessor and writes behind them, so a reader that still holds the
    predecessor sees neither a new row nor a half-written one, and adding an edit copies nothing.
    """

    def __init__(self, rows: Vectors, owners: list[Entry], size: int, dead: frozenset[int] = frozenset()) -> None:
        self.rows, self.owners, self.size, self.dead = rows, owners, size, dead

    def append(self, entry: Entry, vectors: Vectors) -> Shelf:
        """This shelf and the entry behind it. Only the newest shelf of a line may be appended to."""
        rows, size = self.rows, self.size + len(vectors)
        if size > len(rows):
            rows = np.empty((max(size, 2 * len(rows), 16), rows.shape[1]), np.float32)
            rows[: self.size] = self.rows[: self.size]
        rows[self.size : size] = vectors
        self.owners.extend([entry] * len(vectors))
        return Shelf(rows, self.owners, size, self.dead)

    def without(self, dead: Iterable[int]) -> Shelf:
        """This shelf less some rows: passed over while they are few, packed away once they are many."""
        gone = self.dead.union(dead)
        if len(gone) <= SLACK:
            return Shelf(self.rows, self.owners, self.size, gone)
        kept = np.setdiff1d(np.arange(self.size), np.fromiter(gone, np.int64))
        return Shelf(self.rows[kept], [self.owners[i] for i in kept], len(kept))

    def nearest(self, queries: Vectors, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores and row numbers of the `count` nearest rows of each query, best first."""
        import faiss  # here: importing a room does no work

        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # a second thread waits at barriers when its core is taken: 40 times slower
        try:
            return faiss.knn(queries, self.rows[: self.size], min(count, self.size), metric=faiss.METRIC_INNER_PRODUCT)
        finally:
            faiss.omp_set_num_threads(threads)


@dataclass
class _Space:
    """One namespace: the edits with a subject, those without, and who is mentioned."""

    shelves: dict[bool, Shelf]
    entries: dict[str, Entry] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # id -> first row and number of rows
    mentions: Mentions = field(default_factory=Mentions)
    topics: dict[str, dict[str, Entry]] = field(default_factory=dict)  # topic -> id -> entry


class Index:
    """All edits in force. Safe for threads: a search takes what it needs under the lock and computes outside it."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._spaces: dict[str, _Space] = {}
        self._home: dict[str, str] = {}  # id -> namespace
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._home)

    def apply(self, changes: Iterable[Change], vectors: Mapping[int, Vectors]) -> None:
        """Take in changes of the log, in order; `vectors` holds the views of each that has an edit."""
        with self._lock:
            dead: dict[tuple[str, bool], set[int]] = {}
            for change in changes:
                self._drop(change.id, dead)
                if change.edit is not None:
                    entry = Entry(change.id, change.namespace, change.seq, change.edit)
                    self._place(entry, vectors[change.seq])
            for (namespace, named), rows in dead.items():
                self._pack(self._spaces[namespace], named, rows)

    def get(self, id: str) -> Entry | None:
        """The edit in force under `id`."""
        with self._lock:
            namespace = self._home.get(id)
            return None if namespace is None else self._spaces[namespace].entries[id]

    def entries(self, namespace: str | None = None) -> list[Entry]:
        """The edits in force, of one namespace or of all, oldest id first."""
        with self._lock:
            spaces = [s for name, s in self._spaces.items() if namespace in (None, name)]
            found = [entry for space in spaces for entry in space.entries.values()]
        return sorted(found, key=lambda e: (len(e.id), e.id))

    def content(self) -> dict[int, tuple[Entry, Vectors]]:
        """Everything the index holds, by change number; what `verify` compares and the index file keeps."""
        found = {}
        with self._lock:
            for space in self._spaces.values():
                for id, entry in space.entries.items():
                    first, count = space.places[id]
                    found[entry.seq] = (entry, space.shelves[bool(entry.names)].rows[first : first + count])
        return found

    def search(
        self,
        namespace: str,
        queries: Sequence[str],
        vectors: Sequence[Vectors],
        k: int,
        thresholds: Thresholds,
        all_scores: bool = False,
    ) -> list[list[Hit]]:
        """The k best edits of each query, those mentioned first; with `all_scores` also those below their threshold.

        vectors  the views of each query, as rows; the best pair of views counts
        """
        with self._lock:
            space = self._spaces.get(namespace)
            if space is None or not queries:
                return [[] for _ in queries]
            shelves = dict(space.shelves)
            said = [[(space.entries[i], space.places[i]) for i in space.mentions.find(q)] for q in queries]
        found: list[dict[Entry, Hit]] = [{} for _ in queries]
        for hits, view, mentions in zip(found, vectors, said):
            for entry, (first, count) in mentions:
                score = float((view @ shelves[True].rows[first : first + count].T).max())
                hits[entry] = Hit(entry, score, True, thresholds.mentioned)
        for named, shelf in shelves.items():
            floor = -np.inf if all_scores else thresholds.of(named, False)
            for hits, near in zip(found, _nearest(shelf, vectors, k, floor)):
                for entry, score in near.items():
                    hits.setdefault(entry, Hit(entry, score, False, thresholds.of(named, False)))
        with self._lock:
            return [_ranked(self._settled(space, h.values()), k, all_scores) for h in found]

    def _settled(self, space: _Space, hits: Iterable[Hit]) -> Iterator[Hit]:
        """The hits still in force; of edits with one topic the newest stands for all: two answers help no model."""
        best: dict[str, Hit] = {}
        for hit in hits:
            newest = max(space.topics.get(hit.entry.topic, {}).values(), key=lambda e: e.seq, default=None)
            if newest is not None:
                hit = Hit(newest, hit.score, hit.mentioned, hit.threshold)
                best[newest.id] = max(best.get(newest.id, hit), hit, key=lambda h: (h.in_play, h.mentioned, h.score))
        return iter(best.values())

    def _place(self, entry: Entry, vectors: Vectors) -> None:
        space = self._spaces.get(entry.namespace)
        if space is None:
            empty = {named: Shelf(np.empty((0, self.dim), np.float32), [], 0) for named in (True, False)}
            space = self._spaces[entry.namespace] = _Space(empty)
        named = bool(entry.names)
        space.places[entry.id] = (space.shelves[named].size, len(vectors))
        space.shelves[named] = space.shelves[named].append(entry, vectors)
        space.entries[entry.id] = entry
        space.mentions.add(entry.id, entry.names)
        space.topics.setdefault(entry.topic, {})[entry.id] = entry
        self._home[entry.id] = entry.namespace

    def _drop(self, id: str, dead: dict[tuple[str, bool], set[int]]) -> None:
        namespace = self._home.pop(id, None)
        if namespace is None:
            return
        space = self._spaces[namespace]
        entry, (first, count) = space.entries.pop(id), space.places.pop(id)
        dead.setdefault((namespace, bool(entry.names)), set()).update(range(first, first + count))
        space.mentions.remove(id, entry.names)
        same = space.topics[entry.topic]
        del same[id]
        if not same:
            del space.topics[entry.topic]

    def _pack(self, space: _Space, named: bool, dead: set[int]) -> None:
        before = space.shelves[named]
        after = space.shelves[named] = before.without(dead)
        if after.size == before.size:
            return
        first = 0
        while first < after.size:
            entry = after.owners[first]
            count = space.places[entry.id][1]
            space.places[entry.id] = (first, count)
            first += count


def _nearest(shelf: Shelf, vectors: Sequence[Vectors], k: int, floor: float) -> list[dict[Entry, float]]:
    """At least the k best entries of each query that score `floor` or more, with their scores.

    An edit holds several rows, and the rows of one edit could fill the list; so we ask for more until k are there.
    """
    found: list[dict[Entry, float]] = [{} for _ in vectors]
    pending, count = list(range(len(vectors))), 4 * k + len(shelf.dead)
    while pending and shelf.size:
        ends = np.cumsum([len(vectors[i]) for i in pending])
        scores, rows = shelf.nearest(np.concatenate([vectors[i] for i in pending]), count)
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
        if count >= shelf.size:
            break
        pending, count = left, 4 * count
    return found


def _ranked(hits: Iterable[Hit], k: int, all_scores: bool) -> list[Hit]:
    kept = [hit for hit in hits if all_scores or hit.in_play]
    kept.sort(key=lambda h: (all_scores and not h.in_play, not h.mentioned, -h.score, -h.entry.seq))
    return kept[:k]
