"""A row of the parallel dataset, and the error of this room."""

from __future__ import annotations

from dataclasses import dataclass


class AlignError(ValueError):
    """A dataset or a run that cannot be used; the message names the remedy."""


@dataclass(frozen=True)
class Row:
    """One example: the user's turn as the model will read it, the answer to learn, and what it is there for."""

    prompt: str
    answer: str
    role: str
