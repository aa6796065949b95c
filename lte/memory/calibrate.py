"""Chooses the thresholds of a memory by measuring them on edits and queries like those it will see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lte.edits import Case, Edit
from lte.memory.encoder import Encoder, checked_vectors
from lte.memory.fault import MemoryFault
from lte.memory.gate import Thresholds, query_views, words
from lte.memory.index import Index, views
from lte.memory.store import Change

DEEP = 50  # hits looked at behind each query
MENTIONED = tuple(round(0.05 * i, 2) for i in range(20))
UNMENTIONED = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99)


@dataclass(frozen=True)
class Trial:
    """What one setting of the thresholds does.

    recall      share of in-scope queries that have their own edit among the first k
    false_fire  share of out-of-scope queries that recall any edit
    """

    thresholds: Thresholds
    recall: float
    false_fire: float


@dataclass(frozen=True)
class Calibration:
    """The best setting, and every setting that was tried.

    with_subject     trials over `named` and `mentioned`
    without_subject  trials over `free`, on the same edits with their subjects taken away
    dropped          out-of-scope queries left out, since they are the very prompt of an edit
    """

    thresholds: Thresholds
    with_subject: tuple[Trial, ...]
    without_subject: tuple[Trial, ...]
    dropped: int

    @property
    def best(self) -> Trial:
        """The chosen trial over `named` and `mentioned`."""
        chosen = self.thresholds
        return next(
            t
            for t in self.with_subject
            if (t.thresholds.named, t.thresholds.mentioned) == (chosen.named, chosen.mentioned)
        )


def calibrate(
    encoder: Encoder,
    edits: Sequence[Edit],
    in_scope: Sequence[tuple[str, int]],
    out_of_scope: Sequence[str],
    max_false_fire: float = 0.07,
    k: int = 3,
) -> Calibration:
    """The thresholds that recall most while at most `max_false_fire` of the out-of-scope queries recall anything.

    in_scope      queries, each with the position of its edit in `edits`; all edits are in memory at once
    out_of_scope  queries that no edit concerns; those that are the prompt of an edit are left out
    """
    outside = _outside(edits, out_of_scope)
    inner, outer = _scores(encoder, edits, in_scope, outside)
    named = [_trial(Thresholds(n, m, 1.0), inner, outer, k) for n in UNMENTIONED for m in MENTIONED]
    bare = [replace(edit, subject="", aliases=()) for edit in edits]
    inner, outer = _scores(encoder, bare, in_scope, outside)
    free = [_trial(Thresholds(1.0, 1.0, f), inner, outer, k) for f in UNMENTIONED]
    best, best_free = _best(named, max_false_fire).thresholds, _best(free, max_false_fire).thresholds
    chosen = Thresholds(best.named, best.mentioned, best_free.free)
    return Calibration(chosen, tuple(named), tuple(free), len(out_of_scope) - len(outside))


def measure(
    encoder: Encoder,
    thresholds: Thresholds,
    edits: Sequence[Edit],
    in_scope: Sequence[tuple[str, int]],
    out_of_scope: Sequence[str],
    k: int = 3,
) -> Trial:
    """What given thresholds do; for queries on which they were not chosen."""
    inner, outer = _scores(encoder, edits, in_scope, _outside(edits, out_of_scope))
    return _trial(thresholds, inner, outer, k)


def queries_of(cases: Sequence[Case]) -> tuple[list[Edit], list[tuple[str, int]], list[str]]:
    """Edits, in-scope and out-of-scope queries of evaluation cases, as `calibrate` takes them.

    Portability is left out: what follows from an edit need not mention it.
    """
    asked = [[case.edit.prompt, *(probe.prompt for probe in case.generalization)] for case in cases]
    inside = [(prompt, i) for i, prompts in enumerate(asked) for prompt in prompts]
    return [case.edit for case in cases], inside, [probe.prompt for case in cases for probe in case.locality]


@dataclass(frozen=True)
class _Scores:
    """The nearest edits of each query, those mentioned first: (queries, DEEP) each, padded with scores of -2."""

    score: NDArray[np.float32]
    mentioned: NDArray[np.bool_]
    subject: NDArray[np.bool_]
    right: NDArray[np.bool_]


def _scores(
    encoder: Encoder, edits: Sequence[Edit], in_scope: Sequence[tuple[str, int]], out_of_scope: Sequence[str]
) -> tuple[_Scores, _Scores]:
    if not edits or not in_scope or not out_of_scope:
        raise MemoryFault(
            f"calibrate: got {len(edits)} edits, {len(in_scope)} in-scope and {len(out_of_scope)} out-of-scope "
            f"queries; wanted some of each: cases with an edit, generalization and locality"
        )
    queries = [*(query for query, _ in in_scope), *out_of_scope]
    of_edit, of_query = [views(edit) for edit in edits], [query_views(query) for query in queries]
    texts = list(dict.fromkeys(text for some in (*of_edit, *of_query) for text in some))
    vectors, row = checked_vectors(encoder, texts), {text: i for i, text in enumerate(texts)}
    index = Index(encoder.dim)
    changes = [Change(i, str(i), "add", "default", "", edit) for i, edit in enumerate(edits)]
    index.apply(changes, {i: vectors[[row[t] for t in some]] for i, some in enumerate(of_edit)})
    everything = Thresholds(-1.0, -1.0, -1.0)
    rows = [vectors[[row[t] for t in some]] for some in of_query]
    hits = index.search("default", queries, rows, DEEP, everything)
    # an edit said twice is recalled as the newer one, and that is right for both
    topics = [index.entries("default")[i].topic for i in range(len(edits))]
    wanted = [*(topics[i] for _, i in in_scope), *([""] * len(out_of_scope))]
    shape = (len(queries), DEEP)
    score = np.full(shape, -2.0, np.float32)
    mentioned, subject, right = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
    for i, of_query_hits in enumerate(hits):
        for j, hit in enumerate(of_query_hits):
            score[i, j], mentioned[i, j], subject[i, j] = hit.score, hit.mentioned, bool(hit.entry.names)
            right[i, j] = hit.entry.topic == wanted[i]
    inner, outer = slice(len(in_scope)), slice(len(in_scope), None)
    return (
        _Scores(score[inner], mentioned[inner], subject[inner], right[inner]),
        _Scores(score[outer], mentioned[outer], subject[outer], right[outer]),
    )


def _trial(thresholds: Thresholds, inner: _Scores, outer: _Scores, k: int) -> Trial:
    def passed(s: _Scores) -> NDArray[np.bool_]:
        unmentioned = np.where(s.subject, thresholds.named, thresholds.free)
        return s.score >= np.where(s.mentioned, thresholds.mentioned, unmentioned)

    inside = passed(inner)
    first = inside & (np.cumsum(inside, axis=1) <= k)
    recall = (first & inner.right).any(axis=1).mean()
    return Trial(thresholds, float(recall), float(passed(outer).any(axis=1).mean()))


def _best(trials: Sequence[Trial], max_false_fire: float) -> Trial:
    """Most recall within the budget, to a tenth of a percent; of equals the quietest, of those the strictest.

    Where nothing keeps within the budget, the quietest.
    """
    allowed = [t for t in trials if t.false_fire <= max_false_fire] or [min(trials, key=lambda t: t.false_fire)]
    return max(
        allowed,
        key=lambda t: (
            round(t.recall, 3),
            -t.false_fire,
            t.thresholds.mentioned,
            t.thresholds.named,
            t.thresholds.free,
        ),
    )


def _outside(edits: Sequence[Edit], queries: Sequence[str]) -> list[str]:
    prompts = {tuple(words(edit.prompt)) for edit in edits}
    return [query for query in queries if tuple(words(query)) not in prompts]
