"""Fits the learned check of the gate on labelled scope data."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lte.memory.encoder import Encoder, Vectors
from lte.memory.fault import MemoryFault
from lte.memory.gate import Mentions
from lte.memory.index import Entry
from lte.memory.scope import FEATURES, Floats, ScopeCheck, ScopeModel
from lte.memory.scope_rows import CHOOSE, FIT, ScopeRow
from lte.memory.scope_text import Side, side

FOLDS = 5
DIRECTIONS = 32  # of the learned relation; twice as many told no more apart on relations that it had not seen
LEARNED = FEATURES.index("relation_learned")
HARD = ("same_subject", "same_relation", "negation")  # kinds that are bounded; others are only told
FOLLOWS = "one_hop"  # kinds whose wording is not the relation's own


def fit_check(
    encoder: Encoder, rows: Sequence[ScopeRow], max_false_fire: float = 0.01, max_hard: float = 0.05
) -> ScopeModel:
    """The check, from the rows whose query mentions the edit's subject; the others never reach it.

    On the part "fit": linear discriminants of the blanked texts by group, the learned relation, then a logistic
    regression over all features. That learns what the relation says of wordings the discriminants were fitted
    without; trusted as it is on its own texts, it would be trusted too much. On the part "choose": Platt's scaling, and
    the threshold, the lowest at which no more than `max_false_fire` of the unrelated rows and `max_hard` of each kind
    of `HARD` pass.
    """
    from sklearn.linear_model import LogisticRegression

    rows = [row for row in rows if mentions(row)]
    fitted, chosen = ([row for row in rows if row.part == part] for part in (FIT, CHOOSE))
    _both(fitted, FIT)
    _both(chosen, CHOOSE)
    asked, stored = sides(fitted)
    vector = _vectors(encoder, [s.blanked for s in (*asked, *stored)])
    q, e = (np.stack([vector[s.blanked] for s in some]) for some in (asked, stored))
    center, projection = directions(fitted, asked, stored, vector)
    size, short = len(FEATURES), tuple(tuple(np.round(row, 3).tolist()) for row in projection)
    model = ScopeModel(
        encoder=encoder.id, center=_short(center), projection=short, mean=(0.0,) * size, scale=(1.0,) * size,
        weights=(0.0,) * size, bias=0.0, platt=(1.0, 0.0), threshold=0.5,
    )  # fmt: skip
    x = features_of(ScopeCheck(model, encoder), fitted)
    fold = np.array([zlib.crc32(s.blanked.encode()) % FOLDS for s in asked])
    for left_out in range(FOLDS):
        kept = {text: v for text, v in vector.items() if zlib.crc32(text.encode()) % FOLDS != left_out}
        without = directions(fitted, asked, stored, kept)
        part = replace(model, center=tuple(without[0]), projection=tuple(map(tuple, without[1])))
        mine = fold == left_out
        if mine.any():
            x[mine, LEARNED] = part.relation(q[mine], e[mine])
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < 1e-9] = 1.0
    model = replace(model, mean=_short(mean), scale=_short(scale))
    inside = np.array([row.in_scope for row in fitted])
    logistic = LogisticRegression(C=1.0, max_iter=2000)
    logistic.fit((x - np.array(model.mean)) / np.array(model.scale), inside, _weights(fitted))
    model = replace(model, weights=_short(logistic.coef_[0]), bias=float(logistic.intercept_[0]))
    return _scaled(model, encoder, chosen, max_false_fire, max_hard)


def _scaled(
    model: ScopeModel, encoder: Encoder, rows: Sequence[ScopeRow], max_false_fire: float, max_hard: float
) -> ScopeModel:
    """The model with Platt's scaling and the threshold, by rows that it was not fitted on."""
    from sklearn.linear_model import LogisticRegression

    x, inside = features_of(ScopeCheck(model, encoder), rows), np.array([row.in_scope for row in rows])
    logits = model.parts(x).sum(axis=1) + model.bias
    platt = LogisticRegression(C=1e6, max_iter=1000).fit(logits[:, None], inside, _weights(rows))
    model = replace(model, platt=(float(platt.coef_[0, 0]), float(platt.intercept_[0])))
    return replace(model, threshold=quiet_enough(rows, model.probability(x), max_false_fire, max_hard))


