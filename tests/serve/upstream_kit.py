"""An OpenAI-compatible server that records what it is sent and fails as it is told, and a gateway in front of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from lte.serve.config import ServeConfig, UpstreamConfig
from lte.serve.upstream import UpstreamEngine

WORDS = ["One", " two", " three", " four", " five."]


@dataclass
class Stub:
    """Answers with what it was asked; `how` says otherwise.

    how  answer; hang: never a byte; refuse: `status` and `said`; die: breaks off after two chunks, or before any when
         the answer is whole; stall: silent after two chunks
    """

    names: tuple[str, ...] = ("pocket", "lte")
    how: str = "answer"
    status: int = 503
    said: Any = None
    pause: float = 0.0  # seconds between two chunks
    words: list[str] = field(default_factory=lambda: list(WORDS))
    healthy: bool = True
    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)  # when each chunk was
    busy: int = 0
    left: int = 0  # answers that were given up by who asked
    server: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The application."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/health":
            await reply(send, 200 if self.healthy else 503, {})
        elif path == "/v1/models":
            cards = [
                {"id": n, "object": "model", "parent": None if i == 0 else self.names[0]}
                for i, n in enumerate(self.names)
            ]
            await reply(send, 200 if self.healthy else 503, {"object": "list", "data": cards})
        else:
            await self.complete(scope, receive, send)

    async def complete(self, scope: Any, receive: Any, send: Any) -> None:
        """One completion."""
        raw, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(raw)
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        self.busy += 1
        work = asyncio.ensure_future(self.answer(scope["path"], json.loads(raw), send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.left += 1
            else:
                work.result()
        finally:
            self.busy -= 1
            work.cancel()
            gone.cancel()

    async def answer(self, path: str, body: Any, send: Any) -> None:
        """What `how` says."""
        if self.how == "hang":
            await asyncio.sleep(3600)
        if self.how == "refuse":
            await reply(send, self.status, self.said)
            return
        if body.get("stream"):
            await self.stream(body, send)
            return
        if self.how == "die":
            kind = [(b"content-type", b"application/json"), (b"content-length", b"100")]
            await send({"type": "http.response.start", "status": 200, "headers": kind})
            await send({"type": "http.response.body", "body": b'{"choices": [', "more_body": True})
            raise ConnectionAbortedError("told to")
        await asyncio.sleep(self.pause)
        chat = path.endswith("chat/completions")
        prompts = [last(body)] if chat else body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        texts = [f"{body['model']} heard: {p}" for p in prompts for _ in range(body.get("n") or 1)]
        choices = [
            {
                "index": i,
                "finish_reason": "stop",
                **({"message": {"role": "assistant", "content": t}} if chat else {"text": t}),
            }
            for i, t in enumerate(texts)
        ]
        whole = {"id": "x-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": choices}
        whole["usage"] = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "prompt_tokens_details": None}
        await reply(send, 200, whole, [(b"x-served-by", b"stub"), (b"set-cookie", b"a=b"), (b"server", b"secret")])

    async def stream(self, body: Any, send: Any) -> None:
        """Chunks, one a pause."""
        kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for i, word in enumerate(self.words):
            if self.how in ("die", "stall") and i == 2:
                half = b'data: {"id": "x-1", "choi'  # an event that is cut off is never passed on
                await send({"type": "http.response.body", "body": half, "more_body": True})
                if self.how == "stall":
                    await asyncio.sleep(3600)
                raise ConnectionAbortedError("told to")
            delta = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            chunk = {
                "id": "x-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": body["model"],
                "choices": [delta],
            }
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            self.sent.append(time.monotonic())
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(self.pause)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


async def reply(send: Any, status: int, said: Any, headers: Any = ()) -> None:
    """A whole answer: JSON of anything but a text."""
    body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
    kind = (b"content-type", b"application/json")
    own = [kind, (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})


def last(body: Any) -> Any:
    """The content of the last user turn."""
    return [m["content"] for m in body["messages"] if m["role"] == "user"][-1:]


@contextmanager
def up(stub: Stub) -> Iterator[Stub]:
    """The stub on a port of its own, in a thread."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as door:
        config = uvicorn.Config(stub, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        stub.server = uvicorn.Server(config)
        thread = threading.Thread(target=stub.server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        stub.url = f"http://127.0.0.1:{door.getsockname()[1]}"
        while not stub.server.started:
            time.sleep(0.005)
        try:
            yield stub
        finally:
            stub.server.should_exit = True
            thread.join(30)


def settings(stubs: list[Stub], **more: Any) -> ServeConfig:
    """Settings of a gateway in front of the stubs, quick to lose patience."""
    upstream = {"token_timeout": 5.0, "health_seconds": 0.1, "connect_timeout": 2.0} | more.pop("upstream", {})
    urls = tuple(stub.url for stub in stubs)
    return ServeConfig(upstreams=urls, upstream=UpstreamConfig(**upstream), drain_seconds=2, **more)


@contextmanager
def gateway(serving: Any, memory: Any, *stubs: Stub, **more: Any) -> Iterator[Any]:
    """A gateway in front of the stubs, which are started with it."""
    with ExitStack() as stack:
        there = [stub if stub.url else stack.enter_context(up(stub)) for stub in stubs]
        config = settings(there, **more)
        engine = UpstreamEngine.connect(config)
        config = config.model_copy(update={"adapter": engine.names.adapter})
        running = stack.enter_context(serving(engine, memory, config))
        running.engine = engine
        yield running
