"""The index: exact, and never seen half-built."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from memory_samples import FakeEncoder

from lte import Edit
from lte.memory.coarse import Coarse
from lte.memory.gate import Thresholds
from lte.memory.index import Index, views
from lte.memory.record import Record
from lte.memory.shelf import SLACK, Entry, Shelf, bit
from lte.memory.store import Change
from lte.memory.validity import EPOCH

ALL = Thresholds(-1.0, -1.0, -1.0)
ENCODER = FakeEncoder(dim=16)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def filled(edits: list[Edit], namespace: str = "default") -> Index:
    index = Index(ENCODER.dim)
    put(index, edits, namespace)
    return index


def put(index: Index, edits: list[Edit], namespace: str = "default", first: int = 1) -> None:
    changes = [Change(n, f"e{n}", "add", namespace, "", edit) for n, edit in enumerate(edits, first)]
    index.apply(changes, {c.seq: ENCODER.encode(views(c.edit)) for c in changes if c.edit})


def ask(index: Index, query: str, k: int = 3, thresholds: Thresholds = ALL, **more: object) -> list[tuple[str, bool]]:
    [hits] = index.search("default", [query], [ENCODER.encode([query])], k, thresholds, **more)
    return [(hit.entry.id, hit.mentioned) for hit in hits]


def test_an_edit_has_a_view_for_its_statement_its_prompt_and_each_alias() -> None:
    edit = Edit("Ada speaks", "Breton", subject="Ada", aliases=("A. Quill", "Ada"))
    assert views(edit) == ["Ada speaks Breton", "Ada speaks", "A. Quill speaks"]
    assert views(Edit("Ada speaks", "Breton", aliases=("A. Quill",))) == ["Ada speaks Breton", "Ada speaks"]


def test_a_reader_keeps_the_shelf_it_took() -> None:
    rng = np.random.default_rng(0)
    first, second = (Entry(i, "default", 1, Edit(i, "x")) for i in "ab")
    old = Shelf(np.empty((0, 4), np.float32), [], 0).append(first, unit(rng, 2, 4))
    before = old.rows[: old.size].copy()
    new = old.append(second, unit(rng, 3, 4)).without([0, 1])
    assert (old.size, new.size, old.dead) == (2, 5, frozenset())
    np.testing.assert_array_equal(old.rows[: old.size], before)
    scores, rows = old.nearest(unit(rng, 1, 4), 10)
    assert scores.shape == (1, 2) and set(rows[0]) == {0, 1}


@pytest.mark.parametrize("count", [1, SLACK - 1, SLACK + 50])
def test_rows_that_are_gone_are_packed_away_once_they_are_many(count: int) -> None:
    rng = np.random.default_rng(count)
    index, edits = Index(16), [Edit(f"thing {i} is", "x", subject=f"thing {i}") for i in range(200)]
    vectors = {i: unit(rng, 2, 16) for i in range(200)}
    index.apply([Change(i, f"e{i}", "add", "default", "", e) for i, e in enumerate(edits)], vectors)
    index.apply([Change(200 + i, f"e{i}", "delete", "default", "", None) for i in range(count)], {})
    shelf = index._spaces["default"].shelves[True]
    assert len(index) == 200 - count and len(shelf.dead) <= SLACK
    content = index.content()
    assert content.keys() == set(range(count, 200))
    assert all(np.array_equal(rows, vectors[seq]) for seq, (_, rows) in content.items())


def test_search_equals_a_look_at_every_pair() -> None:
    rng = np.random.default_rng(7)
    index = Index(16)
    vectors = {i: unit(rng, int(rng.integers(1, 9)), 16) for i in range(300)}
    edits = [Edit(f"thing {i} is", "x", subject=f"thing {i}" if i % 3 else "") for i in range(300)]
    index.apply([Change(i, f"e{i:03}", "add", "default", "", e) for i, e in enumerate(edits)], vectors)
    gone = set(rng.choice(300, 40, replace=False).tolist())
    index.apply([Change(300 + i, f"e{i:03}", "delete", "default", "", None) for i in gone], {})
    queries = [unit(rng, int(rng.integers(1, 3)), 16) for _ in range(20)]
    thresholds = Thresholds(named=0.3, mentioned=0.0, free=0.5)
    found = index.search("default", ["unnamed"] * 20, queries, 7, thresholds)
    for query, hits in zip(queries, found):
        best = {i: float((query @ vectors[i].T).max()) for i in range(300) if i not in gone}
        passed = {i: s for i, s in best.items() if s >= (0.3 if i % 3 else 0.5)}
        wanted = sorted(passed, key=lambda i: -passed[i])[:7]
        assert [int(hit.entry.id[1:]) for hit in hits] == wanted
        assert [hit.score for hit in hits] == pytest.approx([passed[i] for i in wanted], abs=1e-5)


@pytest.mark.parametrize("floor", [-1.0, 0.2, 0.45])
def test_a_coarse_copy_changes_nothing_that_is_found(floor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    monkeypatch.setattr("lte.memory.shelf.MANY", 2000)
    plain, coarse, vectors = Index(32), Index(32), {i: unit(rng, 2, 32) for i in range(2000)}
    states = [("active", "disabled", "shadow")[i % 7 % 3] for i in range(2000)]
    edits = [Edit(f"thing {i} is", "x", subject=f"thing {i}") for i in range(2000)]
    records = [Record(f"e{i}", "default", e, state=s) for i, (e, s) in enumerate(zip(edits, states))]  # type: ignore[arg-type]
    changes = [Change(i, f"e{i}", "add", "default", "", e, records[i]) for i, e in enumerate(edits)]
    coarse.apply(changes[:1900], vectors)
    coarse.apply(changes[1900:], vectors)  # behind the copy
    monkeypatch.setattr("lte.memory.shelf.MANY", 10**9)
    plain.apply(changes, vectors)
    for index in (plain, coarse):
        index.apply([Change(3000 + i, f"e{i}", "delete", "default", "", None) for i in range(0, 300, 2)], {})
    shelf = coarse._spaces["default"].shelves[True]
    assert shelf.coarse is not None and shelf.coarse.size == 3800 < shelf.size and len(shelf.dead) == 300
    queries = [unit(rng, int(rng.integers(1, 3)), 32) for _ in range(10)]
    for wanted in (("active",), ("shadow",), ("active", "shadow", "disabled")):
        gate, more = Thresholds(floor, floor, floor), {"all_scores": floor < 0, "states": wanted}
        found = [i.search("default", ["unnamed"] * 10, queries, 5, gate, **more) for i in (plain, coarse)]
        assert [[h.entry.id for h in q] for q in found[0]] == [[h.entry.id for h in q] for q in found[1]]
        assert any(found[0]) and all(h.entry.record.state in wanted for q in found[1] for h in q if h.entry.record)
        for one, other in zip(*found):
            assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-5)


def test_a_coarse_copy_is_not_taken_at_its_word() -> None:
    rng = np.random.default_rng(5)
    rows = unit(rng, 1, 32) + 2e-3 * rng.standard_normal((4000, 32)).astype(np.float32)  # apart by less than it tells
    rows = np.concatenate([rows / np.linalg.norm(rows, axis=1, keepdims=True), unit(rng, 8000, 32)])
    coarse = Coarse(rows)
    for query, count in ((rows[7], 5), (rows[5000], 5), (-rows[7], 3)):
        wanted = np.argsort(-(rows @ query), kind="stable")[:count]
        found = coarse.nearest(query, rows, count, -np.inf, None)
        assert found is None or found[0] == pytest.approx((rows @ query)[wanted], abs=1e-6)
    assert coarse.nearest(rows[5000], rows, 1, 0.9, None) is not None  # one is near: no need to look at all of them


@pytest.mark.parametrize(
    ("at", "found"), [(9, [0, 3]), (10, [0, 1, 3]), (19, [0, 1, 3]), (20, [0, 3]), (None, [0, 1, 3])]
)
def test_filters_know_begin_and_end_of_a_window(at: int | None, found: list[int]) -> None:
    def tick(n: int) -> datetime:
        return EPOCH + timedelta(microseconds=n)

    windows = [(None, None), (tick(10), tick(20)), (None, None), (tick(1), None)]
    shelf = Shelf(np.empty((0, 4), np.float32), [], 0)
    for n, (begin, end) in enumerate(windows):
        state = "shadow" if n == 2 else "active"
        record = Record(str(n), "default", Edit("a", "b"), (), begin, end, state)  # type: ignore[arg-type]
        shelf = shelf.append(Entry(str(n), "default", n, record.edit, record), unit(np.random.default_rng(n), 1, 4))
    mask = shelf.allowed(at, bit(["active"]))
    assert mask is not None and np.flatnonzero(mask).tolist() == found
    scores, rows = shelf.nearest(unit(np.random.default_rng(9), 1, 4), 4, mask)
    assert sorted(rows[0]) == found and scores.shape == (1, len(found))


def test_an_edit_of_many_names_leaves_room_for_others() -> None:
    crowd = Edit("Ada Quill lives in", "Ostby", subject="Ada Quill", aliases=tuple(f"Ada {i}" for i in range(60)))
    index = filled([crowd, Edit("Ada lives near", "a lake"), Edit("Ada lives with", "cats")])
    assert {id for id, _ in ask(index, "someone lives in", k=3)} == {"e1", "e2", "e3"}


def test_edits_the_query_mentions_come_first_wherever_they_rank() -> None:
    edits = [Edit(f"what is the colour of box {i}", "red") for i in range(40)]
    edits.append(Edit("Ada Quill was born in", "Ostby", subject="Ada Quill"))
    assert ask(filled(edits), "what is the colour of box 7 that Ada Quill owns", k=2)[0] == ("e41", True)


def test_a_namespace_is_searched_alone() -> None:
    index = filled([Edit("Ada speaks", "Breton", subject="Ada")], namespace="other")
    assert ask(index, "Ada speaks") == []
    put(index, [Edit("Ada speaks", "Welsh", subject="Ada")], first=2)
    assert ask(index, "Ada speaks") == [("e2", True)]


def test_of_edits_on_one_topic_the_newest_is_in_play() -> None:
    index = filled([Edit("Ada speaks", "Breton", subject="Ada"), Edit("Ada speaks", "Welsh", subject="Ada")])
    assert ask(index, "Ada speaks Breton") == [("e2", True)]
    index.apply([Change(3, "e2", "delete", "default", "", None)], {})
    assert ask(index, "Ada speaks") == [("e1", True)]


def test_free_texts_behind_one_prompt_are_not_one_topic() -> None:
    index = filled([Edit("Note:", "the office moved"), Edit("Note:", "lunch is free"), Edit("note", "Lunch is free.")])
    assert {id for id, _ in ask(index, "note lunch is free office moved")} == {"e1", "e3"}


def test_an_unmentioned_subject_asks_for_nearly_the_same_words() -> None:
    gate = Thresholds(named=0.95, mentioned=0.2, free=0.6)
    edits = [
        Edit("The twin town of Vorland is", "Ostby", subject="Vorland"),
        Edit("The twin town of the club is", "Ri"),
    ]
    index = filled(edits)
    assert ask(index, "The twin town of Nordby is", thresholds=gate) == [("e2", False)]
    assert ask(index, "tell me of Vorland and its twin", thresholds=gate) == [("e1", True)]


def test_what_fell_short_is_shown_on_demand() -> None:
    index = filled([Edit("Ada speaks", "Breton", subject="Ada")])
    strict = Thresholds(1.1, 1.1, 1.1)
    assert ask(index, "Ada speaks", thresholds=strict) == []
    assert ask(index, "Ada speaks", thresholds=strict, all_scores=True) == [("e1", True)]
