"""Recalled edits go into the last user turn; with none, the messages are the very object that came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lte.prompt import with_edits

Message = Mapping[str, Any]
Part = Mapping[str, Any] | str  # some servers take a bare text for a part


def text_of(content: str | Sequence[Part] | None) -> str:
    """The words of a message's content, whether it is a text or a list of parts; a picture has none."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_words(part) for part in content if _is_text(part))


def last_user(messages: Sequence[Message]) -> int | None:
    """The place of the last user turn; None where there is none."""
    return next((i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] == "user"), None)


def augment(messages: Sequence[Message], statements: Sequence[str]) -> Sequence[Message]:
    """The messages with `statements` in front of the last user's words; nothing else in them changes.

    In front and not behind or in the system turn: those are the words the adapter was trained on, and a server's
    prefix cache keeps the turns before.
    """
    at = last_user(messages)
    if not statements or at is None:
        return messages
    turn = dict(messages[at])
    turn["content"] = _in_front(turn.get("content"), statements)
    return [*messages[:at], turn, *messages[at + 1 :]]


def _in_front(content: Any, statements: Sequence[str]) -> Any:
    if not isinstance(content, Sequence) or isinstance(content, str):
        return with_edits(statements, content or "")
    at = next((i for i, part in enumerate(content) if _is_text(part)), None)
    if at is None:
        alone = with_edits(statements, "")
        return [*content, {"type": "text", "text": alone}] if content else alone
    part = content[at]
    said = with_edits(statements, _words(part))
    return [*content[:at], said if isinstance(part, str) else {**part, "text": said}, *content[at + 1 :]]


def _is_text(part: Part) -> bool:
    return isinstance(part, str) or part.get("type") == "text"


def _words(part: Part) -> str:
    text = part if isinstance(part, str) else part.get("text")
    return text if isinstance(text, str) else ""
