"""What goes over the wire: OpenAI's requests and responses, and the edits' own.

Fields of a completion request that are not named here are tolerated, as OpenAI's clients grow new ones; fields of an
edit are not, as a misspelt one would be a fact half stated.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lte.serve.config import Namespace


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which no tokenizer can read; remove it") from None
    return text


Words = Annotated[str, AfterValidator(_unicode)]  # what the model is to read


# --- completions in -------------------------------------------------------------------------------------------------


class In(BaseModel):
    """A request, or a part of one: types as they are sent, nothing converted."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class Part(In):
    """One part of a message's content."""

    type: str
    text: Words | None = None


class ChatMessage(In):
    """One turn; the fields not named here go to the engine with it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Words | list[Part] | None = None


class StreamOptions(In):
    """How a stream ends."""

    include_usage: bool | None = None
    include_lte: bool | None = None


class Extension(In):
    """What `extra_body={"lte": {...}}` may ask for; a misspelt wish would be one not granted, so it is refused.

    edits        auto: those that the question touches; off: none; shadow: answer without, and tell what edits change
    max_edits    fewer than the server's own number
    attribution  injected: which edits were put in front of the question; decisive: which of them changed the answer
    explain      how near the edits came that were and that were not recalled
    """

    model_config = ConfigDict(extra="forbid")

    namespace: Namespace | None = None
    edits: Literal["auto", "off", "shadow"] = "auto"
    max_edits: Annotated[int, Field(ge=1)] | None = None
    attribution: Literal["none", "injected", "decisive"] = "none"
    explain: bool = False

    @property
    def wanted(self) -> bool:
        """Whether the response is to tell more than its headers do."""
        return self.attribution != "none" or self.explain or self.edits == "shadow"


class Asked(In):
    """What every completion request has, whichever engine reads it; the rest is the engine's own."""

    model: str
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lte: Extension | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_lte(self) -> bool:
        """Whether a stream is to end with what the edits did."""
        return bool(self.stream_options and self.stream_options.include_lte)


class Turn(In):
    """One turn as far as a proxy reads it."""

    role: str
    content: Words | list[dict[str, Any] | Words] | None = None


class AskedChat(Asked):
    """A chat request to an upstream, which checks the rest."""

    messages: Annotated[list[Turn], Field(min_length=1)]


class AskedText(Asked):
    """A text request to an upstream, which checks the rest."""

    prompt: Words | Annotated[list[Words] | list[int] | list[list[int]], Field(min_length=1)]


class Ask(Asked):
    """What chat and text requests to the embedded model have in common."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return tuple(s for s in ([self.stop] if isinstance(self.stop, str) else self.stop or ()) if s)


class ChatRequest(Ask, AskedChat):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]  # type: ignore[assignment]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class TextRequest(Ask, AskedText):
    """POST /v1/completions."""

    prompt: Words | Annotated[list[Words], Field(min_length=1)]


# --- completions out ------------------------------------------------------------------------------------------------


class Usage(BaseModel):
    """Tokens as the model counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Envelope(BaseModel):
    """The outside of a completion, and of every chunk of a stream."""

    id: str
    object: str
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str


class Editing(BaseModel):
    """Whether a model answers by the edits, and what heeds them: an adapter, or the prompt alone."""

    edits: bool
    mode: Literal["adapter", "prompt-only"] | None = None


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lte"
    lte: Editing


def event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
