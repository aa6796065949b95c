"""Samples on disk as they come: one JSON object per case, a unit at a time, so that a killed run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lte.evaluate.config import EvaluateError

Row = dict[str, Any]


def read_samples(path: Path) -> Iterator[Row]:
    """The rows of a samples file; a last line that was cut short by a kill is not a row."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise EvaluateError(
                    f"{path}:{number}: not JSON ({error}); the file was changed by hand: remove it and run again"
                ) from error


class Journal:
    """The samples file of one benchmark under one editor.

    A unit is a set of cases whose edits were in force together; it is written whole, and only a whole unit counts.
    `done` maps the key of each finished unit to its number of rows.
    """

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        """Open `path`, keep its finished units, cut off an unfinished one. `sizes`: rows of each unit of this run."""
        self.path = path
        self.done: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._take_over(sizes)

    def _take_over(self, sizes: Mapping[str, int]) -> None:
        rows: dict[str, list[Row]] = {}
        for row in read_samples(self.path):
            rows.setdefault(row["unit"], []).append(row)
        if strange := [key for key in rows if key not in sizes]:
            raise EvaluateError(
                f"{self.path}: holds answers to other questions or settings (unit {strange[0]}); "
                "resume with the settings it was begun with, or give a fresh --output folder"
            )
        self.done = {key for key, found in rows.items() if len(found) == sizes[key]}
        kept = [row for key in rows if key in self.done for row in rows[key]]
        fresh = self.path.with_suffix(".part")
        fresh.write_text(_lines(kept), encoding="utf-8")
        os.replace(fresh, self.path)  # never a moment without the finished rows

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows of one unit; they are on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())
        self.done |= {row["unit"] for row in rows}

    def rows(self) -> Iterator[Row]:
        """Every row so far."""
        return read_samples(self.path) if self.path.exists() else iter(())


def _lines(rows: Collection[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
