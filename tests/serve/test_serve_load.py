"""Many clients at once, clients that leave, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import httpx
import openai
import pytest

from lte.config import load
from lte.edits import Edit
from lte.serve import Ask, EmbeddedEngine, Limits, ServeConfig, ServeError, build_app
from lte.serve import run as running
from lte.serve.listen import listening


def ask(word: str, model: str = "pocket", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"{word}?"}], **more}


def full(memory: Any, n: int) -> Any:
    memory.add_many([Edit(f"The moon of Planet{i} is", f"Moon{i}", subject=f"Planet{i}.") for i in range(n)])
    return memory


def test_sixteen_at_once_each_get_their_own_answer(serve: Any, fakes: Any) -> None:
    """Edited and base questions in turn, streamed and whole: no adapter and no edit reaches a neighbour."""

    async def one(client: openai.AsyncOpenAI, i: int) -> tuple[str, str]:
        body = ask(f"Planet{i}.", model="pocket:base" if i % 2 else "pocket")
        if i % 4 < 2:
            raw = await client.chat.completions.with_raw_response.create(**body)
            return raw.headers["x-lte-edits"], raw.parse().choices[0].message.content
        raw = await client.chat.completions.with_raw_response.create(**body, stream=True)
        text = ""
        async for chunk in raw.parse():
            text += chunk.choices[0].delta.content or ""
        return raw.headers["x-lte-edits"], text

    async def all_of(server: Any) -> list[tuple[str, str]]:
        async with server.async_client() as client:
            return await asyncio.gather(*[one(client, i) for i in range(16)])

    lm = fakes.Model(pause=0.001)
    with serve(lm, full(fakes.Memory(), 16), ServeConfig()) as server:
        for i, (edits, text) in enumerate(asyncio.run(all_of(server))):
            if i % 2:
                assert (edits, text) == ("", f"base 0.0/1.0/None/ user: Planet{i}.?")
            else:
                assert edits == f"e{i + 1}"
                assert text.startswith("lte ") and f"- The moon of Planet{i} is Moon{i}.\n" in text
                assert text.count("Moon") == 1
    assert len(lm.threads) == 1


def test_a_long_answer_holds_up_nobody_who_needs_no_model(serve: Any, fakes: Any) -> None:
    lm = fakes.Model(pause=0.2, context=999)
    with serve(lm, fakes.Memory(), ServeConfig()) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        with server.client().chat.completions.create(**ask("word " * 180), stream=True) as stream:
            next(iter(stream))
            assert http.get("/health").status_code == 200
            assert http.post("/v1/edits", json={"prompt": "a", "target_new": "b"}).status_code == 201
            assert lm.busy == 1


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_ends_when_its_client_leaves(serve: Any, fakes: Any, wait: Any, stream: bool) -> None:
    lm = fakes.Model(pause=0.05, context=999)

    async def leave(url: str) -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            reply = asyncio.create_task(http.post(url, json=ask("word " * 180, stream=stream)))
            while not lm.words:
                await asyncio.sleep(0.01)
            reply.cancel()

    with serve(lm, fakes.Memory(), ServeConfig()) as server:
        url = f"{server.url}/v1/chat/completions"
        asyncio.run(leave(url))
        wait(lambda: lm.busy == 0)
        assert lm.words < 180
        assert httpx.post(url, json=ask("x"), timeout=60).status_code == 200


def test_what_waits_is_not_computed_for_a_client_that_left(serve: Any, fakes: Any) -> None:
    lm = fakes.Model(pause=0.05, context=999)
    with serve(lm, fakes.Memory(), ServeConfig()) as server:
        url = f"{server.url}/v1/chat/completions"
        with server.client().chat.completions.create(**ask("a " * 180), stream=True) as stream:
            next(iter(stream))
            with pytest.raises(httpx.TimeoutException):
                httpx.post(url, json=ask("b"), timeout=httpx.Timeout(60, read=0.2))
            time.sleep(0.5)  # the news of its leaving travels
        assert httpx.post(url, json=ask("c"), timeout=60).status_code == 200
        assert lm.asked == 2


def test_a_full_queue_is_429(serve: Any, fakes: Any) -> None:
    config = ServeConfig(limits=Limits(waiting=1))
    with serve(fakes.Model(pause=0.05, context=999), fakes.Memory(), config) as server:
        with server.client().chat.completions.create(**ask("a " * 180), stream=True) as stream:
            next(iter(stream))
            for more in ({}, {"stream": True}):
                with pytest.raises(openai.RateLimitError) as raised:
                    server.client().chat.completions.create(**ask("b"), **more)
                assert raised.value.response.headers["retry-after"] == "1"
        assert server.client(retries=8).chat.completions.create(**ask("b")).choices  # once the client has left


def test_a_server_that_stops_finishes_its_streams(serve: Any, fakes: Any) -> None:
    memory = fakes.Memory()
    with serve(fakes.Model(pause=0.02), memory, ServeConfig()) as server:
        stream = server.client().chat.completions.create(**ask("a " * 30), stream=True)
        chunks = iter(stream)
        first = next(chunks)
        server.server.should_exit = True
        reasons = [c.choices[0].finish_reason for c in (first, *chunks)]
    assert reasons[-1] == "stop"
    assert memory.closed


def test_an_engine_that_closes_says_so_to_those_who_wait(fakes: Any) -> None:
    async def scene() -> list[Any]:
        engine = EmbeddedEngine(fakes.Model(pause=0.02))

        async def text() -> str:
            return "".join([piece.text async for piece in engine.answer(Ask(query="word " * 100))])

        asked = [asyncio.create_task(text()) for _ in range(3)]
        await asyncio.sleep(0.1)
        await engine.close()
        return await asyncio.gather(*asked, text(), return_exceptions=True)

    for error in asyncio.run(scene()):
        assert isinstance(error, ServeError)
        assert (error.status, error.code) == (503, "shutting_down")


# --- starting and stopping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_peace(fakes: Any, tmp_path: Any, number: int) -> None:
    with listening("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
    seen: list[int] = []

    def visit() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                seen.append(httpx.get(f"http://127.0.0.1:{port}/health").status_code)
                break
            except httpx.TransportError:
                time.sleep(0.02)
        os.kill(os.getpid(), number)

    visitor = threading.Thread(target=visit)
    visitor.start()
    running.serve(ServeConfig(port=port, memory=str(tmp_path / "memory.db")), fakes.Model)
    visitor.join()
    assert seen == [200]


def test_a_port_in_use_is_told_before_the_model_is_loaded() -> None:
    with listening("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
        with pytest.raises(ServeError, match=rf"127.0.0.1:{port}: cannot listen.*--set port="):
            running.serve(ServeConfig(port=port), lambda: pytest.fail("the model was loaded"))


def test_an_adapter_that_is_not_there_is_told(fakes: Any) -> None:
    engine = EmbeddedEngine(fakes.Model(adapters={}))
    with pytest.raises(ServeError, match=r"adapter 'lte': pocket has none; .*adapter_path"):
        build_app(ServeConfig(), engine, fakes.Memory())
    assert build_app(ServeConfig(adapter=None), engine, fakes.Memory())


def test_an_adapter_trained_on_other_words_is_refused(fakes: Any) -> None:
    lm = fakes.Model()
    lm.adapters["lte"].manifest["template"] = "lte-0"
    with pytest.raises(ServeError, match="template 'lte-0', this lte writes"):
        EmbeddedEngine(lm)


def test_the_config_in_the_repository_is_the_default(request: pytest.FixtureRequest) -> None:
    path = request.config.rootpath / "configs" / "serve.yaml"
    assert load(ServeConfig, path) == ServeConfig()
    assert load(ServeConfig, path, ["limits.n=2", "recall.threshold=0.9"]).limits.n == 2
