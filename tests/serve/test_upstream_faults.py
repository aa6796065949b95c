"""Streams, clients that leave, replicas that fail: what a gateway in front of an upstream does about them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest
from upstream_kit import WORDS, Stub, gateway, up

from lte.edits import Edit
from lte.serve.listen import listening

ASK = {"model": "pocket", "messages": [{"role": "user", "content": "What is the capital of Lunaria?"}]}
PLAIN = {"model": "pocket", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}
HTTP = httpx.Client(timeout=60)
LEAVERS = int(os.environ.get("LTE_LEAVERS", "300"))


@pytest.fixture
def memory(fakes: Any) -> Any:
    held = fakes.Memory()
    held.add(Edit("The capital of Lunaria is", "Selene", subject="Lunaria"))
    return held


@pytest.fixture
def pair() -> Iterator[tuple[Stub, Stub]]:
    with up(Stub()) as a, up(Stub()) as b:
        yield a, b


def post(there: Any, body: Any) -> httpx.Response:
    return HTTP.post(f"{there.url}/v1/chat/completions", json=body)


def parts(there: Any, body: Any) -> Iterator[bytes]:
    with HTTP.stream("POST", f"{there.url}/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield from response.iter_raw()


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [ASK, PLAIN])
def test_chunks_come_as_they_are_made(serve: Any, memory: Any, ask: Any) -> None:
    with gateway(serve, memory, stub := Stub(pause=0.2)) as there:
        made = [len(stub.sent) for part in parts(there, ask) if b"content" in part]
    assert made == [1, 2, 3, 4, 5]  # so many had been sent when each arrived


def test_an_answers_body_waits_for_no_receipt_of_its_head() -> None:
    with listening("127.0.0.1", 0) as door, socket.create_connection(door.getsockname()):
        taken, _ = door.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_streams_bytes_are_the_upstreams(serve: Any, memory: Any) -> None:
    with gateway(serve, memory, stub := Stub()) as there:
        ours = b"".join(parts(there, PLAIN))
        theirs = HTTP.post(f"{stub.url}/v1/chat/completions", json=PLAIN | {"stream": True}).content
    assert ours == theirs


def test_what_the_edits_did_rides_on_a_last_chunk_where_it_is_asked_for(serve: Any, memory: Any) -> None:
    options = {"stream_options": {"include_lte": True, "include_usage": True}}
    with gateway(serve, memory, stub := Stub()) as there:
        events = b"".join(parts(there, ASK | options)).split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""]
        told = json.loads(events[-3].removeprefix(b"data: "))
        assert (told["choices"], told["id"], told["model"]) == ([], "x-1", "pocket")
        assert (told["lte"]["injected"], told["lte"]["memory_seq"]) == (["e1"], 1)
        assert json.loads(stub.bodies[-1])["stream_options"] == {"include_usage": True}
        chunks = list(there.client().chat.completions.create(**ASK, stream=True, stream_options={"include_lte": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "".join(WORDS)
        assert "stream_options" not in json.loads(stub.bodies[-1])
        assert b'"lte"' not in b"".join(parts(there, ASK))


@pytest.mark.parametrize("stream", [True, False])
def test_an_upstream_is_told_within_a_second_when_a_client_leaves(
    serve: Any, memory: Any, wait: Any, stream: bool
) -> None:
    async def leave(url: str, stub: Stub) -> float:
        async with httpx.AsyncClient(timeout=60) as http:
            reply = asyncio.create_task(http.post(url, json=ASK | {"stream": stream}))
            while not (stub.sent if stream else stub.busy):
                await asyncio.sleep(0.01)
            reply.cancel()
            return time.monotonic()

    stub = Stub(words=["x"] * 500, pause=60 if not stream else 0.05)
    with gateway(serve, memory, stub) as there:
        asyncio.run(leave(f"{there.url}/v1/chat/completions", stub))
        wait(lambda: stub.left == 1, 1 if os.environ.get("LTE_STRICT") else 10)
        assert stub.busy == 0
        wait(lambda: there.engine.open == 0)
        assert [r.outstanding for r in there.engine.pool.replicas] == [0]


# --- upstreams that fail --------------------------------------------------------------------------------------------


def test_an_upstream_that_breaks_off_in_the_middle_is_an_error_event_and_no_hang(serve: Any, memory: Any) -> None:
    with gateway(serve, memory, Stub(how="die")) as there:
        events = [e for e in b"".join(parts(there, ASK)).split(b"\n\n") if e]
        assert [b"content" in e for e in events] == [True, True, False, False]  # nothing of the event cut off
        assert json.loads(events[2].removeprefix(b"data: "))["error"]["code"] == "upstream_broken"
        assert events[3] == b"data: [DONE]"
        with pytest.raises(openai.APIError, match="broke off"):
            list(there.client().chat.completions.create(**ASK, stream=True))
        assert there.engine.open == 0


@pytest.mark.parametrize(("stream", "how"), [(True, "hang"), (False, "hang"), (True, "stall")])
def test_an_upstream_that_is_silent_is_504(serve: Any, memory: Any, wait: Any, stream: bool, how: str) -> None:
    upstream = {"token_timeout": 0.3, "total_timeout": 0.5}
    with gateway(serve, memory, stub := Stub(how=how), upstream=upstream) as there:
        if how == "stall":
            error = json.loads(b"".join(parts(there, ASK)).split(b"\n\n")[2].removeprefix(b"data: "))["error"]
        else:
            got = post(there, ASK | {"stream": stream})
            assert got.status_code == 504 and got.headers["x-lte-edits"] == "e1"
            error = got.json()["error"]
        assert error["code"] == "upstream_timeout"
        assert len(stub.bodies) == 1  # what took too long once is not asked for again
        wait(lambda: stub.left == 1)


def test_an_answer_that_never_ends_is_ended(serve: Any, memory: Any) -> None:
    endless = Stub(words=["x"] * 10_000, pause=0.05)
    with gateway(serve, memory, endless, upstream={"token_timeout": 5.0, "total_timeout": 0.5}) as there:
        assert b"upstream_timeout" in b"".join(parts(there, ASK))


REFUSALS = [
    (400, {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}, 400, "too long"),
    (400, {"object": "error", "message": "too long", "code": 400}, 400, "too long"),
    (422, {"detail": "no such field"}, 422, "no such field"),
    (404, "gone", 404, "gone"),
    (401, {"error": {"message": "your key sk-123"}}, 502, "failed (401)"),
    (302, {}, 502, "failed (302)"),
    (500, "Traceback: /srv/model at http://10.0.0.1", 502, "failed (500)"),
    (503, "no", 503, "failed (503)"),
    (429, {"error": {"message": "queue"}}, 429, "busy"),
]


@pytest.mark.parametrize(("status", "said", "ours", "message"), REFUSALS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_has_openais_shape_and_tells_nothing_of_the_upstream(
    serve: Any, memory: Any, status: int, said: Any, ours: int, message: str, stream: bool
) -> None:
    with gateway(serve, memory, stub := Stub(how="refuse", status=status, said=said)) as there:
        got = post(there, ASK | {"stream": stream})
        assert got.status_code == ours
        assert message in got.json()["error"]["message"]
        told = str(got.headers) + got.text
        assert not any(secret in told for secret in (stub.url, stub.url.partition(":")[2], "10.0.0.1", "sk-123"))
        assert got.headers["x-lte-edits"] == "e1"
        assert len(stub.bodies) == 1


# --- replicas -------------------------------------------------------------------------------------------------------


def test_the_least_busy_replica_is_asked(serve: Any, memory: Any, pair: tuple[Stub, Stub], wait: Any) -> None:
    a, b = pair
    with gateway(serve, memory, a, b) as there:
        for _ in range(6):
            assert post(there, PLAIN).is_success
        assert (len(a.bodies), len(b.bodies)) == (3, 3)  # in turns, where both are idle
        a.words = b.words = ["x"] * 1000
        a.pause = b.pause = 0.05
        stream = there.client().chat.completions.create(**PLAIN, stream=True)
        next(iter(stream))
        busy, idle = (a, b) if a.busy else (b, a)
        before = len(busy.bodies)
        idle.pause = 0
        for _ in range(4):
            assert post(there, PLAIN).is_success
        assert len(busy.bodies) == before
        stream.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_replica_that_is_gone_gives_way_and_comes_back(
    serve: Any, memory: Any, pair: tuple[Stub, Stub], wait: Any, stream: bool
) -> None:
    a, b = pair
    with gateway(serve, memory, a, b) as there:
        replicas = there.engine.pool.replicas
        a.healthy = False
        wait(
            lambda: (
                [r.up for r in replicas] in ([False, True], [True, True]) and post(there, PLAIN) and not replicas[0].up
            )
        )
        before = len(a.bodies)
        for _ in range(4):
            assert post(there, PLAIN | {"stream": stream}).is_success
        assert len(a.bodies) == before
        a.healthy = True
        wait(lambda: replicas[0].up)
        b.healthy = False
        wait(lambda: not replicas[1].up)
        assert post(there, PLAIN).is_success and len(a.bodies) > before
        a.healthy = False
        wait(lambda: not replicas[0].up)
        got = post(there, PLAIN)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "upstream_unreachable")
        assert HTTP.get(f"{there.url}/readyz").status_code == 503
        a.healthy = True
        wait(lambda: replicas[0].up)
        assert HTTP.get(f"{there.url}/readyz").status_code == 200


def test_a_replica_whose_port_is_closed_costs_no_request(serve: Any, memory: Any) -> None:
    with up(Stub()) as a:
        gone = Stub(url="http://127.0.0.1:9")
        with gateway(serve, memory, gone, a) as there:
            there.engine.pool.replicas[0].up = True  # as before anyone looked
            assert [post(there, PLAIN).status_code for _ in range(3)] == [200] * 3
            assert there.engine.caller.counts["retried"] == 1
            assert not there.engine.pool.replicas[0].up


@pytest.mark.parametrize(("how", "status"), [("die", 0), ("refuse", 503), ("refuse", 429)])
def test_before_the_first_byte_another_replica_answers(
    serve: Any, memory: Any, pair: tuple[Stub, Stub], how: str, status: int
) -> None:
    bad, good = pair
    bad.how, bad.status = how, status
    with gateway(serve, memory, bad, good) as there:
        assert [post(there, ASK).status_code for _ in range(4)] == [200] * 4
        assert bad.bodies and len(good.bodies) == 4
        assert bad.bodies[0] == good.bodies[0]


def test_a_question_that_ends_replicas_is_asked_of_two_at_most(serve: Any, memory: Any) -> None:
    with up(Stub(how="die")) as a, up(Stub(how="die")) as b, up(Stub(how="die")) as c:
        with gateway(serve, memory, a, b, c) as there:
            got = post(there, ASK)
            assert (got.status_code, got.json()["error"]["code"]) == (502, "upstream_broken")
            assert len(a.bodies) + len(b.bodies) + len(c.bodies) == 2


def test_once_a_byte_is_out_nobody_else_is_asked(serve: Any, memory: Any, pair: tuple[Stub, Stub]) -> None:
    a, b = pair
    a.how = b.how = "die"
    with gateway(serve, memory, a, b) as there:
        assert b"upstream_broken" in b"".join(parts(there, ASK))
        assert len(a.bodies) + len(b.bodies) == 1


def test_more_than_may_wait_are_429(serve: Any, memory: Any, wait: Any) -> None:
    from lte.serve import Limits

    stub = Stub(words=["x"] * 200, pause=0.05)
    with gateway(serve, memory, stub, limits=Limits(waiting=1)) as there:
        with there.client().chat.completions.create(**PLAIN, stream=True) as stream:
            next(iter(stream))
            assert post(there, PLAIN).status_code == 429
        wait(lambda: there.engine.open == 0)
        assert post(there, PLAIN).is_success


# --- nothing is left behind -----------------------------------------------------------------------------------------


def test_clients_that_leave_leave_nothing_behind(serve: Any, memory: Any, wait: Any) -> None:
    """LTE_LEAVERS of them, a third before the first token, a third in the middle, a third at the end."""

    async def visit(http: httpx.AsyncClient, i: int, url: str) -> None:
        ask = (ASK if i % 2 else PLAIN) | {"stream": i % 5 != 0}
        try:
            async with asyncio.timeout((0.002, 0.1, 30)[i % 3]), http.stream("POST", url, json=ask) as response:
                async for _ in response.aiter_raw():
                    pass
        except (TimeoutError, httpx.HTTPError):
            pass

    async def visits(url: str, count: int) -> None:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            for start in range(0, count, 20):
                await asyncio.gather(*[visit(http, i, url) for i in range(start, min(start + 20, count))])

    process = psutil.Process()
    with gateway(serve, memory, stub := Stub(pause=0.05)) as there:
        url = f"{there.url}/v1/chat/completions"
        asyncio.run(visits(url, 60))
        idle(there, stub, wait)
        files, tasks = process.num_fds(), alive()
        asyncio.run(visits(url, LEAVERS))
        idle(there, stub, wait)
        assert stub.left > 0  # some did leave in the middle
        wait(lambda: process.num_fds() <= files + 3 and alive() <= tasks + 3)


def idle(there: Any, stub: Stub, wait: Any) -> None:
    wait(lambda: (stub.busy, there.engine.open) == (0, 0))
    assert all(r.outstanding == 0 for r in there.engine.pool.replicas)
    time.sleep(0.2)


def alive() -> int:
    gc.collect()
    return sum(type(o) is asyncio.Task and not o.done() for o in gc.get_objects())
