"""A change that is sent twice is made once; one that was meant for another state is not made."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from shell_kit import FACT, fact, shell
from starlette.testclient import TestClient

from lte.memory.fault import MemoryFault
from lte.serve.errors import ServeError, install
from lte.serve.etag import check_match, etag_of, is_known
from lte.serve.idempotency import DAY, Answer, Answers

ONCE = {"idempotency-key": "one"}


@pytest.fixture
def made(fakes: Any, tmp_path: Path) -> Any:
    with shell(fakes, tmp_path) as running:
        yield running


def error(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_a_change_that_is_sent_twice_is_made_once(made: Any) -> None:
    http, headers = made.client(), made.bearer("write")
    first = http.post("/v1/edits", json=FACT, headers=headers | ONCE)
    again = http.post("/v1/edits", json=FACT, headers=headers | ONCE)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    assert again.headers["content-type"] == first.headers["content-type"]
    assert len(made.memory) == 3
    http.post("/v1/edits", json=fact(1), headers=headers | {"idempotency-key": "two"})
    http.post("/v1/edits", json=fact(2), headers=headers)
    assert len(made.memory) == 5
    made.memory.fault = MemoryFault("gone")  # the answer is known without it
    assert http.post("/v1/edits", json=FACT, headers=headers | ONCE).content == first.content


def test_one_key_is_for_one_request_of_one_caller(made: Any) -> None:
    http, headers = made.client(), made.bearer("write") | ONCE
    http.post("/v1/edits", json=FACT, headers=headers)
    for reply in (
        http.post("/v1/edits", json=FACT | {"target_new": "Sven"}, headers=headers),
        http.put("/v1/edits/e1", json=FACT, headers=headers),
        http.post("/v1/edits?x=1", json=FACT, headers=headers),
    ):
        assert error(reply) == (422, "idempotency_key_reused")
    assert len(made.memory.list()) == 3 and made.memory.get("e1").target_new == "Selene"
    assert http.post("/v1/edits", json=fact(1), headers=made.bearer("admin") | ONCE).status_code == 201
    assert len(made.memory) == 4
    assert http.get("/v1/edits/e1", headers=headers).status_code == 200  # reading takes no key


def test_a_refusal_is_repeated_and_a_failure_is_not(made: Any) -> None:
    http, headers = made.client(), made.bearer("write") | ONCE
    made.memory.fault = MemoryFault("locked")
    assert http.post("/v1/edits", json=FACT, headers=headers).status_code == 503
    made.memory.fault = ZeroDivisionError()
    assert http.post("/v1/edits", json=FACT, headers=headers).status_code == 500
    made.memory.fault = None
    assert http.post("/v1/edits", json=FACT, headers=headers).status_code == 201
    bad = made.bearer("write") | {"idempotency-key": "bad"}
    refused = http.post("/v1/edits", json=FACT | {"prompt": ""}, headers=bad)
    assert refused.status_code == 422
    assert http.post("/v1/edits", json=FACT | {"prompt": ""}, headers=bad).content == refused.content


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_a_key_that_is_none_is_refused(made: Any, key: str) -> None:
    reply = made.client().post("/v1/edits", json=FACT, headers=made.bearer("write") | {"idempotency-key": key})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert len(made.memory) == 2


def test_of_two_at_once_one_is_made(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free, begun, end = threading.Event(), threading.Event(), Answers.end

    def slow(self: Answers, id: str, answer: Answer | None) -> None:
        begun.set()
        assert free.wait(60)
        end(self, id, answer)

    monkeypatch.setattr(Answers, "end", slow)
    http, headers, replies = made.client(), made.bearer("write") | ONCE, list[Any]()
    first = threading.Thread(target=lambda: replies.append(http.post("/v1/edits", json=FACT, headers=headers)))
    first.start()
    try:
        assert begun.wait(60)
        assert error(made.client().post("/v1/edits", json=FACT, headers=headers)) == (409, "idempotency_in_progress")
    finally:
        free.set()
        first.join()
    assert replies[0].status_code == 201 and len(made.memory) == 3


def test_answers_outlive_the_server_and_a_day_ends_them(tmp_path: Path) -> None:
    path, now = str(tmp_path / "answers"), [1000.0]
    answers = Answers(path, now=lambda: now[0])
    known = Answer(201, (("content-type", "application/json"),), b"{}")
    assert answers.begin("a", "r") is None and answers.begin("cut", "r") is None
    answers.end("a", known)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    answers.close()
    again = Answers(path, now=lambda: now[0])
    assert again.begin("a", "r") == known
    with pytest.raises(ServeError, match="look whether the change was made") as raised:
        again.begin("cut", "r")  # nobody knows what became of it
    assert (raised.value.status, raised.value.code) == (409, "idempotency_unknown")
    now[0] += DAY - 1
    assert again.begin("a", "r") == known
    now[0] += 1
    assert again.begin("a", "other") is None


def test_what_is_kept_is_bounded() -> None:
    now = [0.0]
    answers = Answers(":memory:", rows=3, size=100, now=lambda: now[0])

    def keep(id: str, size: int) -> None:
        now[0] += 1
        assert answers.begin(id, "r") is None
        answers.end(id, Answer(200, (), b"x" * size))

    def kept() -> list[str]:
        with answers._open() as db:
            return [row[0] for row in db.execute("SELECT id FROM answers ORDER BY time")]

    for id in "abcd":
        keep(id, 1)
    assert kept() == ["b", "c", "d"]
    keep("e", 99)
    assert kept() == ["d", "e"]
    keep("f", 101)
    assert kept() == []


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def http() -> TestClient:
    app, state = FastAPI(), {"n": 1}
    install(app)

    @app.get("/it")
    async def read(request: Request) -> Response:
        etag = etag_of(state)
        return Response(status_code=304 if is_known(request, etag) else 200, headers={"etag": etag})

    @app.post("/it")
    async def change(request: Request) -> dict[str, int]:
        check_match(request, etag_of(state))
        state["n"] += 1
        return state

    return TestClient(app)


def test_a_lost_update_is_refused(http: TestClient) -> None:
    etag = http.get("/it").headers["etag"]
    assert http.post("/it", headers={"if-match": f'"other", {etag}'}).json() == {"n": 2}
    late = http.post("/it", headers={"if-match": etag})
    assert error(late) == (412, "precondition_failed")
    assert late.headers["etag"] == http.get("/it").headers["etag"] != etag
    assert http.post("/it", headers={"if-match": f"W/{late.headers['etag']}"}).status_code == 412  # weak is no match
    assert http.post("/it", headers={"if-match": "*"}).json() == {"n": 3}
    assert http.post("/it").json() == {"n": 4}


def test_what_a_client_has_is_not_sent_again(http: TestClient) -> None:
    etag = http.get("/it").headers["etag"]
    for had, status in ((etag, 304), (f'"x", W/{etag}', 304), ("*", 304), ('"x"', 200)):
        assert http.get("/it", headers={"if-none-match": had}).status_code == status


def test_a_tag_is_of_the_value_not_of_its_order() -> None:
    assert etag_of({"a": 1, "b": "é\ud800"}) == etag_of({"b": "é\ud800", "a": 1}) != etag_of({"a": 1, "b": "e"})


def test_a_loop_is_not_held_up_by_the_file(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[str]()
    begin = Answers.begin

    def noted(self: Answers, id: str, request: str) -> Answer | None:
        threads.add(threading.current_thread().name)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return begin(self, id, request)

    monkeypatch.setattr(Answers, "begin", noted)
    made.client().post("/v1/edits", json=FACT, headers=made.bearer("write") | ONCE)
    assert threads
