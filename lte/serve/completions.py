"""/v1/chat/completions and /v1/completions: recall, decide, ask the engine, and say which edits were in play."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lte.serve import wire
from lte.serve.config import ServeConfig
from lte.serve.errors import ServeError, bad_request
from lte.serve.found import explained, look_up, unlooked
from lte.serve.guard import namespace_of
from lte.serve.metrics import Verdict, decided, stage
from lte.serve.models import Models
from lte.serve.question import Engine, Question, Reply
from lte.serve.store import Store
from lte.serve.told import Teller, with_last

logger = logging.getLogger(__name__)
T = TypeVar("T")
PASSED_ON = frozenset({"accept", "content-type", "traceparent", "tracestate", "user-agent"})  # never a key or a cookie


def completion_routes(config: ServeConfig, models: Models, engine: Engine, store: Store) -> APIRouter:
    """The two completion routes."""
    router = APIRouter(prefix="/v1", tags=["completions"])

    async def chat(request: Request, body: wire.Asked) -> Response:
        """Answer a conversation, with the edits its last user turn touches."""
        return await _respond(request, body, True, config, models, engine, store)

    async def text(request: Request, body: wire.Asked) -> Response:
        """Continue raw text, chat template or not; edits that the prompt touches are put in front of it."""
        return await _respond(request, body, False, config, models, engine, store)

    for path, route, kind in zip(("/chat/completions", "/completions"), (chat, text), engine.kinds, strict=True):
        route.__annotations__["body"] = kind  # FastAPI reads and describes a request as the engine at hand takes it
        router.post(path)(route)
    return router


async def _respond(
    request: Request, body: wire.Asked, chat: bool, config: ServeConfig, models: Models, engine: Engine, store: Store
) -> Response:
    edited = models.edited(body.model)
    question = await _question(request, body, chat)
    _within(config, question)
    engine.accept(question)
    lte = body.lte or wire.Extension()
    mode = lte.edits if edited else "off"
    if mode == "shadow" and body.stream:
        raise bad_request("lte.edits: shadow compares whole answers; leave stream out", "lte.edits")
    namespace = namespace_of(request, body.lte.namespace if body.lte else None, config.namespace)
    most = min(config.k, lte.max_edits or config.k)
    found = unlooked(question, store)
    if mode != "off":
        with stage(request, "recall"):
            found = await look_up(store, question, most, namespace, config.on_retrieval_error == "passthrough")
    used = found.edits if mode == "auto" else found.none
    verdict: Verdict = "in_play" if any(found.edits) else "degraded" if found.degraded else "none"
    decided(request, sum(len(own) for own in used), "off" if mode == "off" else verdict)
    headers = {"x-lte-edits": ",".join(dict.fromkeys(str(e.id) for own in used for e in own))}
    headers |= {} if found.seq is None else {"x-lte-memory-seq": str(found.seq)}
    headers |= {"x-lte-degraded": "retrieval"} if found.degraded else {}
    headers |= {"x-lte-mode": "prompt-only"} if edited and engine.prompt_only else {}
    try:
        teller = Teller(engine, question, mode, found)
        if lte.explain:
            teller.explain = await explained(store, question, most, namespace)
        return await _answer(request, teller, headers)
    except ServeError as error:
        request.scope["lte.code"] = error.code
        response = error.response
        response.headers.update(headers)
        return response


async def _question(request: Request, body: wire.Asked, chat: bool) -> Question:
    passed = {name: value for name, value in request.headers.items() if name in PASSED_ON}
    passed["x-request-id"] = request.scope.get("lte.request_id", "")
    changes: dict[str, Any] = {"lte": None} if "lte" in body.model_fields_set else {}  # it is for us alone
    options = body.stream_options
    if options and "include_lte" in options.model_fields_set:
        changes["stream_options"] = options.model_dump(exclude_unset=True, exclude={"include_lte"}) or None
    return Question(chat, body, await request.body(), passed, changes)


def _within(config: ServeConfig, question: Question) -> None:
    n, prompts, limits = question.body.n or 1, question.prompts, config.limits
    if n > limits.n:
        raise bad_request(f"n: {n}; at most {limits.n}: ask several times", "n")
    if prompts > limits.prompts:
        raise bad_request(f"prompt: {prompts} at once; at most {limits.prompts}: split them", "prompt")


# --- the response ---------------------------------------------------------------------------------------------------


async def _answer(request: Request, teller: Teller, headers: dict[str, str]) -> Response:
    lte, body = teller.wish, teller.question.body
    if body.stream:
        reply = await unless_gone(request, teller.engine.reply(teller.question, teller.used))
        if reply.events is None:  # refused by an upstream
            return _whole(reply, headers)
        events = with_last(reply.events, teller) if body.wants_lte else reply.events
        return Events(reply, _guarded(events), headers)
    if not lte.wanted:
        return _whole(await unless_gone(request, teller.engine.reply(teller.question, teller.used)), headers)
    reply, told = await unless_gone(request, teller.whole())
    if reply.status < 400 and told is not None:
        answer = json.loads(reply.content) | {"lte": told}
        reply = Reply(json.dumps(answer, ensure_ascii=False).encode(), None, reply.status, reply.headers)
    return _whole(reply, headers)


def _whole(reply: Reply, headers: dict[str, str]) -> Response:
    return Response(reply.content, reply.status, {"content-type": "application/json", **reply.headers, **headers})


class Events(StreamingResponse):
    """A stream as it comes; whatever becomes of the client, what it comes from is let go."""

    def __init__(self, reply: Reply, events: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        own = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        super().__init__(events, reply.status, {**own, **reply.headers, "x-accel-buffering": "no", **headers})
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._reply.close()))


async def _guarded(events: Any) -> AsyncIterator[bytes]:
    async with aclosing(events):
        try:
            async for event in events:
                yield event
            return
        except Exception as error:  # the status line is out: the failure can only be told in the stream
            if not isinstance(error, ServeError):
                logger.exception("a stream failed")
                error = ServeError("the server failed in the middle of the answer; its log has the reason")
            yield wire.event(error.body)
    yield wire.DONE


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives; when the client hangs up first, the work is cancelled and its engine stops."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_hangs_up(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServeError("the client closed the connection", 499, code="client_closed")
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
