"""Records of a benchmark file, read so that an unreadable one is named by file, number and field."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lte.edits import Case, Edit, EditError, Probe
from lte.evaluate.config import EvaluateError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One object of a benchmark file and where it stands."""

    fields: dict[str, Any]
    path: Path
    number: int

    def error(self, field: str, problem: str) -> EvaluateError:
        """An error that names file, record, field and remedy."""
        return EvaluateError(f"{self.path}: record {self.number}: {field}: {problem}; correct or remove this record")

    def text(self, field: str) -> str:
        """The field as text that is not empty."""
        value = self.fields.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, f"expected text, got {value!r}" if field in self.fields else "missing")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """The field as a list of texts; a missing field is an empty list."""
        value = self.fields.get(field) or []
        if not isinstance(value, list) or any(not isinstance(t, str) or not t.strip() for t in value):
            raise self.error(field, f"expected a list of texts, got {value!r}")
        return tuple(value)

    def gold(self, field: str, value: Any) -> tuple[str, ...]:
        """Every accepted answer in a text, a list of texts, or a list of alias lists; empty ones are left out."""
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,) if value.strip() else ()
        if isinstance(value, list):
            return tuple(dict.fromkeys(a for part in value for a in self.gold(field, part)))
        raise self.error(field, f"expected text, a list of texts or a list of alias lists, got {value!r}")

    def probes(self, field: str) -> tuple[Probe, ...]:
        """The probes of {aspect: [{prompt, ground_truth}, ...]}, every one of them, aspects kept."""
        groups = self.fields.get(field) or {}
        if not isinstance(groups, dict):
            raise self.error(field, f"expected an object of aspects, got {type(groups).__name__}")
        found = []
        for aspect, items in groups.items():
            if not isinstance(items, list | None):
                raise self.error(f"{field}.{aspect}", f"expected a list, got {type(items).__name__}")
            for i, item in enumerate(items or ()):
                where = f"{field}.{aspect}[{i}]"
                prompt = item.get("prompt") if isinstance(item, dict) else None
                if not isinstance(prompt, str) or not prompt.strip():
                    raise self.error(f"{where}.prompt", f"expected text, got {prompt!r}")
                found.append(Probe(prompt, self.gold(f"{where}.ground_truth", item.get("ground_truth")), aspect))
        return tuple(found)

    def edit(self, prompt: str, target_new: str, subject: str = "", target_true: str | None = None) -> Edit:
        """The record's edit; what `Edit` refuses is refused with the record's place."""
        try:
            return Edit(prompt, target_new, subject, target_true)
        except EditError as error:
            raise EvaluateError(f"{self.path}: record {self.number}: {error}; correct or remove this record") from error


def read_records(path: Path) -> list[Record]:
    """The objects of a JSON array or of a JSONL file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluateError(f"{path}: cannot be read ({error}); give the path of a JSON or JSONL file") from error
    try:
        if text.lstrip().startswith("["):
            rows: Iterable[Any] = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise EvaluateError(f"{path}: not JSON ({error}); wanted an array of records, or one record a line") from error
    records = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise EvaluateError(f"{path}: record {number}: expected an object, got {type(row).__name__}; remove it")
        records.append(Record(row, path, number))
    return records


def read_cases(path: Path, case: Callable[[Record], Case]) -> list[Case]:
    """The case of every record; a question one hop on without an answer cannot be scored and is left out, with word."""
    cases, dropped = [], 0
    for record in read_records(path):
        made = case(record)
        answerable = tuple(p for p in made.portability if p.answers)
        dropped += len(made.portability) - len(answerable)
        cases.append(Case(made.id, made.edit, made.generalization, answerable, made.locality, made.tags))
    if dropped:
        log.warning("%s: %d portability questions have no answer and are not asked", path, dropped)
    return cases
