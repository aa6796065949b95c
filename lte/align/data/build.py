"""Sources to Parquet, in four stages: items are drawn, drafts made, own answers asked, rows written.

Every stage is a function of the settings, and each leaves a whole file or none. A run that was killed is started again
by the same command: finished stages are taken up, and of the answers only those are asked that were not heard.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lte.align.data.answers import Base, Cache
from lte.align.data.card import card
from lte.align.data.config import DataConfig
from lte.align.data.near import Encode, Nearest
from lte.align.data.pool import Pool
from lte.align.data.roles import ROLES, Draft, drafts
from lte.align.data.shards import FIGURES, read_figures
from lte.align.data.work import Report, begun, held_out, packed, read_drafts, read_items, same_settings, write_whole
from lte.align.data.write import write_rows
from lte.align.dataset import AlignError
from lte.align.leaks import Guard
from lte.align.sources import KINDS, Tally, draw
from lte.align.sources.files import file_hash
from lte.prompt import TEMPLATE_ID

BLOCK = 256  # items whose near misses are sought together
REMOVED = "removed.jsonl"


def build_data(
    config: DataConfig, output: Path, base: Callable[[], Base], encode: Encode | None, report: Report
) -> dict[str, Any]:
    """Build the dataset into `output`; its figures come back, also where it was there already.

    base    gives the model, whose loading waits until the sources are known to be good
    encode  texts to unit vectors, as the memory encodes them; needed for near misses
    """
    told = identity(config)
    if (output / FIGURES).exists():
        done = read_figures(output)
        same_settings(done["settings"], told, output)
        return done
    work = begun(output, json.dumps(told))
    if not (work / "items.json").exists():
        _draw(config, work, report)
    facts = json.loads((work / "items.json").read_text(encoding="utf-8"))
    if not (work / "drafts.json").exists():
        _draft(config, work, encode, report)
    facts |= json.loads((work / "drafts.json").read_text(encoding="utf-8"))
    facts["missing"] = [role for role in ROLES if getattr(config.rates, role) and not facts["drafted"].get(role)]
    if missing := [role for role in facts["missing"] if role in config.rates.model_fields_set]:
        raise AlignError(
            f"rates.{missing[0]}: no source has an item for it (nor for any of {', '.join(missing)}); set it to 0, or "
            "name a source that fills it"
        )
    model = base()
    cache = Cache(config.cache, model.id, config.max_new_tokens)
    asked = (d.query for d in read_drafts(work) if d.own)
    cache.ask(asked, model, config.chunk, report)
    figures: dict[str, Any] = {**write_rows(config, work, output, model, cache, report), **facts, "settings": told}
    figures |= {"model": model.name, "base": model.id, "template": TEMPLATE_ID}
    licences = {n: s.licence or KINDS[s.kind].licence or "not stated" for n, s in config.sources.items()}
    figures["licences"] = licences
    shutil.copyfile(work / REMOVED, output / REMOVED)
    write_whole(output / "README.md", [card(figures)])
    write_whole(output / FIGURES, [json.dumps(figures, indent=1, ensure_ascii=False)])
    shutil.rmtree(work)
    return figures


def identity(config: DataConfig) -> dict[str, Any]:
    """What a dataset is made with: its settings, and the hash of each local file; of a hub's, its revision if named."""
    told: dict[str, Any] = json.loads(config.model_dump_json(exclude={"cache"}))
    for kind in ("sources", "held_out"):
        for source in told[kind].values():
            source["sha256"] = file_hash(source["path"])
    return told


def _draw(config: DataConfig, work: Path, report: Report) -> None:
    """Stage 1: the items, without what evaluation asks, into items.jsonl."""
    guard, tally = Guard.of(held_out(config)), dict[str, Tally]()

    def lines() -> Iterator[str]:
        found = draw(config.sources, config.items, config.seed, config.buffer, guard.keep, tally)
        for n, drawn in enumerate(found, 1):
            if config.items:
                report("items", n, config.items)
            yield json.dumps(packed(drawn), ensure_ascii=False)

    write_whole(work / "items.jsonl", lines())
    write_whole(work / REMOVED, (json.dumps(asdict(leak), ensure_ascii=False) for leak in guard.removed))
    facts = {
        "sources": {name: asdict(t) for name, t in tally.items()},
        "removed": dict(sorted(Counter(f"{leak.file}: {leak.what}" for leak in guard.removed).items())),
        "held_out": list(config.held_out),
    }
    write_whole(work / "items.json", [json.dumps(facts)])


def _draft(config: DataConfig, work: Path, encode: Encode | None, report: Report) -> None:
    """Stage 2: every row but its target, into drafts.jsonl."""
    pool = Pool((d.item for d in read_items(work)), config.pool, config.seed)
    if len({known.subject or known.statement for known in pool.all}) < 2:
        raise AlignError(
            f"the sources hold {len(pool.all)} edits about fewer than two subjects; edits stand beside others: name "
            "more sources, or raise items"
        )
    nearest = None
    if config.rates.near_miss and (encode is not None or "near_miss" in config.rates.model_fields_set):
        if encode is None:
            raise AlignError("rates.near_miss: no encoder was given; give one, or set it to 0")
        nearest = Nearest(pool, encode, report)
    roles: Counter[str] = Counter()
    total = json.loads((work / "items.json").read_text(encoding="utf-8"))["sources"]
    items = sum(t["drawn"] for t in total.values())

    def lines() -> Iterator[str]:
        block: list[Draft] = []
        for owner, drawn in enumerate(read_items(work)):
            block += drafts(owner, drawn.source, drawn.item, pool, config)
            if owner % BLOCK == BLOCK - 1 or owner == items - 1:
                for made in nearest.fill(block) if nearest else [d for d in block if not d.nearest]:
                    roles[made.role] += 1
                    yield json.dumps(asdict(made), ensure_ascii=False)
                block = []
                report("drafts", owner + 1, items)

    write_whole(work / "drafts.jsonl", lines())
    write_whole(work / "drafts.json", [json.dumps({"drafted": dict(roles), "pool": len(pool.all)})])
