"""What a source yields: cases, and questions that come with their answer and with edits as sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lte.edits import Case

Scope = Literal["in", "out", "bare", "general"]


@dataclass(frozen=True)
class Stated:
    """A question and its answer as the source has them.

    statements  the edits above the question, each one sentence; none for "bare" and "general"
    scope       "in": an edit answers it; "out": edits stand and none does; "bare": the question of an "in" or "out"
                without its edits; "general": an instruction that is about no edit
    """

    id: str
    query: str
    answer: str
    statements: tuple[str, ...] = ()
    scope: Scope = "general"


Item = Case | Stated
