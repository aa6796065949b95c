"""Our own case files: one `Case` a line, as `lte.edits.write_jsonl` writes them."""

from __future__ import annotations

from pathlib import Path

from lte.edits import Case, EditError, read_cases
from lte.evaluate.config import EvaluateError


def load(path: Path) -> list[Case]:
    """Every case of a JSONL file."""
    try:
        return read_cases(path)
    except EditError as error:
        raise EvaluateError(str(error)) from error
