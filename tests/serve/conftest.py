"""A model and a memory that say what was done to them, and a server over them on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import uvicorn

from lte.edits import Edit
from lte.memory.fault import UnknownEdit
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


@dataclass
class FakeMemory:
    """Recalls the edits whose subject stands in the query."""

    edits: dict[str, tuple[str, Edit]] = field(default_factory=dict)
    changes: list[Any] = field(default_factory=list)
    fault: Exception | None = None
    closed: bool = False

    def _change(self, id: str, kind: str, namespace: str, edit: Edit | None) -> None:
        self.changes.append(
            SimpleNamespace(seq=len(self.changes) + 1, id=id, kind=kind, namespace=namespace, time="t", edit=edit)
        )

    def _check(self, id: str | None = None) -> None:
        if self.fault:
            raise self.fault
        if id is not None and id not in self.edits:
            raise UnknownEdit(f"id {id!r}: no such edit")

    def add(self, edit: Edit, namespace: str = "default") -> Edit:
        return self.add_many([edit], namespace)[0]

    def add_many(self, edits: Sequence[Edit], namespace: str = "default") -> list[Edit]:
        self._check()
        named = [e.with_id(f"e{len(self.changes) + i}") for i, e in enumerate(edits, 1)]
        for edit in named:
            self.edits[str(edit.id)] = (namespace, edit)
            self._change(str(edit.id), "add", namespace, edit)
        return named

    def update(self, id: str, edit: Edit) -> Edit:
        self._check(id)
        namespace = self.edits[id][0]
        self.edits[id] = (namespace, edit.with_id(id))
        self._change(id, "update", namespace, edit.with_id(id))
        return self.edits[id][1]

    def delete(self, id: str) -> None:
        self._check(id)
        self._change(id, "delete", self.edits.pop(id)[0], None)

    def get(self, id: str) -> Edit:
        self._check(id)
        return self.edits[id][1]

    def list(self, namespace: str | None = None) -> list[Edit]:
        self._check()
        return [e for n, e in self.edits.values() if namespace in (None, n)]

    def history(self, id: str) -> list[Any]:
        self._check()
        found = [c for c in self.changes if c.id == id]
        if not found:
            raise UnknownEdit(f"id {id!r}: no such edit")
        return found

    def recall(self, query: str, k: int = 3, namespace: str = "default") -> list[Any]:
        self._check()
        touched = [e for n, e in self.edits.values() if n == namespace and e.subject and e.subject in query]
        return [SimpleNamespace(edit=e, score=1.0) for e in touched[:k]]

    def search(self, query: str, k: int = 10, namespace: str = "default") -> list[Any]:
        self._check()
        near = [(e, e.subject in query) for n, e in self.edits.values() if n == namespace]
        return [SimpleNamespace(edit=e, score=0.5 + hit / 2, threshold=0.9, in_play=hit) for e, hit in near[:k]]

    @property
    def seq(self) -> int:
        return len(self.changes)

    def __len__(self) -> int:
        self._check()
        return len(self.edits)

    def close(self) -> None:
        self.closed = True


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
