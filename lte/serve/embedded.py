"""A question as the model in this process is asked it, and its pieces as a response in OpenAI's shape."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from lte.prompt import with_edits
from lte.serve import wire
from lte.serve.ask import Ask, Piece
from lte.serve.augment import augment, text_of
from lte.serve.config import ServeConfig
from lte.serve.errors import bad_request
from lte.serve.question import Edits, Question

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
Answer = Callable[[Ask], AsyncGenerator[Piece, None]]


@dataclass(frozen=True)
class Plan:
    """What a question comes to: one ask for each choice."""

    model: str
    chat: bool
    asks: tuple[Ask, ...]
    n: int  # choices to one prompt
    usage: bool  # whether a stream ends with its token counts


# --- from the question to what the model is asked -------------------------------------------------------------------


def plan(config: ServeConfig, question: Question, edits: Edits) -> Plan:
    """The asks of a question that `accept` let through, each with its edits in front."""
    body = question.body
    assert isinstance(body, wire.Ask)
    ask = _ask(config, body)
    asks = []
    if isinstance(body, wire.ChatRequest):
        said = augment(_messages(body), [e.statement for e in edits[0]])
        asks.append(replace(ask, query=tuple({**m, "content": text_of(m["content"])} for m in said)))
    else:
        for prompt, own in zip(question.queries, edits, strict=True):
            asks.append(replace(ask, query=with_edits([e.statement for e in own], prompt)))
    asks = [replace(a, adapter=config.adapter if own else None) for a, own in zip(asks, edits, strict=True)]
    n = body.n or 1
    each = [a if a.seed is None else replace(a, seed=a.seed + i) for a in asks for i in range(n)]
    return Plan(body.model, question.chat, tuple(each), n, body.wants_usage)


def accept(config: ServeConfig, question: Question) -> None:
    """Return where the model can be asked; a `ServeError` (400) names the parameter where it cannot."""
    body, limits = question.body, config.limits
    assert isinstance(body, wire.Ask)
    for name, harmless in NEUTRAL.items():
        value = (body.model_extra or {}).get(name)
        if not any(value == h and type(value) in (type(h), float) for h in harmless):
            raise bad_request(f"{name}: this server cannot do that; leave it out", name, "unsupported_parameter")
    wanted = _wanted(body)
    if (wanted or 1) > limits.max_tokens:
        param = "max_completion_tokens" if getattr(body, "max_completion_tokens", None) else "max_tokens"
        raise bad_request(f"{param}: {wanted}; at most {limits.max_tokens}", param)
    if isinstance(body, wire.ChatRequest):
        _accept_turns(body.messages)


def _accept_turns(given: Sequence[wire.ChatMessage]) -> None:
    for i, message in enumerate(given):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.type != "text":
                where = f"messages[{i}].content[{j}]"
                raise bad_request(f"{where}: a part of type {part.type!r}; this model reads text", f"{where}.type")
    if given[-1].role != "user":
        raise bad_request(
            f"messages: the last one is from {given[-1].role!r}; wanted 'user': an answer is to a question", "messages"
        )
    if not text_of(_plain(given[-1].content)).strip():
        raise bad_request("messages: the last one is empty; send a question", f"messages[{len(given) - 1}].content")


def _ask(config: ServeConfig, body: wire.Ask) -> Ask:
    """The request's settings; the query is still to come."""
    temperature = config.temperature if body.temperature is None else body.temperature
    return Ask(
        query="",
        max_tokens=_wanted(body),
        default_tokens=config.limits.default_tokens,
        temperature=0.0 if temperature < COLD else temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=body.stops,
    )


def _wanted(body: wire.Ask) -> int | None:
    if isinstance(body, wire.ChatRequest):  # in a text request it would be any value of a field that nobody reads
        return body.max_completion_tokens or body.max_tokens
    return body.max_tokens


def _messages(body: wire.ChatRequest) -> list[dict[str, Any]]:
    """The turns as plain objects, content as it was sent."""
    return [m.model_dump(exclude_unset=True) | {"content": _plain(m.content)} for m in body.messages]


def _plain(content: Any) -> Any:
    return [p.model_dump(exclude_unset=True) for p in content] if isinstance(content, list) else content


# --- from the pieces to the response --------------------------------------------------------------------------------


async def whole(answer: Answer, plan: Plan) -> dict[str, Any]:
    """Every choice of a plan in one object."""
    choices, usage = [], wire.Usage()
    for index, ask in enumerate(plan.asks):
        text, piece = "", Piece("")
        async with aclosing(answer(ask)) as pieces:
            async for piece in pieces:
                text += piece.text
        usage = _counted(usage, piece, index, plan)
        said: dict[str, Any] = {"text": text}
        if plan.chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choices.append({"index": index, **said, "logprobs": None, "finish_reason": piece.finish})
    envelope = _envelope(plan, "chat.completion" if plan.chat else "text_completion")
    return {**envelope, "choices": choices, "usage": usage.model_dump()}


async def events(answer: Answer, plan: Plan) -> AsyncGenerator[bytes, None]:
    """The choices one after another as server-sent events."""
    async with aclosing(_chunks(answer, plan)) as chunks:
        async for chunk in chunks:
            yield wire.event(chunk)
    yield wire.DONE


async def _chunks(answer: Answer, plan: Plan) -> AsyncGenerator[dict[str, Any], None]:
    envelope = _envelope(plan, "chat.completion.chunk" if plan.chat else "text_completion")
    last: dict[str, Any] = {"usage": None} if plan.usage else {}
    usage = wire.Usage()

    def chunk(index: int, text: str | None, finish: str | None = None, **delta: str) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text or ""}
        if plan.chat:
            said = {"delta": delta if text is None else {**delta, "content": text}}
        return {**envelope, "choices": [{"index": index, **said, "logprobs": None, "finish_reason": finish}], **last}

    for index, ask in enumerate(plan.asks):
        opened, piece = not plan.chat, Piece("")
        async with aclosing(answer(ask)) as pieces:
            async for piece in pieces:
                if not opened:
                    yield chunk(index, "", role="assistant")
                    opened = True
                if piece.text:
                    yield chunk(index, piece.text)
        yield chunk(index, None, piece.finish)
        usage = _counted(usage, piece, index, plan)
    if plan.usage:
        yield {**envelope, "choices": [], "usage": usage.model_dump()}


def _envelope(plan: Plan, kind: str) -> dict[str, Any]:
    prefix = "chatcmpl" if plan.chat else "cmpl"
    return wire.Envelope(id=f"{prefix}-{uuid.uuid4().hex}", object=kind, model=plan.model).model_dump()


def _counted(usage: wire.Usage, last: Piece, index: int, plan: Plan) -> wire.Usage:
    """With one more choice counted; a prompt counts once however many choices it has."""
    read = usage.prompt_tokens + (last.prompt_tokens if index % plan.n == 0 else 0)
    made = usage.completion_tokens + last.tokens
    return wire.Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)
