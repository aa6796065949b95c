"""The playground: one question, answered without edits and with them, and why those and no others."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lte.edits import EditError, checked
from lte.memory import EditMemory, Record
from lte.memory.explain import Explanation
from lte.memory.index import ACTIVE
from lte.prompt import with_edits
from lte.serve.completions import unless_gone
from lte.serve.errors import ServeError
from lte.serve.found import look_up
from lte.serve.pages.site import Site, form_of
from lte.serve.policy import caller_of
from lte.serve.question import Edits, Question
from lte.serve.told import normalised, texts, together

TOLD = frozenset({400, 413, 422, 429, 502, 503, 504})  # what is told beside the question
EXAMPLES = 4  # edits to ask about


@dataclass(frozen=True)
class Answered:
    """A question's two answers, and what the memory said to it.

    prompt  what the model reads with the edits in play; empty where none is
    """

    question: str
    base: str
    edited: str
    explanation: Explanation
    used: tuple[str, ...] = ()
    prompt: str = ""
    seq: int | None = None

    @property
    def same(self) -> bool:
        """Whether the edits made no difference."""
        return normalised(self.base) == normalised(self.edited)


def playground_pages(site: Site) -> APIRouter:
    """The form, and the answers to it."""
    router = APIRouter(prefix="/ui/playground", include_in_schema=False)

    async def drawn(request: Request, question: str, namespace: str | None, status: int = 200, **more: Any) -> Response:
        caller = caller_of(request)

        def look(memory: EditMemory) -> tuple[dict[str, int], list[Record]]:
            reach = namespace or (None if caller.reaches(None) else caller.namespace(None, site.config.namespace))
            newest = sorted(memory.records(reach, None, ACTIVE), key=lambda r: r.seq, reverse=True)
            return memory.namespaces(), newest[:EXAMPLES]

        counted, newest = await site.store.read(look)
        spaces = site.namespaces(caller, counted)
        own = namespace or caller.namespace(None, site.config.namespace)
        said = {"answered": None, "error": None, "question": question, "own": own, "spaces": spaces, "newest": newest}
        return site.page(request, "playground.html.j2", status, **{**said, **more})

    @router.get("")
    async def form(request: Request, q: str = "", namespace: str = "") -> Response:
        """The question is still to be asked."""
        return await drawn(request, q, namespace or None)

    @router.post("")
    async def ask(request: Request) -> Response:
        """The question, asked twice."""
        fields = await form_of(request)
        question, namespace = fields.get("question", "").strip(), fields.get("namespace") or None
        namespace = site.desk.namespace(request, namespace)
        try:
            found = await unless_gone(request, answered(site, question, namespace))
        except ServeError as error:
            if error.status not in TOLD:
                raise
            return await drawn(request, question, namespace, error.status, error=error)
        return await drawn(request, question, namespace, answered=found)

    return router


async def answered(site: Site, text: str, namespace: str) -> Answered:
    """A question's two answers; a `ServeError` where there is none."""
    if not text:
        raise ServeError("question: empty; ask something", 400, "question", "missing")
    try:
        checked("question", text)
    except EditError as error:
        raise ServeError(str(error), 422, "question", "invalid_question") from error
    config, engine, store = site.config, site.engine, site.store
    asked = {
        "model": config.name or engine.name,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0.0,
        "max_tokens": config.limits.default_tokens,
    }
    question = Question(True, engine.kinds[0].model_validate(asked), json.dumps(asked).encode())
    engine.accept(question)
    found = await look_up(store, question, config.k, namespace, False)

    why = await store.read(lambda memory: memory.explain(text, config.k, namespace))
    used = [edit for own in found.edits for edit in own]
    ways = [found.none, found.edits] if used else [found.none]
    answers = await together(*(_answer(site, question, way) for way in ways))
    prompt = with_edits([edit.statement for edit in used], text) if used else ""
    ids = tuple(str(edit.id) for edit in used)
    return Answered(text, answers[0], answers[-1], why, ids, prompt, found.seq)


async def _answer(site: Site, question: Question, edits: Edits) -> str:
    reply = await asyncio.wait_for(site.engine.reply(question, edits), site.config.upstream.total_timeout)
    said = texts(reply)
    if reply.status >= 400 or not said:
        raise ServeError(
            f"the engine answered {reply.status}; the server's log may say more", 502, code="upstream_error"
        )
    return said[0]
