"""What the embedded model is asked, and the pieces of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Message = Mapping[str, str]


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted: to messages, or (a str) the literal text to continue.

    adapter     the one that is to act; None: the base model as it was loaded
    max_tokens  None: as many as `default_tokens` and the context allow
    """

    query: str | tuple[Message, ...]
    adapter: str | None = None
    max_tokens: int | None = None
    default_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some text of an answer; the last piece says why it ended and what it cost."""

    text: str
    finish: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    tokens: int = 0
