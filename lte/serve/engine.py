"""The embedded engine: the model in this process, asked by one worker thread."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

from lte.models import LM
from lte.models.adapter import fits
from lte.models.tokens import encode
from lte.prompt import TEMPLATE_ID
from lte.serve import embedded, wire
from lte.serve.ask import Ask, Message, Piece
from lte.serve.config import ServeConfig
from lte.serve.errors import ServeError, bad_request
from lte.serve.question import Edits, Engine, Question, Reply, after, overloaded

__all__ = ["LM", "Ask", "EmbeddedEngine", "Engine", "Piece"]
logger = logging.getLogger(__name__)


class EmbeddedEngine:
    """The model in this process, asked by one worker thread: one answer at a time, in the order they came.

    One thread and not several, because an adapter is switched on the one model they would share.
    """

    kinds: tuple[type[wire.Asked], type[wire.Asked]] = (wire.ChatRequest, wire.TextRequest)

    def __init__(self, lm: LM, config: ServeConfig | None = None) -> None:
        for name, adapter in lm.adapters.items():
            if not fits(lm, name, TEMPLATE_ID):
                raise ServeError(
                    f"adapter {name!r}: trained on the prompt template {adapter.manifest.get('template')!r}, this lte "
                    f"writes {TEMPLATE_ID!r}; align the model again, or serve it with the lte it was trained by"
                )
        self._lm, self._config = lm, config or ServeConfig()
        self._waiting = self._config.limits.waiting
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

    @property
    def prompt_only(self) -> bool:
        """Whether the settings name no adapter."""
        return self._config.adapter is None

    def accept(self, question: Question) -> None:
        """Return where the model can be asked; a `ServeError` (400) names the parameter where it cannot."""
        embedded.accept(self._config, question)

    async def reply(self, question: Question, edits: Edits) -> Reply:
        """The answer with these edits in play; of a stream, the first event is there when this returns."""
        plan = embedded.plan(self._config, question, edits)
        if not question.body.stream:
            return Reply(json.dumps(await embedded.whole(self.answer, plan), ensure_ascii=False).encode())
        events = embedded.events(self.answer, plan)
        # The first one before the status line: a prompt that is too long or a full queue is a 400 or 429, not a stream.
        first = await anext(events)
        return Reply(events=after(first, events), close=events.aclose)

    async def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer as the worker makes them."""
        if self._closing.is_set():
            raise _closing()
        if self._open >= self._waiting:
            raise overloaded(self._waiting)
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
