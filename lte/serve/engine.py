"""What answers: the embedded model here, behind a protocol that an engine over HTTP can fill as well."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

from lte.models import LM
from lte.models.adapter import fits
from lte.models.tokens import encode
from lte.prompt import TEMPLATE_ID
from lte.serve.errors import ServeError, bad_request

logger = logging.getLogger(__name__)
Message = Mapping[str, str]


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted: to messages, or (a str) the literal text to continue.

    adapter     the one that is to act; None: the base model as it was loaded
    max_tokens  None: as many as `default_tokens` and the context allow
    """

    query: str | tuple[Message, ...]
    adapter: str | None = None
    max_tokens: int | None = None
    default_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some text of an answer; the last piece says why it ended and what it cost."""

    text: str
    finish: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    tokens: int = 0


class Engine(Protocol):
    """Answers, many at a time, without holding up the event loop."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def adapters(self) -> Collection[str]:
        """The adapters that `Ask.adapter` may name."""

    def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; closing the generator ends the computation.

        Raises `ServeError`: 400 for a prompt beyond the context, 429 when too many wait, 503 when closing.
        """

    async def check(self) -> None:
        """Return where it could answer now; a `ServeError` (503) says why it could not. /readyz asks it often."""

    async def close(self) -> None:
        """Stop what runs and give back what is held."""


class EmbeddedEngine:
    """The model in this process, asked by one worker thread: one answer at a time, in the order they came.

    One thread and not several, because an adapter is switched on the one model they would share.
    """

    def __init__(self, lm: LM, waiting: int = 64) -> None:
        for name, adapter in lm.adapters.items():
            if not fits(lm, name, TEMPLATE_ID):
                raise ServeError(
                    f"adapter {name!r}: trained on the prompt template {adapter.manifest.get('template')!r}, this lte "
                    f"writes {TEMPLATE_ID!r}; align the model again, or serve it with the lte it was trained by"
                )
        self._lm, self._waiting = lm, waiting
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="lte-engine")
        self._closing = threading.Event()
        self._open = 0  # answers in work or waiting; only the event loop's thread counts

    @property
    def name(self) -> str:
        """What the model is called."""
        return self._lm.name

    @property
    def adapters(self) -> Collection[str]:
        """The adapters the model has loaded."""
        return self._lm.adapters.keys()

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer as the worker makes them."""
        if self._closing.is_set():
            raise _closing()
        if self._open >= self._waiting:
            raise ServeError(
                f"{self._waiting} answers are in work or waiting; ask again shortly",
                429,
                code="overloaded",
                retry_after=1,
            )
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        gone = threading.Event()

        def tell(piece: Piece | Exception) -> None:
            if not gone.is_set():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def ended(job: Future[None]) -> None:
            if job.cancelled():
                tell(_closing())

        self._open += 1
        job = self._worker.submit(self._run, ask, tell, gone)
        job.add_done_callback(ended)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            self._open -= 1
            gone.set()
            job.cancel()

    async def check(self) -> None:
        """Return while it takes questions."""
        if self._closing.is_set():
            raise _closing()

    async def close(self) -> None:
        """Stop after the token in work; what waits is told so."""
        self._closing.set()
        await asyncio.to_thread(self._worker.shutdown, wait=True, cancel_futures=True)

    def _run(self, ask: Ask, tell: Callable[[Piece | Exception], None], gone: threading.Event) -> None:
        try:
            self._decode(ask, tell, gone)
        except Exception as error:  # the request that asked raises it; the worker goes on to the next
            tell(error)

    def _decode(self, ask: Ask, tell: Callable[[Piece | Exception], None], gone: threading.Event) -> None:
        if gone.is_set():
            return
        room = self._room(ask.query)
        wanted = ask.max_tokens or ask.default_tokens
        with self._lm.using(ask.adapter):
            stream = self._lm.stream(
                ask.query,
                max_new_tokens=wanted if room is None else min(wanted, room),
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=ask.seed,
                stop=ask.stop,
                raw=isinstance(ask.query, str),
            )
            try:
                while not gone.is_set():
                    if self._closing.is_set():
                        raise _closing()
                    try:
                        tell(Piece(next(stream)))
                    except StopIteration as end:
                        tell(Piece("", end.value.finish, end.value.prompt_tokens, end.value.tokens))
                        return
                logger.info("an answer was abandoned by its client")
            finally:
                stream.close()

    def _room(self, query: str | tuple[Message, ...]) -> int | None:
        """Tokens left for the answer, None where the model has no bound; a `ServeError` when there is none."""
        context = getattr(self._lm.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if context is None:
            return None
        [encoded] = encode(self._lm.tokenizer, [query if isinstance(query, str) else self._lm.render(query)])
        size = len(encoded.ids)
        if size >= context:
            raise bad_request(
                f"the prompt has {size} tokens, edits included; {self.name} holds {context} in all: shorten it",
                "prompt" if isinstance(query, str) else "messages",
                "context_length_exceeded",
            )
        return int(context) - size


def _closing() -> ServeError:
    return ServeError("the server is shutting down; ask again shortly", 503, code="shutting_down", retry_after=5)
