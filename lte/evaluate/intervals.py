"""Means over cases and how far they can be trusted: a seeded bootstrap that draws whole cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lte.evaluate.metrics import HARMONIC, HARMONIC_OF, harmonic_mean


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` cases, its standard error and its 95% interval."""

    mean: float
    stderr: float
    low: float
    high: float
    n: int


def estimates(cases: Sequence[Mapping[str, float]], resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Every metric's mean over the cases that have it, S = harmonic mean of ES, PS and NS among them.

    A case's probes share its edit, so a draw takes the case with all of them (a cluster), and one draw serves every
    metric: S is then computed within each draw. The interval runs from the 2.5th to the 97.5th percentile.
    """
    keys = list(dict.fromkeys(key for case in cases for key in case))
    if not keys:
        return {}
    table = np.array([[case.get(key, np.nan) for key in keys] for case in cases])
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, len(keys)))
    for b in range(resamples):
        drawn = np.bincount(rng.integers(len(cases), size=len(cases)), minlength=len(cases))
        weight = drawn @ present
        means[b] = np.where(weight > 0, drawn @ filled / np.maximum(weight, 1), np.nan)
    n = present.sum(0)
    found = {k: _estimate(float(filled[:, i].sum() / n[i]), means[:, i], int(n[i])) for i, k in enumerate(keys)}
    if all(key in found for key in HARMONIC_OF):
        at = [keys.index(key) for key in HARMONIC_OF]
        drawn_s = np.array([harmonic_mean(list(row)) for row in means[:, at] if not np.isnan(row).any()])
        found[HARMONIC] = _estimate(
            harmonic_mean([found[key].mean for key in HARMONIC_OF]), drawn_s, min(found[k].n for k in HARMONIC_OF)
        )
    return found


def _estimate(mean: float, draws: np.ndarray, n: int) -> Estimate:
    draws = draws[~np.isnan(draws)]  # a draw may hold no case that has the metric
    low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) else (mean, mean)
    return Estimate(mean, float(draws.std(ddof=1)) if len(draws) > 1 else 0.0, float(low), float(high), n)
