"""Memories on the fake encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_samples import CONFIG, FakeEncoder, OpenMemory

from lte.memory import EditMemory, MemoryConfig


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
