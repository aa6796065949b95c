"""A model and a memory that say what was done to them, and a server over them on a free port."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
import uvicorn

from lte.edits import Edit
from lte.memory import Author, Change, EditMemory, MemoryConfig, Recalled
from lte.memory.change import Draft
from lte.memory.encoder import Vectors
from lte.memory.store import Store
from lte.memory.validity import now
from lte.prompt import TEMPLATE_ID
from lte.serve.app import build_app
from lte.serve.config import Limits, ServeConfig
from lte.serve.engine import EmbeddedEngine
from lte.serve.listen import listening
from lte.serve.run import uvicorn_config

PATIENCE = 60  # seconds, for a machine that is busy with something else


class FakeTokenizer:
    """A word a token."""

    bos_token = None
    is_fast = True

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, Any]:
        return {"input_ids": [t.split() for t in texts], "offset_mapping": [[(0, 1)] * len(t.split()) for t in texts]}


@dataclass
class FakeModel:
    """Repeats what it was asked behind the name of the adapter that was on, a word a token."""

    name: str = "pocket"
    adapters: dict[str, Any] = field(
        default_factory=lambda: {"lte": SimpleNamespace(manifest={"template": TEMPLATE_ID})}
    )
    pause: float = 0.0  # seconds a word
    context: int = 200  # words
    on: str | None = None
    words: int = 0  # made so far, all answers together
    asked: int = 0  # answers begun
    busy: int = 0  # answers under way
    threads: set[str] = field(default_factory=set)
    fail: Exception | None = None

    def __post_init__(self) -> None:
        settings = SimpleNamespace(max_position_embeddings=self.context)
        self.model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda decoder: settings))
        self.tokenizer = FakeTokenizer()

    def render(self, query: Any) -> str:
        return "\n".join(f"{m['role']}: {m['content']}" for m in query)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        assert self.on is None, "two answers at once"
        self.on = adapter
        try:
            yield
        finally:
            self.on = None

    def stream(
        self,
        query: Any,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        raw: bool = False,
    ) -> Generator[str, None, Any]:
        self.threads.add(threading.current_thread().name)
        text = query if raw else self.render(query)
        answer = f"{self.on or 'base'} {temperature}/{top_p}/{seed}/{','.join(stop)} {text}".split(" ")
        self.asked += 1
        self.busy += 1
        try:
            for n, word in enumerate(answer):
                if n == max_new_tokens:
                    return SimpleNamespace(finish="length", prompt_tokens=len(text.split()), tokens=n)
                if self.fail and n == 2:
                    raise self.fail
                time.sleep(self.pause)
                self.words += 1
                yield word if n == 0 else " " + word
            return SimpleNamespace(finish="stop", prompt_tokens=len(text.split()), tokens=len(answer))
        finally:
            self.busy -= 1


class WordEncoder:
    """Texts with the same words lie near each other."""

    id, dim = "words", 64

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.full((len(texts), self.dim), 1e-3, dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().strip("?.").split():
                row[zlib.crc32(word.encode()) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ShortIds(Store):
    """A log in which the record written by change 1 is e1."""

    def append(self, drafts: Sequence[Draft], encoder: str, by: Author, last: int | None = None) -> list[Change]:
        named = [replace(d, id=d.id or f"e{n}") for n, d in enumerate(drafts, self.last() + 1)]
        return super().append(named, encoder, by, last)


class FakeMemory(EditMemory):
    """A memory that recalls the edits whose subject stands in the query, and fails when it is told to."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        config = MemoryConfig(scope="off", mention_threshold=0.1)
        super().__init__(ShortIds(":memory:"), config, WordEncoder())

    def _check_open(self) -> None:
        if self.fault:
            raise self.fault
        super()._check_open()

    def recall(self, query: str, k: int = 3, namespace: str = "default", **more: Any) -> list[Any]:
        standing = [r.edit for r in self.records(namespace) if r.in_force(now())]
        touched = [e for e in standing if e.subject and e.subject in query]
        return [Recalled(e, 1.0, True) for e in touched[:k]]

    def search(self, query: str, k: int = 10, namespace: str = "default", **more: Any) -> list[Any]:
        near = [(r.edit, r.edit.subject in query) for r in self.records(namespace)]
        return [Recalled(e, 0.5 + hit / 2, hit, 0.9, hit) for e, hit in near[:k]]

    @property
    def edits(self) -> dict[str, tuple[str, Edit]]:
        """Namespace and edit, by id."""
        return {r.id: (r.namespace, r.edit) for r in self.records()}

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed


@dataclass
class Served:
    """A running server: where it is, and what is inside."""

    url: str
    lm: Any
    memory: Any
    server: uvicorn.Server

    def client(self, retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=retries, timeout=PATIENCE)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)


@contextmanager
def serving(lm: Any, memory: Any, config: ServeConfig) -> Iterator[Served]:
    """A server over the model, or over an engine, and the memory, in a thread; it is drained at the end."""
    app = build_app(config, lm if hasattr(lm, "reply") else EmbeddedEngine(lm, config), memory)
    with listening("127.0.0.1", 0) as door:
        server = uvicorn.Server(uvicorn_config(config, app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield Served(f"http://127.0.0.1:{door.getsockname()[1]}", lm, memory, server)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server did not end"


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def serve() -> Any:
    """`serving`, for a test that needs its own settings."""
    return serving


@pytest.fixture
def wait() -> Any:
    """`until`."""
    return until


@pytest.fixture
def fakes() -> Any:
    """The fake classes."""
    return SimpleNamespace(Model=FakeModel, Memory=FakeMemory)


@contextmanager
def small() -> Iterator[Served]:
    """A server with small limits over fakes that hold one edit."""
    memory = FakeMemory()
    memory.add(Edit("The capital of Lunaria is", "Selene", subject="Lunaria"))
    limits = Limits(body_bytes=20_000, batch=5, prompts=3)
    with serving(FakeModel(), memory, ServeConfig(drain_seconds=2, limits=limits)) as running:
        yield running


@pytest.fixture
def served() -> Iterator[Served]:
    """A server of the test's own, which it may change."""
    with small() as running:
        yield running


@pytest.fixture(scope="module")
def steady() -> Iterator[Served]:
    """One server for the tests that leave it as it was."""
    with small() as running:
        yield running
