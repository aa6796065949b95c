"""The last stage: rows with their targets, in shuffled order, as long as they may be, into Parquet."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lte.align.data.answers import Base, Cache
from lte.align.data.config import DataConfig
from lte.align.data.roles import ROLES, Draft
from lte.align.data.shards import Shards
from lte.align.data.work import Report, draft_of, held_out, offsets
from lte.align.dataset import AlignError
from lte.align.leaks import Guard
from lte.prompt import with_edits


@dataclass
class Losses:
    """Rows that were not written, and why; rows that were written shorter."""

    twice: int = 0
    leaked: int = 0
    unfinished: int = 0  # the own answer did not come to its end
    empty: int = 0  # the own answer is no word
    no_gold: int = 0
    too_long: int = 0
    cut: int = 0  # written, with fewer edits
    by_role: dict[str, int] = field(default_factory=dict)

    def note(self, why: str, role: str) -> None:
        """Count a row of a role that is not written."""
        setattr(self, why, getattr(self, why) + 1)
        self.by_role[role] = self.by_role.get(role, 0) + 1


def write_rows(
    config: DataConfig, work: Path, output: Path, base: Base, cache: Cache, report: Report
) -> dict[str, Any]:
    """Write the rows of all drafts into `output`/data; their figures."""
    path = work / "drafts.jsonl"
    size, free = path.stat().st_size, shutil.disk_usage(output).free
    if 2 * size > free:
        raise AlignError(f"{output}: {free} bytes are free, and the dataset takes up to {2 * size}; make room")
    places = offsets(path)
    random.Random(f"{config.seed}:order").shuffle(places)
    shutil.rmtree(output / "data", ignore_errors=True)  # of a run that was killed while it wrote
    shards, lost, seen = Shards(work / "data", config.shard_rows), Losses(), set[int]()
    counts: Counter[tuple[str, str]] = Counter()
    lengths: dict[str, list[int]] = {"prompt_tokens": [], "answer_tokens": []}
    samples: dict[str, dict[str, str]] = {}
    # items were guarded one by one; what was put together of several may hold an evaluation prompt all the same
    guard = Guard.of(held_out(config))
    with path.open("rb") as file, cache.reading() as db:
        for n, place in enumerate(places, 1):
            file.seek(place)
            draft = draft_of(file.readline())
            answer = draft.gold
            if draft.own:
                known = cache.known(draft.query, db)
                if known is None or known[0] is None:
                    lost.note("unfinished", draft.role)
                    continue
                [answer] = known
            if not (answer and answer.strip()):
                lost.note("empty" if draft.own else "no_gold", draft.role)
                continue
            if guard.prompts.inside(draft.prompt):
                lost.note("leaked", draft.role)
                continue
            row = _fitted(draft, answer, base, config, lost)
            if row is None:
                continue
            if (once := hash_of(row["prompt"])) in seen:
                lost.note("twice", draft.role)
                continue
            seen.add(once)
            shards.add(row)
            counts[draft.source, draft.role] += 1
            for name in lengths:
                lengths[name].append(row[name])
            samples.setdefault(draft.role, {"prompt": row["prompt"], "answer": answer})
            if n % 1000 == 0 or n == len(places):
                report("rows", n, len(places))
    files = shards.close()
    if not shards.count:
        raise AlignError(f"none of {len(places)} rows could be written: {asdict(lost)}; see to the targets and lengths")
    (work / "data").rename(output / "data")
    return {
        "rows": shards.count, "sha256": shards.sha256, "files": files,
        "roles": {r: c for r in ROLES if (c := sum(v for (_, role), v in counts.items() if role == r))},
        "rows_by_source": {s: {r: counts[s, r] for r in ROLES if counts[s, r]} for s in config.sources},
        "tokens": {name: _spread(values) for name, values in lengths.items()},
        "lost": asdict(lost), "samples": {r: samples[r] for r in ROLES if r in samples},
    }  # fmt: skip


def _fitted(draft: Draft, answer: str, base: Base, config: DataConfig, lost: Losses) -> dict[str, Any] | None:
    """The row, shortened by rule where it is too long; None where it stays so."""
    statements, [said] = list(draft.statements), base.count([answer], False)
    spare = [s for s in statements if s not in draft.needed]
    least = min(1, len(statements))  # a role without needed edits keeps one: it is about edits that do not concern it
    while True:
        prompt = with_edits(statements, draft.query)
        [read] = base.count([prompt], True)
        if read + said < config.max_length:  # and the end mark
            break
        if config.too_long == "refuse":
            raise AlignError(
                f"{draft.source}: {draft.item}: a row of {read + said + 1} tokens ({draft.role}); raise max_length, or "
                "set too_long to cut or drop"
            )
        if config.too_long == "drop" or not spare or len(statements) <= least:
            lost.note("too_long", draft.role)
            return None
        statements.remove(spare.pop())
    lost.cut += len(statements) < len(draft.statements)
    return {
        "prompt": prompt, "answer": answer, "role": draft.role, "source": draft.source, "item": draft.item,
        "query": draft.query, "edits": statements, "target": "own" if draft.own else "gold",
        "prompt_tokens": read, "answer_tokens": said,
    }  # fmt: skip


def hash_of(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _spread(values: list[int]) -> dict[str, float]:
    order = sorted(values)
    at = {f"p{p}": order[min(len(order) - 1, p * len(order) // 100)] for p in (50, 95, 99)}
    return {"mean": round(sum(order) / len(order), 1), **at, "max": order[-1], "sum": sum(order)}
