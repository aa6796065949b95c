"""Files of records: a JSON array or one object a line; the cases of all of them, or everything that is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lte.edits import Case
from lte.records.record import Problem, Record, RecordError, short, told

log = logging.getLogger(__name__)
Maker = Callable[[Record], "Case | None"]  # None: no case, as the records' authors hold


def read_records(path: Path, found: list[Problem] | None = None) -> list[Record]:
    """The objects of a JSON array or of a JSONL file; with `found`, problems are gathered there and passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); give the path of a JSON or JSONL file") from error
    records = []
    for number, (line, row) in enumerate(_rows(path, text, found)):
        record = Record({}, path, number, line, found=found)
        if isinstance(row, dict):
            records.append(replace(record, fields=row))
        elif row is not None:
            record.refuse("", f"expected an object, got {type(row).__name__} {short(row)}", None)
    return records


def stream_records(path: Path) -> Iterator[Record]:
    """The objects of a file one after another; of a JSONL file no more than a line is held at a time."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # U+2028 inside a JSON string ends no line
            head = file.read(1 << 16).lstrip()
            file.seek(0)
            first = head.partition("\n")[0].strip()
            whole = head[:1] == "[" or first == "{"
            rows = _rows(path, file.read(), None) if whole else _lines(path, file, None)
            for number, (line, row) in enumerate(rows):
                record = Record({}, path, number, line)
                if not isinstance(row, dict):
                    record.refuse("", f"expected an object, got {type(row).__name__} {short(row)}", None)
                yield replace(record, fields=row)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); give the path of a JSON or JSONL file") from error


def _rows(path: Path, text: str, found: list[Problem] | None) -> Iterator[tuple[int | None, Any]]:
    """Line (None in an array) and value of every record; a line that is not JSON yields no value."""
    whole = text.lstrip()[:1] == "["
    try:
        if whole:
            yield from ((None, row) for row in json.loads(text))
            return
        first = next((line for line in text.split("\n") if line.strip()), "")
        if first.strip() == "{":  # one object over many lines
            yield None, json.loads(text)
            return
    except json.JSONDecodeError as error:
        _not_json(path, error.lineno, error, "wanted an array of records, or one record a line", found)
        return
    yield from _lines(path, text.split("\n"), found)  # not splitlines: U+2028 inside a JSON string ends no line


def _lines(path: Path, lines: Iterable[str], found: list[Problem] | None) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                _not_json(path, number, error, "wanted one object a line", found)
                row = None
            yield number, row


def _not_json(path: Path, line: int, error: Exception, wanted: str, found: list[Problem] | None) -> None:
    note = Problem("error", f"line {line}", "", f"not JSON ({error})", f"{wanted}; correct it")
    if found is None:
        raise told(path, note) from error
    found.append(note)


def read_cases(path: Path, case: Maker) -> list[Case]:
    """The case of every record; a question one hop on without an answer cannot be scored and is left out, with word."""
    cases, dropped, none = [], 0, 0
    for record in read_records(path):
        made = case(record)
        if made is None:
            none += 1
            continue
        answerable = tuple(p for p in made.portability if p.answers)
        dropped += len(made.portability) - len(answerable)
        cases.append(replace(made, portability=answerable))
    if none:
        log.warning("%s: %d records state no new fact and are left out, as their authors do", path, none)
    if dropped:
        log.warning("%s: %d portability questions have no answer and are not asked", path, dropped)
    return cases
