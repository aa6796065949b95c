"""The errors of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lte.memory.conflicts import Conflict


class MemoryFault(RuntimeError):
    """Something the memory cannot do; the message says what came, what was wanted and how to mend it."""


class UnknownEdit(MemoryFault):
    """An id under which there is no edit, or none any more."""


class Outdated(MemoryFault):
    """The record was changed since the caller saw it; nothing was written."""


class ConflictFault(MemoryFault):
    """An edit that contradicts or repeats others, which the caller would not have; nothing was written."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        self.conflicts = list(conflicts)
        first = conflicts[0]
        more = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        super().__init__(
            f"a {first.kind} of {first.record.id} ({first.record.edit.statement!r:.120}){more}; change the edit, or "
            f"say on_conflict: supersede (the new one takes their place) or coexist (the one written last is recalled)"
        )
