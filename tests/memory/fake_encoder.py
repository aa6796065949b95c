"""An encoder for tests: the words of a text, each hashed to a direction. No model, same vectors everywhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from lte.memory.encoder import Vectors
from lte.memory.gate import words


class FakeEncoder:
    """Texts that share words lie near each other."""

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
