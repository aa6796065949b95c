"""The stages of the gate in turn: similarity and mention, then what checks are set, then the cut at k."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lte.memory.encoder import Encoder
from lte.memory.fault import MemoryFault
from lte.memory.index import Hit
from lte.memory.scope import Check, ScopeCheck, Verdict, read_model, shipped

log = logging.getLogger(__name__)
MORE = 12  # candidates beyond k that stage 1 hands on: those a check refuses must not leave a place empty


@dataclass(frozen=True)
class Gated:
    """A candidate, and the verdict of each check that had one."""

    hit: Hit
    verdicts: tuple[Verdict, ...] = ()

    @property
    def in_play(self) -> bool:
        """Whether every stage lets it through."""
        return self.hit.in_play and all(verdict.passes for verdict in self.verdicts)


class Gate:
    """Stage 1 stands in the index's hits; this asks the checks and cuts at k."""

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self.checks = tuple(checks)

    def deep(self, k: int) -> int:
        """How many candidates of a query to ask the index for."""
        return k + MORE if self.checks else k

    def cut(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]], k: int, all_scores: bool) -> list[list[Gated]]:
        """The first k candidates of each query that are in play; with `all_scores` behind them those that are not."""
        said = [check.verdicts(queries, hits) for check in self.checks]
        found = []
        for i, of_query in enumerate(hits):
            all_ = [Gated(h, tuple(v for c in said if (v := c[i][j]) is not None)) for j, h in enumerate(of_query)]
            kept = sorted(all_, key=lambda g: not g.in_play) if all_scores else [g for g in all_ if g.in_play]
            found.append(kept[:k])
        return found


def gate_of(encoder: Encoder, scope: str, cross_encoder: str | None, cross_threshold: float) -> Gate:
    """The gate that settings ask for.

    scope  "auto": the check shipped with lte, where the encoder is the one it was fitted with; "off"; or a file that
           `lte memory calibrate --write` wrote, which another encoder is an error for
    """
    checks: list[Check] = []
    if scope == "auto":
        model = shipped()
        if model.encoder == encoder.id:
            checks.append(ScopeCheck(model, encoder))
        else:
            log.warning(
                "scope: the shipped check was fitted with encoder %s, and this memory has %s: similarity alone decides "
                "what is recalled; fit a check to your encoder with `lte memory calibrate --fit --write FILE`",
                model.encoder,
                encoder.id,
            )
    elif scope != "off":
        model = read_model(scope)
        if model.encoder != encoder.id:
            raise MemoryFault(
                f"{scope}: was fitted with encoder {model.encoder}, and this memory has {encoder.id}; fit it again "
                "(lte memory calibrate --fit), or set scope: off"
            )
        checks.append(ScopeCheck(model, encoder))
    if cross_encoder:
        checks.append(CrossCheck(cross_encoder, cross_threshold))
    return Gate(checks)


class CrossCheck:
    """A cross-encoder reads query and statement together; slower than the learned check, and good for any encoder.

    name       hub id or folder of a sentence-transformers `CrossEncoder` with one output, loaded with the first query
    threshold  the least score, after a sigmoid, at which an edit stays in play
    """

    def __init__(self, name: str, threshold: float = 0.5) -> None:
        self.name, self.threshold = name, threshold
        self._model: Any = None
        self._lock = threading.Lock()

    def verdicts(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> list[list[Verdict | None]]:
        """A verdict of each hit."""
        pairs = [(query, hit.entry.edit.statement) for query, of_query in zip(queries, hits) for hit in of_query]
        if not pairs:
            return [[] for _ in hits]
        with self._lock:
            logits = np.asarray(self._loaded().predict(pairs, activation_fn=_as_it_is(), show_progress_bar=False))
        if logits.shape != (len(pairs),):
            raise MemoryFault(
                f"cross_encoder {self.name}: gave scores of shape {logits.shape}, wanted {(len(pairs),)}; name a model "
                "with one output, such as cross-encoder/ms-marco-MiniLM-L6-v2"
            )
        scores = iter((1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))).tolist())
        return [[Verdict("cross_encoder", next(scores), self.threshold) for _ in of_query] for of_query in hits]

    def _loaded(self) -> Any:
        if self._model is None:
            try:
                self._model = importlib.import_module("sentence_transformers").CrossEncoder(self.name)
            except (OSError, ValueError) as error:
                raise MemoryFault(
                    f"cross_encoder {self.name}: cannot be loaded ({error}); name a hub id or folder of a "
                    "sentence-transformers CrossEncoder, or set cross_encoder: null"
                ) from error
        return self._model


def _as_it_is() -> Any:
    return importlib.import_module("torch").nn.Identity()
