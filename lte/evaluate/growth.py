"""What a sequence of edits does on its way: how far the weights move, and how each batch stood right after it came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lte.evaluate.intervals import estimates
from lte.evaluate.journal import Key

if TYPE_CHECKING:
    from lte.editors.base import Handle


def norms(handle: Handle | None) -> dict[str, float] | None:
    """How far the edits in force moved the weights they touch: Frobenius norms over all of these weights together.

    change  ‖ΔW‖ / ‖W‖        norm  ‖W + ΔW‖ / ‖W‖

    `None` where no weight is touched, or where an editor keeps no `Rewrite` of one.
    """
    if handle is None or not handle.touched or set(handle.rewrites) != set(handle.touched):
        return None
    before, change, now = (0.0, 0.0, 0.0)
    for W in handle.rewrites.values():
        before += float(W.before.double().square().sum())
        change += float(W.change.double().square().sum())
        now += float(W.exact.double().square().sum())
    return {"change": math.sqrt(change / before), "norm": math.sqrt(now / before)} if before else None


def growth(by_seed: Sequence[Iterable[tuple[Key, Any]]]) -> list[dict[str, float]]:
    """The norms of `norms` by how many edits are in force, mean over sequences, at powers of two and at the end."""
    chains: dict[tuple[int, int], list[tuple[int, dict[str, Any]]]] = {}
    for seed, records in enumerate(by_seed):
        for key, value in records:
            if key.kind == "step":
                chains.setdefault((seed, key.chain), []).append((key.first, value))
    found: dict[int, list[Mapping[str, float]]] = {}
    for steps in chains.values():
        edits = 0
        for _, value in sorted(steps, key=lambda step: step[0]):
            edits += value["edits"]
            if value["edits"] and value.get("norms"):
                found.setdefault(edits, []).append(value["norms"])
    return [
        {"in_force": n, **{name: sum(m[name] for m in found[n]) / len(found[n]) for name in ("change", "norm")}}
        for n in _milestones(list(found), 2)
    ]


def online(rows: Sequence[tuple[int, int, Mapping[str, float]]], resamples: int, seed: int) -> list[dict[str, Any]]:
    """The mean of the immediate figures of the first N edits, at powers of four and at the end.

    These are the curves of "Is Bigger Edit Batch Size Always Better?" (arXiv:2405.00664, Fig. 4 and 5): each batch is
    scored right after it came and never again, so they say nothing about what is retained.

    rows  (edits in force, doc id, values) of each case right after its step
    """
    return [
        {
            "in_force": n,
            "n": len(some),
            "values": told([v for *_, v in some], [doc for _, doc, _ in some], resamples, seed),
        }
        for n in _milestones([at for at, *_ in rows], 4)
        for some in [[row for row in rows if row[0] <= n]]
    ]


def told(values: Sequence[Mapping[str, float]], docs: Sequence[int], resamples: int, seed: int) -> dict[str, Any]:
    """Means with their intervals, as the results file holds them."""
    found = estimates(values, resamples, seed, docs)
    return {key: {"mean": e.mean, "low": e.low, "high": e.high, "n": e.n} for key, e in found.items()}


def _milestones(counts: Sequence[int], base: int) -> list[int]:
    """Of some counts the least at or above each power of `base`, and the last."""
    ordered = sorted(set(counts))
    if not ordered:
        return []
    wanted = {base**i for i in range(int(math.log(ordered[-1], base)) + 2)}
    return sorted({next(n for n in ordered if n >= w) for w in wanted if w <= ordered[-1]} | {ordered[-1]})
