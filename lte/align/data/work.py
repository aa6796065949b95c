"""The files of a build under way: each whole or not there, and read one line at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lte.align.data.config import DataConfig
from lte.align.data.roles import Draft
from lte.align.dataset import AlignError
from lte.align.sources import Drawn, Item, Stated, draw
from lte.edits import case_from, row_of

WORK = ".work"
Report = Callable[[str, int, int], None]


def same_settings(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    """Raise `AlignError` where a finished dataset has other settings."""
    if other := sorted(k for k in {*before, *now} if before.get(k) != now.get(k)):
        raise AlignError(
            f"{output}: holds a dataset of other settings ({', '.join(other)}); name another folder, or remove this one"
        )


def begun(output: Path, settings: str) -> Path:
    """The folder of the stages' files; those of other settings are begun anew: answers are kept elsewhere."""
    work = output / WORK
    if output.exists() and not output.is_dir():
        raise AlignError(f"{output}: is a file; name a folder")
    if output.exists() and not work.exists() and any(output.iterdir()):
        raise AlignError(f"{output}: holds other files; name a folder that is new or empty")
    told = work / "settings.json"
    if told.exists() and told.read_text(encoding="utf-8").strip() != settings:
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_whole(told, [settings])
    return work


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write lines into a file that is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    part.replace(path)


def offsets(path: Path) -> list[int]:
    """Where each line of a file begins."""
    with path.open("rb") as file:
        places, at = [], 0
        for line in file:
            places.append(at)
            at += len(line)
    return places


def packed(drawn: Drawn) -> dict[str, Any]:
    """An item as JSON, for `read_items`."""
    plain = asdict(drawn.item) if isinstance(drawn.item, Stated) else row_of(drawn.item)
    return {"source": drawn.source, "stated": isinstance(drawn.item, Stated), "item": plain}


def read_items(work: Path) -> Iterator[Drawn]:
    """The items of the first stage."""
    with (work / "items.jsonl").open(encoding="utf-8", newline="\n") as file:
        for line in file:
            row = json.loads(line)
            plain = row["item"]
            if row["stated"]:
                yield Drawn(row["source"], Stated(**{**plain, "statements": tuple(plain["statements"])}))
            else:
                yield Drawn(row["source"], case_from(plain))


def read_drafts(work: Path) -> Iterator[Draft]:
    """The drafts of the second stage."""
    with (work / "drafts.jsonl").open("rb") as file:
        yield from map(draft_of, file)


def draft_of(line: bytes) -> Draft:
    """The draft of a line of that file."""
    row = json.loads(line)
    return Draft(**{**row, "statements": tuple(row["statements"]), "needed": tuple(row["needed"])})


def held_out(config: DataConfig) -> dict[str, list[Item]]:
    """The items of each evaluation file."""
    by_file: dict[str, list[Item]] = {name: [] for name in config.held_out}
    for drawn in draw(config.held_out, None, 0, 1, lambda _, item: item, {}):
        by_file[drawn.source].append(drawn.item)
    return by_file
