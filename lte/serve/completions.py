"""/v1/chat/completions and /v1/completions: recall, render, ask the engine, answer in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lte.edits import Edit
from lte.prompt import with_edits
from lte.serve import wire
from lte.serve.augment import augment, last_user, text_of
from lte.serve.config import ServeConfig
from lte.serve.engine import Ask, Engine, Piece
from lte.serve.errors import ServeError, bad_request
from lte.serve.models import Models
from lte.serve.store import Store

logger = logging.getLogger(__name__)
T = TypeVar("T")
COLD = 0.01  # a temperature below it is greedy: dividing by it would overflow

NEUTRAL: dict[str, tuple[Any, ...]] = {  # what we cannot do, and the values that do not ask for it
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "functions": (None, []),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
}


@dataclass(frozen=True)
class Plan:
    """What a request comes to: one ask for each choice, and the ids of the edits that are used."""

    model: str
    chat: bool
    asks: tuple[Ask, ...]
    n: int  # choices to one prompt
    edits: tuple[str, ...]

    @property
    def headers(self) -> dict[str, str]:
        """On every response, streamed or not: the ids in the order they were first used; empty when none was."""
        return {"x-lte-edits": ",".join(self.edits)}


def completion_routes(config: ServeConfig, models: Models, engine: Engine, store: Store) -> APIRouter:
    """The two completion routes."""
    router = APIRouter(prefix="/v1", tags=["completions"])

    @router.post("/chat/completions")
    async def chat(request: Request, body: wire.ChatRequest) -> Response:
        """Answer a conversation, with the edits its last user turn touches."""
        edited = models.edited(body.model)
        ask = _ask(config, body, body.max_completion_tokens or body.max_tokens)
        messages = _messages(body.messages)
        edits: Sequence[Edit] = ()
        if edited:
            query = text_of(messages[-1]["content"])
            edits = await store.recall(query, config.k, _namespace(config, body))
        said = tuple({**m, "content": text_of(m["content"])} for m in augment(messages, [e.statement for e in edits]))
        ask = replace(ask, query=said, adapter=config.adapter if edits else None)
        return await _answer(request, engine, body, _plan(body, True, [ask], edits))

    @router.post("/completions")
    async def text(request: Request, body: wire.TextRequest) -> Response:
        """Continue raw text, chat template or not; edits that the prompt touches are put in front of it."""
        edited = models.edited(body.model)
        ask = _ask(config, body, body.max_tokens)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if len(prompts) > config.limits.prompts:
            raise bad_request(f"prompt: {len(prompts)} at once; at most {config.limits.prompts}: split them", "prompt")
        asks, used = [], list[Edit]()
        for prompt in prompts:
            edits = await store.recall(prompt, config.k, _namespace(config, body)) if edited else []
            query = with_edits([e.statement for e in edits], prompt)
            asks.append(replace(ask, query=query, adapter=config.adapter if edits else None))
            used += edits
        return await _answer(request, engine, body, _plan(body, False, asks, used))

    return router


# --- from the request to what the engine is asked -------------------------------------------------------------------


def _ask(config: ServeConfig, body: wire.Ask, max_tokens: int | None) -> Ask:
    """The request's settings, checked against the limits; the query is still to come."""
    limits = config.limits
    for name, harmless in NEUTRAL.items():
        value = (body.model_extra or {}).get(name)
        if not any(value == h and type(value) in (type(h), float) for h in harmless):
            raise bad_request(f"{name}: this server cannot do that; leave it out", name, "unsupported_parameter")
    if (body.n or 1) > limits.n:
        raise bad_request(f"n: {body.n}; at most {limits.n}: ask several times", "n")
    if (max_tokens or 1) > limits.max_tokens:
        param = "max_completion_tokens" if getattr(body, "max_completion_tokens", None) else "max_tokens"
        raise bad_request(f"{param}: {max_tokens}; at most {limits.max_tokens}", param)
    temperature = config.temperature if body.temperature is None else body.temperature
    return Ask(
        query="",
        max_tokens=max_tokens,
        default_tokens=limits.default_tokens,
        temperature=0.0 if temperature < COLD else temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=body.stops,
    )


