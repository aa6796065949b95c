"""The `lte` field of a response: which edits were in play, and what they changed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from lte.edits import Edit
from lte.memory.checks import normalised
from lte.serve import wire
from lte.serve.errors import ServeError
from lte.serve.found import Found, told
from lte.serve.question import Edits, Engine, Question, Reply

T = TypeVar("T")
Json = dict[str, Any]
END = re.compile(rb"(?:^|(?<=\n))data: ?\[DONE\]")


class Teller:
    """A question that is being answered, and what there is to tell about its edits.

    mode  auto, off or shadow: which edits are used, as the model's name and the request have it
    """

    explain: list[Any] | None = None

    def __init__(self, engine: Engine, question: Question, mode: str, found: Found) -> None:
        self.engine, self.question, self.mode, self.found = engine, question, mode, found
        self.used: Edits = found.edits if mode == "auto" else found.none

    @property
    def wish(self) -> wire.Extension:
        """What the request wants to be told."""
        return self.question.body.lte or wire.Extension()

    async def whole(self) -> tuple[Reply, Json | None]:
        """The answer, and what the request wants to be told about it."""
        if self.mode == "shadow":
            reply, shadow = await together(
                self.engine.reply(self.question, self.used), _soft(self.engine.reply(self.question, self.found.edits))
            )
            return reply, {**self._base(), "shadow": _difference(reply, shadow)}
        reply = await self.engine.reply(self.question, self.used)
        return reply, await self.report(reply)

    async def report(self, reply: Reply | None = None) -> Json:
        """What is told; `reply` the answer where it is at hand, whole."""
        base = self._base()
        if self.wish.attribution != "decisive":
            return base
        try:
            return {**base, "decisive": await self._decisive(reply)}
        except ServeError as error:
            return {**base, "decisive": None, "error": str(error)}

    def _base(self) -> Json:
        said: Json = {"edits": self.mode, "memory_seq": self.found.seq, "prompt_only": self.engine.prompt_only}
        said["retrieved"] = [told(r) for r in _once([r for own in self.found.recalled for r in own])]
        said["injected"] = _ids(self.used)
        if self.found.degraded:
            said["degraded"] = "retrieval"
        return said if self.explain is None else {**said, "explain": self.explain}

    async def _decisive(self, reply: Reply | None) -> list[str]:
        """The edits without which the likeliest answer would be another: each is left out once."""
        ids = _ids(self.used)
        alone = self.question.alone()
        without = [[[e for e in own if str(e.id) != id] for own in self.used] for id in ids]
        if not ids:
            return []
        ways: list[Edits] = [self.used, *without]
        greedy = getattr(self.question.body, "temperature", None) == 0 and (self.question.body.n or 1) == 1
        if greedy and reply is not None:
            replies = [reply, *await together(*(self.engine.reply(alone, way) for way in without))]
        else:
            replies = await together(*(self.engine.reply(alone, way) for way in ways))
        full, *others = [[normalised(text) for text in texts(r)] for r in replies]
        return [id for id, other in zip(ids, others, strict=True) if other != full]


async def with_last(events: AsyncGenerator[bytes, None], teller: Teller) -> AsyncGenerator[bytes, None]:
    """The stream with one more chunk in front of its end: no choices, and what the edits did."""
    envelope: Json | None = None
    ended = False
    async for item in events:
        envelope = envelope or _envelope(item)
        end = END.search(item)
        if end and not ended:
            ended = True
            if item[: end.start()]:
                yield item[: end.start()]
            yield wire.event({**(envelope or {}), "choices": [], "lte": await teller.report()})
            item = item[end.start() :]
        yield item
    if not ended:
        yield wire.event({**(envelope or {}), "choices": [], "lte": await teller.report()})


def _envelope(item: bytes) -> Json | None:
    """What every chunk of a stream has, from its first."""
    line = next((line for line in item.splitlines() if line.startswith(b"data:")), b"")
    try:
        found = json.loads(line[len(b"data:") :])
    except ValueError:
        return None
    return {name: found[name] for name in ("id", "object", "created", "model") if name in found}


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What all of them give; when one fails, or the caller is cancelled, the others end too."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _soft(work: Coroutine[Any, Any, Reply]) -> Reply | str:
    try:
        return await work
    except ServeError as error:  # the answer itself does not hang on its shadow
        return str(error)


def _difference(reply: Reply, shadow: Reply | str) -> Json:
    if isinstance(shadow, str) or shadow.status >= 400:
        return {"error": shadow if isinstance(shadow, str) else f"the engine answered {shadow.status}"}
    pairs = zip(texts(reply), texts(shadow), strict=False)
    choices = [{"unedited": a, "edited": b, "same": normalised(a) == normalised(b)} for a, b in pairs]
    return {"choices": choices, "differs": any(not c["same"] for c in choices)}


def texts(reply: Reply) -> list[str]:
    """The words of each choice of a whole answer; none for what is no answer."""
    try:
        choices = json.loads(reply.content)["choices"]
        return [str((c["message"]["content"] if "message" in c else c["text"]) or "") for c in choices]
    except (ValueError, LookupError, TypeError):
        return []


def _ids(edits: Sequence[Sequence[Edit]]) -> list[str]:
    return list(dict.fromkeys(str(e.id) for own in edits for e in own))


def _once(recalled: Sequence[Any]) -> list[Any]:
    return list({r.edit.id: r for r in recalled}.values())
