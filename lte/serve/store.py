"""The edit memory as the server uses it: off the event loop, its faults turned into what a client can act on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lte.edits import EditError
from lte.memory import ConflictFault, EditMemory, MemoryFault, Outdated, Recalled, UnknownEdit
from lte.serve.edits_shown import conflict_json
from lte.serve.errors import ServeError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Memory = EditMemory
OPTIONS = ("supersede", "coexist")  # what `on_conflict` may say besides "refuse"
PATIENCE, POLL = 2.0, 0.01  # seconds that a reader waits for a change, and between two looks


class Store:
    """The memory behind two threads: one writes, one reads, so that a write waiting for a lock holds up no answer."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lte-memory-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lte-memory-read")
        self.seq: int | None = None  # the newest change that a recall has seen

    async def write(self, change: Callable[[Memory], T], id: str | None = None) -> T:
        """What a change of the memory gives: once this returns it is durable, and the next question is answered by it.

        Raises `ServeError`: 404, 409 for conflicts and for what was changed since, 422 for what cannot be taken, 503.
        """
        return await _told(self._writer, lambda: change(self._memory), id)

    async def read(self, look: Callable[[Memory], T], id: str | None = None) -> T:
        """What a look at the memory gives; `ServeError` as for `write`."""
        return await _told(self._reader, lambda: look(self._memory), id)

    async def recall(self, query: str, k: int, namespace: str) -> list[Recalled]:
        """The edits a question touches, nearest first. A fault is raised: an answer is never silently unedited."""

        def look(memory: Memory) -> list[Recalled]:
            seq = memory.seq  # first: what is recalled is no older than what is told
            found = list(memory.recall(query, k, namespace))
            self.seq = seq
            return found

        return await self.read(look)

    async def nearest(self, query: str, k: int, namespace: str) -> list[Recalled]:
        """The edits nearest to a question, recalled or not."""
        return await self.read(lambda memory: memory.search(query, k, namespace))

    async def reached(self, seq: int, patience: float = PATIENCE) -> None:
        """Return once the memory has change number `seq`; `ServeError` 503 where it has not come in `patience`."""
        end = time.monotonic() + patience
        while (last := await self.read(lambda memory: memory.seq)) < seq:
            if time.monotonic() >= end:
                text = f"X-LTE-Min-Seq: change {seq} is not here yet, the newest is {last}; ask again shortly"
                raise ServeError(text, 503, "X-LTE-Min-Seq", "seq_not_reached", retry_after=1)
            await asyncio.sleep(POLL)

    async def size(self) -> int:
        """How many edits there are that are not deleted."""
        return await self.read(len)

    async def close(self) -> None:
        """Finish the writes under way and let go of the memory."""
        for worker in (self._writer, self._reader):
            await asyncio.to_thread(worker.shutdown)
        await asyncio.to_thread(self._memory.close)


async def _told(worker: ThreadPoolExecutor, call: Callable[[], T], id: str | None = None) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(worker, call)
    except EditError as error:
        raise from_edit(error) from error
    except UnknownEdit as error:
        raise no_such_edit(id) from error
    except ConflictFault as error:
        told = {"conflicts": [conflict_json(c) for c in error.conflicts], "options": list(OPTIONS)}
        raise ServeError(str(error), 409, "on_conflict", "edit_conflict", more=told) from error
    except Outdated as error:
        raise ServeError(str(error), 409, "id", "edit_changed") from error
    except (MemoryFault, OSError) as error:
        logger.error("the edit memory failed", exc_info=error)
        raise ServeError(f"the edit memory: {error}", 503, code="memory_unavailable", retry_after=1) from error


def no_such_edit(id: str | None) -> ServeError:
    """A 404 that says nothing of whether the edit is, or was, somewhere else."""
    return ServeError(
        f"id {id!r}: no such edit, or deleted; GET /v1/edits lists those there are", 404, "id", "edit_not_found"
    )


def from_edit(error: EditError, at: str = "") -> ServeError:
    """A 422 that names the field the edit's own message begins with; `at` says which edit of a batch."""
    field, colon, _ = str(error).partition(":")
    named = field if colon and all(part.isidentifier() for part in field.split(".")) else None
    param = f"{at}.{named}" if at and named else named or at or None
    return ServeError(f"{at}.{error}" if at else str(error), 422, param, "invalid_edit")
