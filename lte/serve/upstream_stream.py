"""Server-sent events on their way from an upstream to a client: passed on as they come, cut only between events."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator

MOST = 4 << 20  # bytes without an end of an event: more is passed on as it is


async def whole_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The stream's bytes, each item one or several whole events: what is cut off in the middle is never passed on.

    A stream that ends in peace is given to its last byte.
    """
    held = b""
    async for chunk in chunks:
        held += chunk
        end = len(held) if len(held) > MOST else _end(held)
        if end:
            yield held[:end]
            held = held[end:]
    if held:
        yield held


async def renamed(events: AsyncIterator[bytes], there: str, here: str) -> AsyncGenerator[bytes, None]:
    """The events with the model called what the client called it."""
    async for event in events:
        yield rename(event, there, here)


def rename(content: bytes, there: str, here: str) -> bytes:
    """JSON with its model called `here` where it said `there`; inside a text the quotes would be escaped."""
    if there == here:
        return content
    return re.sub(rb'("model"\s*:\s*)' + re.escape(_quoted(there)), lambda m: m[1] + _quoted(here), content)


def _end(held: bytes) -> int:
    """Where the last whole event ends."""
    return max((at + len(end) for end in (b"\n\n", b"\r\n\r\n") if (at := held.rfind(end)) >= 0), default=0)


def _quoted(name: str) -> bytes:
    return json.dumps(name).encode()