def directions(
    rows: Sequence[ScopeRow], asked: Sequence[Side], stored: Sequence[Side], vector: dict[str, Vectors]
) -> tuple[Floats, Floats]:
    """Center (dim,) and directions (n, dim) in which the blanked texts of different groups lie furthest apart.

    Fisher's linear discriminants with Ledoit and Wolf's shrinkage, on every text once; texts without a vector are out.
    """
    from sklearn.covariance import ledoit_wolf

    group: dict[str, str] = {}
    for row, query, edit in zip(rows, asked, stored):
        name = row.group or edit.blanked
        if row.in_scope and row.kind != FOLLOWS:
            group |= {text.blanked: name for text in (query, edit) if text.blanked in vector}
    names, labels = np.unique(list(group.values()), return_inverse=True)
    if len(names) < 2:
        raise MemoryFault("calibrate: the in-scope rows are of one relation; wanted several to tell apart")
    x = np.stack([vector[text] for text in group]).astype(np.float64)
    means = np.stack([x[labels == i].mean(axis=0) for i in range(len(names))])
    within, _ = ledoit_wolf(x - means[labels], assume_centered=True)
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-9))
    share = np.sqrt(np.bincount(labels) / len(labels))[:, None]
    _, _, main = np.linalg.svd(share * ((means - x.mean(axis=0)) @ whiten), full_matrices=False)
    found = main[: min(DIRECTIONS, len(names) - 1)] @ whiten.T
    found /= np.abs(found).max()
    sign = np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])
    return x.mean(axis=0), found * sign[:, None]


def quiet_enough(rows: Sequence[ScopeRow], chances: Floats, max_false_fire: float, max_hard: float) -> float:
    """The least threshold at which no bounded kind of out-of-scope row passes more often than it may.

    Where a file has none of these kinds, its out-of-scope rows are taken as one that is held to `max_false_fire`.
    """
    bounds = {"unrelated": max_false_fire} | dict.fromkeys(HARD, max_hard)
    kinds = {kind: bounds[kind] for kind in bounds if any(row.kind == kind and not row.in_scope for row in rows)}
    least = 0.0
    for kind, most in (kinds or {"": max_false_fire}).items():
        mine = [c for row, c in zip(rows, chances) if not row.in_scope and kind in ("", row.kind)]
        may = int(most * len(mine))
        if may < len(mine):
            least = max(least, float(np.sort(mine)[::-1][may]) + 1e-6)
    return round(least, 6)


def mentions(row: ScopeRow) -> bool:
    """Whether the query names the edit's subject or an alias."""
    known = Mentions()
    known.add("it", _entry(row).names)
    return bool(known.find(row.query))


def sides(rows: Sequence[ScopeRow]) -> tuple[list[Side], list[Side]]:
    """The queries and the edits' prompts, subjects blanked out."""
    names = [_entry(row).names for row in rows]
    return [side(r.query, n) for r, n in zip(rows, names)], [side(r.edit.prompt, n) for r, n in zip(rows, names)]


def features_of(check: ScopeCheck, rows: Sequence[ScopeRow]) -> Floats:
    """(n, features) of the rows, as the check sees them."""
    features, first = check.features([(row.query, _entry(row)) for row in rows])
    return features[first]


def _entry(row: ScopeRow) -> Entry:
    return Entry("", "", 0, row.edit)


def _vectors(encoder: Encoder, texts: Sequence[str]) -> dict[str, Vectors]:
    unique = list(dict.fromkeys(texts))
    return dict(zip(unique, encoder.encode(unique)))


def _both(rows: Sequence[ScopeRow], part: str) -> None:
    inside = sum(row.in_scope for row in rows)
    if not 0 < inside < len(rows):
        raise MemoryFault(
            f"calibrate: the part {part!r} has {inside} in-scope and {len(rows) - inside} out-of-scope rows whose "
            "query mentions the edit's subject; wanted some of each"
        )


def _weights(rows: Sequence[ScopeRow]) -> Floats:
    """In and out of scope weigh the same in all; within them a kind weighs by the root of its number."""
    count = Counter((row.in_scope, row.kind) for row in rows)
    total = {side_: sum(n**0.5 for (inside, _), n in count.items() if inside is side_) for side_ in (True, False)}
    return np.array([len(rows) / 2 / total[r.in_scope] / count[r.in_scope, r.kind] ** 0.5 for r in rows])


def _short(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{v:.4g}") for v in values)
