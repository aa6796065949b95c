"""The errors of the memory."""

from __future__ import annotations


class MemoryFault(RuntimeError):
    """Something the memory cannot do; the message says what came, what was wanted and how to mend it."""


class UnknownEdit(MemoryFault):
    """An id under which no edit is in force."""
