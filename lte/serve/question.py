"""A completion request as the gateway hands it to an engine, and what an engine hands back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lte.edits import Edit
from lte.serve import wire
from lte.serve.augment import last_user, text_of
from lte.serve.errors import ServeError

Edits = Sequence[Sequence[Edit]]  # for each of a question's queries, those that go in front of it


@dataclass(frozen=True)
class Question:
    """A completion request.

    body     what was read of it             raw      its bytes, as they came
    headers  those that may go further       changes  top-level fields to send on otherwise than they came; None: not
    """

    chat: bool
    body: wire.Asked
    raw: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its route behind /v1."""
        return "/chat/completions" if self.chat else "/completions"

    @property
    def queries(self) -> tuple[str, ...]:
        """The texts that edits are looked up for: the last user turn, or each prompt; "" where there are no words."""
        if isinstance(self.body, wire.AskedText):
            prompt = self.body.prompt
            return (prompt,) if isinstance(prompt, str) else tuple(p for p in prompt if isinstance(p, str)) or ("",)
        assert isinstance(self.body, wire.AskedChat)
        turns = self.body.messages
        at = last_user([{"role": turn.role} for turn in turns])
        return ("" if at is None else text_of(turns[at].model_dump(include={"content"})["content"]),)

    @property
    def prompts(self) -> int:
        """How many prompts it has, those in token ids too."""
        prompt = self.body.prompt if isinstance(self.body, wire.AskedText) else ""
        return 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)

    def changed(self, **fields: Any) -> Question:
        """The same with other values at the top level of its body; None leaves a field out."""
        return replace(self, body=self.body.model_copy(update=fields), changes={**self.changes, **fields})

    def alone(self) -> Question:
        """The same, wanting one answer, whole, the likeliest one: for comparing answers."""
        one = {name: None for name in ("stream", "stream_options", "seed", "top_p", "logprobs", "top_logprobs")}
        held = set(self.body.model_fields_set) | set(self.body.model_extra or ())
        return self.changed(**{name: None for name in one if name in held}, temperature=0.0, n=1)


async def nothing() -> None:
    """Let go of nothing."""


@dataclass(frozen=True)
class Reply:
    """An answer: whole (`content`), or (`events`) server-sent events, each item one or several whole ones.

    close  lets go of what `events` is made from; to be called whether or not it was read
    """

    content: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    close: Callable[[], Awaitable[None]] = nothing


async def after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What was fetched already, and the rest."""
    yield first
    async for item in rest:
        yield item


def overloaded(waiting: int) -> ServeError:
    """A 429 for the question that is one too many."""
    message = f"{waiting} answers are in work or waiting; ask again shortly"
    return ServeError(message, 429, code="overloaded", retry_after=1)


class Engine(Protocol):
    """Answers completion requests, many at a time, without holding up the event loop."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def adapters(self) -> Collection[str]:
        """The adapters that it has for edited questions."""

    @property
    def prompt_only(self) -> bool:
        """Whether edits go to the unaligned model, as it has no adapter for them."""

    @property
    def kinds(self) -> tuple[type[wire.Asked], type[wire.Asked]]:
        """How it reads a chat and a text completion."""

    def accept(self, question: Question) -> None:
        """Return where the question can be put; a `ServeError` (400) names the parameter where it cannot."""

    async def reply(self, question: Question, edits: Edits) -> Reply:
        """The answer with these edits in play; of a stream, the first event is there when this returns.

        Raises `ServeError`: 400 for a prompt beyond the context, 429 when too many wait, 502 to 504 for an upstream
        that fails, 503 when closing. Cancelling it, or closing the reply, ends the computation.
        """

    async def check(self) -> None:
        """Return where it could answer now; a `ServeError` (503) says why it could not. /readyz asks it often."""

    async def close(self) -> None:
        """Stop what runs and give back what is held."""
