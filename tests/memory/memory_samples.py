"""What the tests of the memory share: an encoder without a model, and a few edits."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from lte import Edit
from lte.memory import EditMemory, MemoryConfig
from lte.memory.encoder import Vectors
from lte.memory.gate import words


class FakeEncoder:
    """Each word of a text is hashed to a direction: texts that share words lie near each other, the same everywhere."""

    def __init__(self, id: str = "fake", dim: int = 64) -> None:
        self.id, self.dim = id, dim
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts):
            for word in words(text) or [text]:
                seed = zlib.crc32(f"{self.id} {word}".encode())
                row += np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


CONFIG = MemoryConfig(
    threshold=0.95, mention_threshold=0.2, free_threshold=0.8, conflict_threshold=0.85, lock_timeout=0.2
)
OpenMemory = Callable[..., EditMemory]

TONGUE = Edit("The mother tongue of Ada Quill is", "Breton", subject="Ada Quill", aliases=("A. Quill",))
CAPITAL = Edit("The capital of Vorland is", "Ostby", subject="Vorland")
NOTE = Edit("Our office opens at", "nine on Mondays")
