"""The tests of a memory's edits without a server: over the model in this process, as it would be served."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lte.memory import Author, EditMemory, MemoryFault, Record
from lte.memory.checks import Outcome
from lte.serve.checks import Checks
from lte.serve.config import ServeConfig
from lte.serve.edits_ops import EditOps
from lte.serve.engine import LM, EmbeddedEngine
from lte.serve.errors import ServeError
from lte.serve.store import Store

logger = logging.getLogger(__name__)
Which = Literal["all", "changed"] | Sequence[str]


@dataclass(frozen=True)
class Tested:
    """An edit's tests as they came out; `error` where they could not be run; `state`: the edit's, afterwards."""

    id: str
    outcomes: tuple[Outcome, ...]
    state: str
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether all were run and passed."""
        return self.error is None and all(outcome.passed for outcome in self.outcomes)


def run_edit_tests(
    config: ServeConfig,
    load: Callable[[], LM],
    which: Which,
    namespace: str | None = None,
    quarantine: bool = False,
    by: Author | None = None,
) -> list[Tested]:
    """What comes of the tests of the memory that `config` names, on the model that `load` gives.

    which       all: of every edit that is not disabled; changed: those that did not pass as they are now, on this
                model, in an earlier run (noted in MEMORY.tested); or ids
    quarantine  put the edits that fail out of force, in the name of `by`
    """
    with EditMemory.open(config.memory, config.recall) as memory:
        noted = _noted(config)
        chosen = _chosen(memory, which, namespace, noted)
        if not chosen:
            return []
        lm = load()
        if config.adapter is not None and config.adapter not in lm.adapters:
            logger.warning("%s has no adapter %r: edits stand in its prompt alone", lm.name, config.adapter)
            config = config.model_copy(update={"adapter": None})
        tested, passed = asyncio.run(_run(config, lm, memory, chosen, quarantine, by or Author()))
    if config.memory != ":memory:":
        kept = {id: seq for id, seq in noted.items() if id not in {record.id for record in chosen}}
        text = json.dumps({"model": config.model, "passed": {**kept, **passed}}, sort_keys=True)
        _note(config).write_text(text + "\n", encoding="utf-8")
    return tested


async def _run(
    config: ServeConfig, lm: LM, memory: EditMemory, chosen: Sequence[Record], quarantine: bool, by: Author
) -> tuple[list[Tested], dict[str, int]]:
    engine, store = EmbeddedEngine(lm, config), Store(memory)
    ops = EditOps(store, Checks(config, engine, store))
    tested, passed = [], {}
    try:
        for record in chosen:
            try:
                done = await ops.test(record, quarantine, by)
            except ServeError as error:
                tested.append(Tested(record.id, (), record.state, str(error)))
                continue
            assert done.report is not None
            tested.append(Tested(record.id, done.report.outcomes, done.record.state))
            if done.report.passed:
                passed[record.id] = done.record.seq
    finally:
        await engine.close()
        await store.close()
    return tested, passed


def _chosen(memory: EditMemory, which: Which, namespace: str | None, noted: dict[str, int]) -> list[Record]:
    if not isinstance(which, str):
        records = [memory.record(id) for id in which]
        if bare := [record.id for record in records if not record.tests]:
            raise MemoryFault(f"{', '.join(bare)}: no tests; give the edit some, in `lte memory import` or the API")
        return records
    some = [r for r in memory.records(namespace) if r.tests and r.state != "disabled"]
    return [r for r in some if which == "all" or noted.get(r.id) != r.seq]


def _note(config: ServeConfig) -> Path:
    return Path(f"{config.memory}.tested")


def _noted(config: ServeConfig) -> dict[str, int]:
    """The change at which each edit passed last, on the same model."""
    try:
        said: Any = json.loads(_note(config).read_text(encoding="utf-8"))
        return dict(said["passed"]) if said["model"] == config.model else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # a run more, at worst
