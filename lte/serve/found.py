"""What the memory has to say to a question, before any engine is asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lte.edits import Edit
from lte.serve.errors import ServeError
from lte.serve.question import Question
from lte.serve.store import Recalled, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The edits recalled for each query of a question, nearest first.

    seq       the memory's newest change that was seen; None where the memory has not said it
    degraded  the memory failed, and the settings let the question pass without its edits
    """

    recalled: Sequence[Sequence[Recalled]]
    seq: int | None
    degraded: bool = False

    @property
    def edits(self) -> tuple[tuple[Edit, ...], ...]:
        """For each query, the edits to put in front of it."""
        return tuple(tuple(r.edit for r in own) for own in self.recalled)

    @property
    def none(self) -> tuple[tuple[Edit, ...], ...]:
        """No edit for any query."""
        return tuple(() for _ in self.recalled)


def unlooked(question: Question, store: Store, degraded: bool = False) -> Found:
    """What is known of a question for which the memory is not asked."""
    return Found([() for _ in question.queries], store.seq, degraded)


async def look_up(store: Store, question: Question, most: int, namespace: str, passthrough: bool) -> Found:
    """The edits that each query of a question touches, at most `most` for each.

    Raises `ServeError` (503) where the memory cannot say, so that no answer is silently unedited; with `passthrough`
    the question goes on without edits, and the log and the result say so.
    """
    try:
        recalled = [await store.recall(query, most, namespace) if query.strip() else () for query in question.queries]
    except Exception as error:
        if isinstance(error, ServeError) and error.status < 500:
            raise
        if not isinstance(error, ServeError):
            logger.error("recall failed", exc_info=error)
            error = ServeError("recall of edits failed; the log has the reason", 503, None, "retrieval_failed", 1)
        if not passthrough:
            raise error from error.__cause__
        logger.warning("a question was answered without its edits: %s", error)
        return unlooked(question, store, degraded=True)
    return Found(recalled, store.seq)


async def explained(store: Store, question: Question, most: int, namespace: str) -> list[Any]:
    """For each query, the edits nearest to it with score, threshold and verdict, whether they were recalled or not."""
    nearest = [await store.nearest(query, most, namespace) if query.strip() else () for query in question.queries]
    return [[told(r) | {"in_play": getattr(r, "in_play", True)} for r in own] for own in nearest]


def told(recalled: Recalled) -> dict[str, Any]:
    """An edit that came near, as a response names it: by its id, never by its words."""
    shown = {name: getattr(recalled, name) for name in ("score", "threshold", "mentioned") if hasattr(recalled, name)}
    return {"id": recalled.edit.id, **shown}
