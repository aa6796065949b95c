"""An edit's tests on the server's engine: each question as a client would put it, with the edit in force or without."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lte.memory import Record
from lte.memory.checks import Outcome, run_tests
from lte.memory.trial import Trial
from lte.serve.config import ServeConfig
from lte.serve.edits_shown import outcome_json
from lte.serve.errors import ServeError
from lte.serve.question import Engine, Question
from lte.serve.store import Store
from lte.serve.told import texts


@dataclass(frozen=True)
class Report:
    """What came of a record's tests; `error` where they could not be run."""

    outcomes: tuple[Outcome, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether all of them were run and passed."""
        return self.error is None and all(outcome.passed for outcome in self.outcomes)

    @property
    def json(self) -> dict[str, Any]:
        """As a response shows it."""
        return {"passed": self.passed, "error": self.error, "results": [outcome_json(o) for o in self.outcomes]}


class Checks:
    """Runs tests over the engine and the memory of a server."""

    def __init__(self, config: ServeConfig, engine: Engine, store: Store) -> None:
        self._config, self._engine, self._store = config, engine, store

    async def run(self, record: Record, instead: Collection[str] = ()) -> Report:
        """What comes of the tests with the record in force, whether it is or not, in the place of `instead`.

        Raises `ServeError` where the engine or the memory fails.
        """
        loop, stopped = asyncio.get_running_loop(), threading.Event()
        trial = await self._store.read(lambda memory: Trial(memory, record, self._config.k, instead))

        def ask(prompt: str, in_force: bool) -> str:
            if stopped.is_set():
                raise ServeError("the client closed the connection", 499, code="client_closed")
            return asyncio.run_coroutine_threadsafe(self._ask(trial, prompt, in_force), loop).result()

        try:
            return Report(tuple(await asyncio.to_thread(run_tests, record.tests, ask)))
        finally:
            stopped.set()
            await self._store.read(lambda memory: trial.close())

    async def _ask(self, trial: Trial, prompt: str, in_force: bool) -> str:
        edits = await self._store.read(lambda memory: trial.edits(prompt, in_force))
        asked: dict[str, Any] = {
            "model": self._config.name or self._engine.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0.0,
            "max_tokens": self._config.limits.test_tokens,
        }
        question = Question(True, self._engine.kinds[0].model_validate(asked), json.dumps(asked).encode())
        self._engine.accept(question)
        reply = await self._engine.reply(question, (edits,))
        answers = texts(reply)
        if reply.status >= 400 or not answers:
            text = f"a test could not be run: the engine answered {reply.status} {reply.content[:200]!r}"
            raise ServeError(text, 502, code="upstream_error")
        return answers[0]
