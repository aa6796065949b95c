"""Finds the edits nearest to a query: a cache of the log, exact, in memory, one compartment per namespace."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lte.edits import Edit
from lte.memory.coarse import Coarse
from lte.memory.encoder import Vectors
from lte.memory.gate import Mentions, Thresholds, words
from lte.memory.record import STATES, Record, State
from lte.memory.store import Change
from lte.memory.validity import ALWAYS, window

SLACK = 64  # dead rows a shelf may carry in any case before it is packed
SHARE = 8  # and one in so many of its rows; as many may come behind its coarse copy before that is made anew
MANY = 20_000  # rows from which on a coarse copy is worth its making
FEW = 20  # queries below which FAISS looks at rows one by one, and so can pass over those that are filtered out
ACTIVE: tuple[State, ...] = ("active",)


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


def bit(states: Collection[State]) -> int:
    """States as the bits of one number."""
    return sum(1 << STATES.index(state) for state in set(states))


def views(edit: Edit, keys: Sequence[str] = ()) -> list[str]:
    """The texts an edit is found by: its statement, its prompt, that under each alias, the keys; the best counts."""
    aliased = [edit.prompt.replace(edit.subject, a) for a in edit.aliases] if edit.subject else []
    return list(dict.fromkeys([edit.statement, edit.prompt, *aliased, *keys]))


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
        plain = entry.marks == _PLAIN
        if marks is None and not plain:
            marks = np.tile(np.array(_PLAIN, np.int64)[:, None], len(rows))
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
            mask = np.full(self.size, bool(states & _PLAIN[2]))
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


_PLAIN = (*ALWAYS, bit(ACTIVE))  # the marks of an entry that is active and always valid


@dataclass
class _Space:
    """One namespace: the edits with a subject, those without, and who is mentioned."""

    shelves: dict[bool, Shelf]
    entries: dict[str, Entry] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # id -> first row and number of rows
    mentions: Mentions = field(default_factory=Mentions)
    topics: dict[str, dict[str, Entry]] = field(default_factory=dict)  # topic -> id -> entry


class Index:
    """All edits that are not deleted. Safe for threads: a search takes what it needs under the lock, then computes."""

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
            touched: set[str] = set()
            for change in changes:
                self._drop(change.id, dead)
                if change.edit is not None:
                    entry = Entry(change.id, change.namespace, change.seq, change.edit, change.record)
                    self._place(entry, vectors[change.seq])
                    touched.add(entry.namespace)
            for (namespace, named), rows in dead.items():
                self._pack(self._spaces[namespace], named, rows)
            for space in (self._spaces[name] for name in touched):
                space.shelves = {named: shelf.copied() for named, shelf in space.shelves.items()}

    def get(self, id: str) -> Entry | None:
        """The edit under `id`, whatever its state."""
        with self._lock:
            namespace = self._home.get(id)
            return None if namespace is None else self._spaces[namespace].entries[id]

    def entries(self, namespace: str | None = None) -> list[Entry]:
        """The edits that are not deleted, of one namespace or of all, oldest id first."""
        with self._lock:
            spaces = [s for name, s in self._spaces.items() if namespace in (None, name)]
            found = [entry for space in spaces for entry in space.entries.values()]
        return sorted(found, key=lambda e: (len(e.id), e.id))

    def sharing(self, namespace: str, edit: Edit) -> list[Entry]:
        """The edits of which a name of the subject, or the prompt, holds a name of this edit's subject, or its words.

        Whether the names are the same is for the caller to tell.
        """
        with self._lock:
            space = self._spaces.get(namespace)
            if space is None:
                return []
            ids = set().union(*(space.mentions.find(name) for name in (edit.subject, *edit.aliases, edit.prompt)))
            return [space.entries[id] for id in sorted(ids)]

    def near(self, namespace: str, vectors: Vectors, count: int, floor: float) -> list[Entry]:
        """The active edits of which a view scores `floor` or more against one of (n, dim) vectors, the best `count`."""
        with self._lock:
            space = self._spaces.get(namespace)
            shelves = [] if space is None else list(space.shelves.values())
        found: dict[Entry, float] = {}
        for shelf in shelves:
            found |= _nearest(shelf, [vectors], count, floor, shelf.allowed(None, bit(ACTIVE)))[0]
        return sorted(found, key=lambda entry: -found[entry])[:count]

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
        at: int | None = None,
        states: Collection[State] = ACTIVE,
    ) -> list[list[Hit]]:
        """The k best edits of each query, those mentioned first; with `all_scores` also those below their threshold.

        vectors  the views of each query, as rows; the best pair of views counts
        at       the tick at which an edit has to be valid; None: at any time. Like `states`, it acts before the cut at
                 k: what is filtered out takes nobody's place
        """
        wanted = bit(states)
        with self._lock:
            space = self._spaces.get(namespace)
            if space is None or not queries:
                return [[] for _ in queries]
            shelves = dict(space.shelves)
            named = [[(space.entries[i], space.places[i]) for i in space.mentions.find(q)] for q in queries]
            said = [[(entry, place) for entry, place in of_query if entry.passes(at, wanted)] for of_query in named]
        found: list[dict[Entry, Hit]] = [{} for _ in queries]
        for hits, view, mentions in zip(found, vectors, said):
            for entry, (first, count) in mentions:
                score = float((view @ shelves[True].rows[first : first + count].T).max())
                hits[entry] = Hit(entry, score, True, thresholds.mentioned)
        for has_subject, shelf in shelves.items():
            floor = -np.inf if all_scores else thresholds.of(has_subject, False)
            for hits, near in zip(found, _nearest(shelf, vectors, k, floor, shelf.allowed(at, wanted))):
                for entry, score in near.items():
                    hits.setdefault(entry, Hit(entry, score, False, thresholds.of(has_subject, False)))
        with self._lock:
            return [_ranked(self._settled(space, h.values(), at, wanted), k, all_scores) for h in found]

    def _settled(self, space: _Space, hits: Iterable[Hit], at: int | None, states: int) -> Iterator[Hit]:
        """The hits still there; of edits with one topic the newest that passes stands for all: two answers help nobody.

        So where edits that contradict each other were let in to coexist, the one written last is recalled.
        """
        best: dict[str, Hit] = {}
        for hit in hits:
            same = [e for e in space.topics.get(hit.entry.topic, {}).values() if e.passes(at, states)]
            newest = max(same, key=lambda e: e.seq, default=None)
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


def _nearest(
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


def _ranked(hits: Iterable[Hit], k: int, all_scores: bool) -> list[Hit]:
    kept = [hit for hit in hits if all_scores or hit.in_play]
    kept.sort(key=lambda h: (all_scores and not h.in_play, not h.mentioned, -h.score, -h.entry.seq))
    return kept[:k]
