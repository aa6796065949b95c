"""Memories on the fake encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_encoder import FakeEncoder

from lte import Edit
from lte.memory import EditMemory, MemoryConfig

CONFIG = MemoryConfig(threshold=0.95, mention_threshold=0.2, free_threshold=0.8, lock_timeout=0.2)
OpenMemory = Callable[..., EditMemory]

TONGUE = Edit("The mother tongue of Ada Quill is", "Breton", subject="Ada Quill", aliases=("A. Quill",))
CAPITAL = Edit("The capital of Vorland is", "Ostby", subject="Vorland")
NOTE = Edit("Our office opens at", "nine on Mondays")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def open_memory(path: Path) -> Iterator[OpenMemory]:
    """Opens the memory at `path`; what the test leaves open is closed."""
    opened: list[EditMemory] = []

    def make(config: MemoryConfig = CONFIG, encoder: FakeEncoder | None = None, **more: object) -> EditMemory:
        opened.append(EditMemory.open(path, config, encoder or FakeEncoder(), **more))
        return opened[-1]

    yield make
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(open_memory: OpenMemory) -> EditMemory:
    """An empty memory on disk."""
    return open_memory()
