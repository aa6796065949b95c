"""Finds the edits nearest to a query: a cache of the log, exact, in memory, one compartment per namespace."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lte.edits import Edit
from lte.memory.encoder import Vectors
from lte.memory.gate import Mentions, Thresholds
from lte.memory.record import State
from lte.memory.shelf import ACTIVE, Entry, Shelf, bit, nearest
from lte.memory.store import Change


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


def views(edit: Edit, keys: Sequence[str] = ()) -> list[str]:
    """The texts an edit is found by: its statement, its prompt, that under each alias, the keys; the best counts."""
    aliased = [edit.prompt.replace(edit.subject, a) for a in edit.aliases] if edit.subject else []
    return list(dict.fromkeys([edit.statement, edit.prompt, *aliased, *keys]))


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
            found |= nearest(shelf, [vectors], count, floor, shelf.allowed(None, bit(ACTIVE)))[0]
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
            for hits, near in zip(found, nearest(shelf, vectors, k, floor, shelf.allowed(at, wanted))):
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


def _ranked(hits: Iterable[Hit], k: int, all_scores: bool) -> list[Hit]:
    kept = [hit for hit in hits if all_scores or hit.in_play]
    kept.sort(key=lambda h: (all_scores and not h.in_play, not h.mentioned, -h.score, -h.entry.seq))
    return kept[:k]
