"""Items drawn from weighted sources, one after another: the same ones for the same seed, none of them held for long."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from lte.align.dataset import AlignError
from lte.align.sources.files import records_of
from lte.align.sources.items import Item
from lte.align.sources.kinds import KINDS
from lte.config import Config
from lte.records.record import Record


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"no such kind of source; there are {', '.join(KINDS)}")
    return name


class SourceConfig(Config):
    """A source.

    kind      what its records are (`lte.align.sources.KINDS`)
    path      a JSON, JSONL or Parquet file, a folder, or a dataset's id on the hub
    weight    its share of the items, beside the other sources' weights
    limit     its first N records and no more
    licence   of the records; "": what the publishers of its kind state
    subset, split, revision, file   of a dataset on the hub: as `datasets` names them; `file` is one file of it
    """

    kind: Annotated[str, AfterValidator(_kind)]
    path: str
    weight: float = Field(1.0, gt=0)
    limit: int | None = Field(None, gt=0)
    licence: str = ""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    file: str | None = None


@dataclass
class Tally:
    """What became of a source's records: read, no case or unusable as they are, removed as leaks, given out."""

    read: int = 0
    unusable: int = 0
    removed: int = 0
    drawn: int = 0


@dataclass(frozen=True)
class Drawn:
    """An item and the name of its source."""

    source: str
    item: Item


Keep = Callable[[str, Item], "Item | None"]


def draw(
    sources: Mapping[str, SourceConfig], items: int | None, seed: int, buffer: int, keep: Keep, tally: dict[str, Tally]
) -> Iterator[Drawn]:
    """Up to `items` items, each from a source chosen by weight; a source that has run out is not chosen again.

    buffer  items of a source that are held to be shuffled
    keep    what is left of an item of a source: the item, less of it, or None
    tally   filled as the items come
    Raises `AlignError` for a source without any usable record.
    """
    live = {}
    for name, source in sources.items():
        tally[name] = Tally()
        given = _items(name, source, keep, tally[name])
        live[name] = _shuffled(given, random.Random(f"{seed}:{name}"), buffer)
    chooser, n = random.Random(f"{seed}:sources"), 0
    while live and (items is None or n < items):
        [name] = chooser.choices(list(live), [sources[name].weight for name in live])
        item = next(live[name], None)
        if item is None:
            del live[name]
            continue
        tally[name].drawn += 1
        n += 1
        yield Drawn(name, item)


def _items(name: str, source: SourceConfig, keep: Keep, tally: Tally) -> Iterator[Item]:
    records = records_of(source.path, source.subset, source.split, source.revision, source.file)
    kept = 0

    def counted() -> Iterator[Record]:
        for record in records:
            if source.limit is not None and tally.read >= source.limit:
                return
            tally.read += 1
            yield record

    for item in KINDS[source.kind].items(counted()):
        if item is None:
            tally.unusable += 1
        elif (rest := keep(name, item)) is None:
            tally.removed += 1
        else:
            kept += 1
            yield rest
    if not kept:
        raise AlignError(
            f"sources.{name}: {source.path}: {tally.read} records, {tally.unusable} unusable, {tally.removed} removed "
            "as leaks: nothing is left of it; name a file with records, or leave the source out"
        )


def _shuffled(items: Iterator[Item], rng: random.Random, buffer: int) -> Iterator[Item]:
    held: list[Item] = []
    for item in items:
        if len(held) < buffer:
            held.append(item)
            continue
        place = rng.randrange(buffer)
        held[place], out = item, held[place]
        yield out
    rng.shuffle(held)
    yield from held
