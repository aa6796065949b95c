"""Published records of edits, and your own, made into cases: read alike to align on and to evaluate on."""

from __future__ import annotations

from lte.records.record import RecordError

__all__ = ["RecordError"]