def _messages(given: Sequence[wire.ChatMessage]) -> list[dict[str, Any]]:
    """The turns as plain objects, content as it was sent; a `ServeError` for what cannot be answered."""
    for i, message in enumerate(given):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.type != "text":
                where = f"messages[{i}].content[{j}]"
                raise bad_request(f"{where}: a part of type {part.type!r}; this model reads text", f"{where}.type")
    messages = [m.model_dump(exclude_unset=True) | {"content": _plain(m.content)} for m in given]
    if last_user(messages) != len(messages) - 1:
        raise bad_request(
            f"messages: the last one is from {given[-1].role!r}; wanted 'user': an answer is to a question", "messages"
        )
    if not text_of(messages[-1]["content"]).strip():
        raise bad_request("messages: the last one is empty; send a question", f"messages[{len(messages) - 1}].content")
    return messages


def _plain(content: Any) -> Any:
    return [p.model_dump(exclude_unset=True) for p in content] if isinstance(content, list) else content


def _namespace(config: ServeConfig, body: wire.Ask) -> str:
    return (body.lte and body.lte.namespace) or config.namespace


def _plan(body: wire.Ask, chat: bool, asks: Sequence[Ask], edits: Sequence[Edit]) -> Plan:
    n = body.n or 1
    each = [a if a.seed is None else replace(a, seed=a.seed + i) for a in asks for i in range(n)]
    return Plan(body.model, chat, tuple(each), n, tuple(dict.fromkeys(str(e.id) for e in edits)))


# --- from the engine to the response --------------------------------------------------------------------------------


async def _answer(request: Request, engine: Engine, body: wire.Ask, plan: Plan) -> Response:
    if not body.stream:
        return JSONResponse(await unless_gone(request, _whole(engine, plan)), headers=plan.headers)
    chunks = _chunks(engine, plan, body.wants_usage)
    # The first chunk before the status line: a prompt that is too long or a full queue is a 400 or 429, not a stream.
    first = await unless_gone(request, anext(chunks))
    headers = {**plan.headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_events(first, chunks), media_type="text/event-stream", headers=headers)


async def _whole(engine: Engine, plan: Plan) -> dict[str, Any]:
    choices, usage = [], wire.Usage()
    for index, ask in enumerate(plan.asks):
        text, piece = "", Piece("")
        async with aclosing(engine.answer(ask)) as pieces:
            async for piece in pieces:
                text += piece.text
        usage = _counted(usage, piece, index, plan)
        said: dict[str, Any] = {"text": text}
        if plan.chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choices.append({"index": index, **said, "logprobs": None, "finish_reason": piece.finish})
    envelope = _envelope(plan, "chat.completion" if plan.chat else "text_completion")
    return {**envelope, "choices": choices, "usage": usage.model_dump()}


async def _chunks(engine: Engine, plan: Plan, wants_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    envelope = _envelope(plan, "chat.completion.chunk" if plan.chat else "text_completion")
    last: dict[str, Any] = {"usage": None} if wants_usage else {}
    usage = wire.Usage()

    def chunk(index: int, text: str | None, finish: str | None = None, **delta: str) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text or ""}
        if plan.chat:
            said = {"delta": delta if text is None else {**delta, "content": text}}
        return {**envelope, "choices": [{"index": index, **said, "logprobs": None, "finish_reason": finish}], **last}

    for index, ask in enumerate(plan.asks):
        opened, piece = not plan.chat, Piece("")
        async with aclosing(engine.answer(ask)) as pieces:
            async for piece in pieces:
                if not opened:
                    yield chunk(index, "", role="assistant")
                    opened = True
                if piece.text:
                    yield chunk(index, piece.text)
        yield chunk(index, None, piece.finish)
        usage = _counted(usage, piece, index, plan)
    if wants_usage:
        yield {**envelope, "choices": [], "usage": usage.model_dump()}


async def _events(first: dict[str, Any], rest: AsyncGenerator[dict[str, Any], None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        try:
            yield wire.event(first)
            async for chunk in rest:
                yield wire.event(chunk)
        except Exception as error:  # the status line is out: the failure can only be told in the stream
            if not isinstance(error, ServeError):
                logger.exception("a stream failed")
                error = ServeError("the server failed in the middle of the answer; its log has the reason")
            yield wire.event(error.body)
    yield wire.DONE


def _envelope(plan: Plan, kind: str) -> dict[str, Any]:
    prefix = "chatcmpl" if plan.chat else "cmpl"
    return wire.Envelope(id=f"{prefix}-{uuid.uuid4().hex}", object=kind, model=plan.model).model_dump()


def _counted(usage: wire.Usage, last: Piece, index: int, plan: Plan) -> wire.Usage:
    """With one more choice counted; a prompt counts once however many choices it has."""
    read = usage.prompt_tokens + (last.prompt_tokens if index % plan.n == 0 else 0)
    made = usage.completion_tokens + last.tokens
    return wire.Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)


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
