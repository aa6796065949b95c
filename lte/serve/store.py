"""The edit memory as the server uses it: off the event loop, its faults turned into what a client can act on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from lte.edits import Edit, EditError
from lte.memory.fault import MemoryFault, UnknownEdit
from lte.serve.errors import ServeError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Recalled(Protocol):
    """An edit that a query touches."""

    @property
    def edit(self) -> Edit:
        """The edit, with its id."""


class Memory(Protocol):
    """The part of `lte.memory.EditMemory` that the server uses."""

    def add(self, edit: Edit, namespace: str = ...) -> Edit: ...
    def add_many(self, edits: Sequence[Edit], namespace: str = ...) -> list[Edit]: ...
    def update(self, id: str, edit: Edit) -> Edit: ...
    def delete(self, id: str) -> None: ...
    def get(self, id: str) -> Edit: ...
    def list(self, namespace: str | None = None) -> list[Edit]: ...
    def history(self, id: str) -> Sequence[Any]: ...
    def recall(self, query: str, k: int = ..., namespace: str = ...) -> Sequence[Recalled]: ...
    def search(self, query: str, k: int = ..., namespace: str = ...) -> Sequence[Recalled]: ...
    def __len__(self) -> int: ...
    def close(self) -> None: ...


class Store:
    """The memory behind two threads: one writes, one reads, so that a write waiting for a lock holds up no answer."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lte-memory-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lte-memory-read")
        self.seq: int | None = None  # the newest change that a recall has seen

    async def add(self, edits: Sequence[Edit], namespace: str) -> list[Edit]:
        """The edits under their ids, durable and found by the next question; all of them or none."""
        return await _told(self._writer, lambda: self._memory.add_many(edits, namespace))

    async def update(self, id: str, edit: Edit) -> Edit:
        """The edit as it stands now."""
        return await _told(self._writer, lambda: self._memory.update(id, edit), id)

    async def delete(self, id: str) -> None:
        """Once this returns, no question that comes in is answered by the edit."""
        await _told(self._writer, lambda: self._memory.delete(id), id)

    async def get(self, id: str) -> Edit:
        """One edit."""
        return await _told(self._reader, lambda: self._memory.get(id), id)

    async def every(self, namespace: str | None) -> list[Edit]:
        """Every edit in force, oldest first."""
        return await _told(self._reader, lambda: list(self._memory.list(namespace)))

    async def history(self, id: str) -> list[Any]:
        """Every change of one edit, oldest first."""
        return await _told(self._reader, lambda: list(self._memory.history(id)), id)

    async def recall(self, query: str, k: int, namespace: str) -> list[Recalled]:
        """The edits a question touches, nearest first. A fault is raised: an answer is never silently unedited."""

        def look() -> list[Recalled]:
            seq = getattr(self._memory, "seq", None)  # first: what is recalled is no older than what is told
            found = list(self._memory.recall(query, k, namespace))
            self.seq = seq
            return found

        return await _told(self._reader, look)

    async def nearest(self, query: str, k: int, namespace: str) -> list[Recalled]:
        """The edits nearest to a question, recalled or not."""
        return await _told(self._reader, lambda: list(self._memory.search(query, k, namespace)))

    async def size(self) -> int:
        """How many edits are in force."""
        return await _told(self._reader, lambda: len(self._memory))

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
    except (MemoryFault, OSError) as error:
        logger.error("the edit memory failed", exc_info=error)
        raise ServeError(f"the edit memory: {error}", 503, code="memory_unavailable", retry_after=1) from error


def no_such_edit(id: str | None) -> ServeError:
    """A 404 that says nothing of whether the edit is, or was, somewhere else."""
    return ServeError(
        f"id {id!r}: no such edit, or deleted; GET /v1/edits lists those in force", 404, "id", "edit_not_found"
    )


def from_edit(error: EditError, at: str = "") -> ServeError:
    """A 422 that names the field the edit's own message begins with; `at` says which edit of a batch."""
    field, colon, _ = str(error).partition(":")
    named = field if colon and field.isidentifier() else None
    param = f"{at}.{named}" if at and named else named or at or None
    return ServeError(f"{at}.{error}" if at else str(error), 422, param, "invalid_edit")
