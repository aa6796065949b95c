"""What the gate does on labelled scope data, each stage alone and together, beside a memory that always injects k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lte.memory.encoder import Encoder, checked_vectors
from lte.memory.fault import MemoryFault
from lte.memory.gate import Thresholds, query_views, words
from lte.memory.index import Hit, Index, views
from lte.memory.scope import ScopeCheck, Verdict
from lte.memory.scope_rows import ScopeRow, edits_of
from lte.memory.store import Change

GATES = ("always", "stage 1", "stage 2", "both")
EVERYTHING = Thresholds(-1.0, -1.0, -1.0)


@dataclass(frozen=True)
class Share:
    """How many of the rows of a kind the gate let an edit through for, with exact bounds (Clopper-Pearson).

    In scope, the row's own edit has to be among the first k: `share` is recall. Out of scope any edit counts: `share`
    is false fire. `low` and `high` bound the true share, two-sided, at the confidence that was asked for.
    """

    gate: str
    kind: str
    in_scope: bool
    n: int
    passed: int
    share: float
    low: float
    high: float


def clopper_pearson(passed: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of a share (Clopper and Pearson 1934), by scipy's binomial test."""
    from scipy.stats import binomtest

    if n < 1:
        return 0.0, 1.0
    found = binomtest(passed, n).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Judged:
    """A row, its nearest edits with stage 1's scores, and stage 2's verdict on each."""

    row: ScopeRow
    hits: tuple[Hit, ...]
    verdicts: tuple[Verdict | None, ...]
    own: str  # the topic of the row's edit

    def passes(self, gate: str, thresholds: Thresholds, threshold: float | None = None, k: int = 3) -> bool:
        """Whether the gate lets the row's own edit, or, out of scope, any edit, into the first k.

        threshold  of stage 2, in place of the model's
        """
        through = 0
        for hit, verdict in zip(self.hits, self.verdicts):
            first = gate in ("always", "stage 2") or hit.score >= thresholds.of(bool(hit.entry.names), hit.mentioned)
            second = gate in ("always", "stage 1") or _said(verdict, threshold, gate)
            if first and second:
                if not self.row.in_scope or hit.entry.topic == self.own:
                    return True
                through += 1
                if through == k:
                    return False
        return False


def judged(
    encoder: Encoder, check: ScopeCheck | None, rows: Sequence[ScopeRow], deep: int = 10, alone: bool = False
) -> list[Judged]:
    """The rows with what both stages say of their nearest edits; all edits of the rows are in memory at once.

    alone  the check also judges edits that the query does not mention, which stage 1 decides alone otherwise
    """
    edits = edits_of(rows)
    if not edits:
        raise MemoryFault("calibrate: no rows; wanted queries with an edit each")
    of_edit, of_query = [views(edit) for edit in edits], [query_views(row.query) for row in rows]
    if empty := [row for row, texts in zip(rows, of_query) if not texts]:
        raise MemoryFault(f"calibrate: the query {empty[0].query!r} is empty; wanted a text")
    texts = list(dict.fromkeys(text for some in (*of_edit, *of_query) for text in some))
    vector = dict(zip(texts, checked_vectors(encoder, texts)))
    index = Index(encoder.dim)
    changes = [Change(i, str(i), "add", "default", "", edit) for i, edit in enumerate(edits)]
    index.apply(changes, {i: np.stack([vector[t] for t in some]) for i, some in enumerate(of_edit)})
    topic = {edit: entry.topic for edit, entry in zip(edits, (index.get(str(i)) for i in range(len(edits)))) if entry}
    stored = [np.stack([vector[t] for t in some]) for some in of_query]
    hits = index.search("default", [row.query for row in rows], stored, deep, EVERYTHING)
    verdicts: list[list[Verdict | None]] = [[None] * len(found) for found in hits]
    if check is not None and alone:
        flat = [(row.query, hit.entry) for row, found in zip(rows, hits) for hit in found]
        said = iter(check.judge(flat))
        verdicts = [[next(said) for _ in found] for found in hits]
    elif check is not None:
        verdicts = check.verdicts([row.query for row in rows], hits)
    return [Judged(r, tuple(h), tuple(v), topic[r.edit]) for r, h, v in zip(rows, hits, verdicts)]


def shares(
    judged_: Sequence[Judged],
    thresholds: Thresholds,
    gates: Sequence[str] = GATES,
    confidence: float = 0.95,
    k: int = 3,
    threshold: float | None = None,
) -> list[Share]:
    """The confusion table: what each gate does on each kind, in scope first.

    threshold  of stage 2, in place of the model's
    """
    kinds = sorted({(not one.row.in_scope, one.row.kind) for one in judged_})
    found = []
    for gate in gates:
        for out, kind in kinds:
            mine = [one for one in judged_ if one.row.kind == kind and one.row.in_scope is not out]
            # published LTE takes the k nearest whatever they score: so out of scope it always fires
            passed = sum(one.passes(gate, thresholds, threshold, k) for one in mine)
            low, high = clopper_pearson(passed, len(mine), confidence)
            found.append(Share(gate, kind, not out, len(mine), passed, passed / len(mine), low, high))
    return found


def table(found: Sequence[Share]) -> list[dict[str, Any]]:
    """Shares as rows to print, to a tenth of a percent."""
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(one).items()} for one in found]


def apart(rows: Sequence[ScopeRow]) -> tuple[list[ScopeRow], int]:
    """The rows less those out of scope whose query is the very prompt of an edit, and how many were left out."""
    prompts = {tuple(words(edit.prompt)) for edit in edits_of(rows)}
    kept = [row for row in rows if row.in_scope or tuple(words(row.query)) not in prompts]
    return kept, len(rows) - len(kept)


def _said(verdict: Verdict | None, threshold: float | None, gate: str) -> bool:
    if verdict is None:
        return True
    return verdict.probability >= (verdict.threshold if threshold is None else threshold)
