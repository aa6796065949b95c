"""Why an edit was recalled for a query, or was not: each candidate, each stage's word on it, and the nearest miss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lte.edits import Edit
from lte.memory.encoder import Vectors
from lte.memory.gate import Thresholds
from lte.memory.index import Entry, views
from lte.memory.scope import Verdict
from lte.memory.stages import Gated

IN_PLAY = "recalled"


@dataclass(frozen=True)
class Candidate:
    """An edit near the query.

    views     similarity of each of the edit's texts, the best of the query's: text and score
    score     the best of them, which has to reach `threshold`
    verdicts  what the checks said
    outcome   "recalled", or which stage kept it out: "below similarity", "out of scope (check)", "beyond k"
    margin    how far above its threshold (below: negative) the stage that decided stands, in that stage's scale
    """

    id: str
    edit: Edit
    mentioned: bool
    views: tuple[tuple[str, float], ...]
    score: float
    threshold: float
    verdicts: tuple[Verdict, ...]
    outcome: str
    margin: float

    @property
    def why(self) -> str:
        """The outcome in words, with the features that spoke most for it."""
        top = [f"{name} {part:+.2f}" for v in self.verdicts if not v.passes for name, part in v.top()]
        return f"{self.outcome}: {', '.join(top)}" if top and self.outcome.startswith("out of scope") else self.outcome


@dataclass(frozen=True)
class Explanation:
    """What the gate made of a query.

    kept_out      how many edits the query would have been compared with but for a filter: by namespace, state, validity
    nearest_miss  the candidate that came nearest to being recalled and was not
    """

    query: str
    k: int
    thresholds: Thresholds
    candidates: tuple[Candidate, ...]
    kept_out: dict[str, int]

    @property
    def recalled(self) -> tuple[Candidate, ...]:
        """The candidates that `recall` returns."""
        return tuple(c for c in self.candidates if c.outcome == IN_PLAY)

    @property
    def nearest_miss(self) -> Candidate | None:
        """Of the candidates that are not recalled the one with the least to make up; mentioned ones first."""
        missed = [c for c in self.candidates if c.outcome != IN_PLAY]
        return max(missed, key=lambda c: (c.mentioned, c.score >= c.threshold, c.margin), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        miss = self.nearest_miss
        return {
            "query": self.query,
            "k": self.k,
            "thresholds": asdict(self.thresholds),
            "candidates": [_row(c) for c in self.candidates],
            "nearest_miss": None if miss is None else {"id": miss.id, "outcome": miss.outcome, "margin": miss.margin},
            "kept_out": self.kept_out,
        }


def explained(
    query: str,
    k: int,
    thresholds: Thresholds,
    gated: Sequence[Gated],
    scores: Sequence[Vectors],
    kept_out: dict[str, int],
) -> Explanation:
    """The explanation of candidates in the order in which the gate ranks them.

    scores  of each candidate, similarity of its views (columns) to those of the query (rows)
    """
    found, through = [], 0
    for one, matrix in zip(gated, scores):
        entry = one.hit.entry
        through += one.in_play
        outcome, margin = _outcome(one, through > k)
        texts = views(entry.edit, entry.keys)
        best = np.asarray(matrix).max(axis=0).tolist() if matrix.size else [0.0] * len(texts)
        found.append(
            Candidate(
                entry.id, entry.edit, one.hit.mentioned, tuple(zip(texts, map(float, best))), one.hit.score,
                one.hit.threshold, one.verdicts, outcome, margin,
            )
        )  # fmt: skip
    return Explanation(query, k, thresholds, tuple(found), kept_out)


def kept_out(entries: Sequence[Entry], namespace: str, at: int | None, states: int) -> dict[str, int]:
    """How many edits the filters leave out of a search, by the first filter that does."""
    count = Counter[str]()
    for entry in entries:
        if entry.namespace != namespace:
            count["other namespace"] += 1
        elif not entry.passes(None, states):
            count[f"state {entry.record.state}" if entry.record else "state"] += 1
        elif not entry.passes(at, states):
            count["not valid now"] += 1
    return dict(sorted(count.items()))


def _outcome(one: Gated, beyond: bool) -> tuple[str, float]:
    if not one.hit.in_play:
        return "below similarity", one.hit.score - one.hit.threshold
    if failed := next((v for v in one.verdicts if not v.passes), None):
        return f"out of scope ({failed.check})", failed.probability - failed.threshold
    margin = min([v.probability - v.threshold for v in one.verdicts], default=one.hit.score - one.hit.threshold)
    return ("beyond k" if beyond else IN_PLAY), margin


def _row(c: Candidate) -> dict[str, Any]:
    verdicts = [
        {"check": v.check, "probability": v.probability, "threshold": v.threshold, "passes": v.passes, "top": v.top()}
        for v in c.verdicts
    ]
    said = {"id": c.id, "prompt": c.edit.prompt, "target_new": c.edit.target_new, "outcome": c.outcome, "why": c.why}
    more = {"mentioned": c.mentioned, "score": c.score, "threshold": c.threshold, "margin": c.margin}
    return said | more | {"views": dict(c.views), "verdicts": verdicts}
