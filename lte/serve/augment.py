"""Recalled edits go into the last user turn; with none, the messages are the very object that came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lte.prompt import with_edits

Message = Mapping[str, Any]


def text_of(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """The words of a message's content, whether it is a text or a list of text parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(part.get("text") or "") for part in content)


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
    turn["content"] = _in_front(turn["content"], statements)
    return [*messages[:at], turn, *messages[at + 1 :]]


def _in_front(content: Any, statements: Sequence[str]) -> Any:
    if not isinstance(content, Sequence) or isinstance(content, str):
        return with_edits(statements, content or "")
    if not content:
        return with_edits(statements, "")
    first, *rest = content
    return [{**first, "text": with_edits(statements, first.get("text") or "")}, *rest]
