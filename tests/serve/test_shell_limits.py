"""Each limit just below, at, and just beyond it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shell_kit import CHAT, FACT, Shell, fact, shell

from lte.serve.config import ServeConfig
from lte.serve.limits import deeper

MODELS = "/v1/models"


@pytest.fixture
def small(fakes: Any, tmp_path: Path) -> Any:
    limits = {"body_bytes": 5000, "header_bytes": 1000, "json_depth": 6, "batch": 3, "prompts": 3, "n": 3}
    with shell(fakes, tmp_path, keys=False, limits=limits) as made:
        yield made


def code(reply: Any) -> tuple[int, str | None]:
    return reply.status_code, reply.json()["error"]["code"] if reply.status_code >= 400 else None


@pytest.mark.parametrize(("size", "wanted"), [(4999, 201), (5000, 201), (5001, 413)])
def test_bytes_of_a_body(small: Shell, size: int, wanted: int) -> None:
    body = json.dumps(FACT).ljust(size)
    reply = small.client().post("/v1/edits", content=body, headers={"content-type": "application/json"})
    assert code(reply) == (wanted, "body_too_large" if wanted == 413 else None)


@pytest.mark.parametrize(("size", "wanted"), [(999, 200), (1000, 200), (1001, 431)])
@pytest.mark.parametrize("place", ["header", "query"])
def test_bytes_of_headers(small: Shell, size: int, wanted: int, place: str) -> None:
    http = small.client()
    sent = http.build_request("GET", MODELS, headers={"x": ""}, params={"q": ""})
    used = (
        len(sent.url.raw_path) - 1 + sum(len(n) + len(v) + 4 for n, v in sent.headers.raw)
    )  # the "?" is no byte of it
    filler = "a" * (size - used)
    x, q = (filler, "") if place == "header" else ("", filler)
    reply = http.get(MODELS, headers={"x": x}, params={"q": q})
    assert code(reply) == (wanted, "headers_large" if wanted == 431 else None)


@pytest.mark.parametrize(("depth", "wanted"), [(5, 200), (6, 200), (7, 422)])
def test_depth_of_json(small: Shell, depth: int, wanted: int) -> None:
    inside = depth - 1  # the body itself is one
    body = CHAT | {"metadata": json.loads("[" * inside + "]" * inside)}
    reply = small.client().post("/v1/chat/completions", json=body)
    assert code(reply) == (wanted, "body_too_deep" if wanted == 422 else None)


def test_a_body_of_brackets_is_not_recursed_into(small: Shell) -> None:
    reply = small.client().post("/v1/edits", content="[" * 5000, headers={"content-type": "application/json"})
    assert code(reply) == (422, "body_too_deep")


VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\aé', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=2),
    max_leaves=8,
)


def depth_of(value: Any) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    return 1 + max((depth_of(v) for v in (value.values() if isinstance(value, dict) else value)), default=0)


@given(VALUES, st.booleans())
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any, ascii: bool) -> None:
    body, depth = json.dumps(value, ensure_ascii=ascii).encode(), depth_of(value)
    assert not deeper(body, depth)
    assert depth == 0 or deeper(body, depth - 1)


@pytest.mark.parametrize("body", [b'"' + b"\\" * 999_999, b'"\\' * 500_000, b'"' * 999_999, b'{"a' * 300_000])
def test_no_body_takes_long_to_measure(body: bytes) -> None:
    deeper(body, 32)  # quadratic, it would hang


@pytest.mark.parametrize("field", ["prompt", "target_new", "subject"])
@pytest.mark.parametrize(("size", "wanted"), [(2047, 201), (2048, 201), (2049, 422)])
def test_bytes_of_an_edits_field(small: Shell, field: str, size: int, wanted: int) -> None:
    body = FACT | {"subject": ""} | {field: "é" * (size // 2) + "a" * (size % 2)}
    reply = small.client().post("/v1/edits", json=body)
    assert code(reply) == (wanted, "invalid_edit" if wanted == 422 else None)


@pytest.mark.parametrize(("many", "wanted"), [(2, 201), (3, 201), (4, 413)])
def test_edits_of_a_batch(small: Shell, many: int, wanted: int) -> None:
    assert small.client().post("/v1/edits", json={"edits": [fact(i) for i in range(many)]}).status_code == wanted


@pytest.mark.parametrize(("many", "wanted"), [(2, {200}), (3, {200}), (4, {400, 422})])
def test_edits_of_a_page_prompts_of_a_call_and_answers_to_one(small: Shell, many: int, wanted: set[int]) -> None:
    http = small.client()
    assert http.get("/v1/edits", params={"limit": many}).status_code in wanted
    text = {"model": "pocket", "prompt": ["x"] * many}
    assert http.post("/v1/completions", json=text).status_code in wanted
    assert http.post("/v1/chat/completions", json=CHAT | {"n": many}).status_code in wanted


def test_the_rate_of_a_key_is_its_own(fakes: Any, tmp_path: Path) -> None:
    with shell(fakes, tmp_path, rates={"per_key": "3/hour"}) as made:
        for who in ("read", "write"):
            replies = [made.client().get(MODELS, headers=made.bearer(who)) for _ in range(4)]
            assert [code(r) for r in replies] == [(200, None)] * 3 + [(429, "rate_limited")]
            assert 3500 < int(replies[-1].headers["retry-after"]) <= 3600
            assert replies[-1].json()["error"]["type"] == "rate_limit_error"
        assert made.client().get("/livez").status_code == 200


def test_the_rate_of_a_namespace_is_shared_by_its_keys(fakes: Any, tmp_path: Path) -> None:
    with shell(fakes, tmp_path, rates={"per_namespace": "3/hour"}) as made:
        chat = [
            made.client().post("/v1/chat/completions", json=CHAT, headers=made.bearer(w)) for w in ("read", "write")
        ]
        made.client().post("/v1/edits", json=FACT, headers=made.bearer("write"))
        last = made.client().post("/v1/chat/completions", json=CHAT, headers=made.bearer("admin"))
        assert [r.status_code for r in (*chat, last)] == [200, 200, 429]
        assert len(made.memory) == 3
        north = made.client().post("/v1/chat/completions", json=CHAT, headers=made.bearer("elsewhere"))
        assert north.status_code == 200


@pytest.mark.parametrize("rate", ["", "often", "-1/minute", "10/fortnight"])
def test_a_rate_is_a_number_and_a_time(rate: str) -> None:
    with pytest.raises(ValidationError, match="100/minute"):
        ServeConfig.model_validate({"rates": {"per_key": rate}})


def test_requests_at_once(fakes: Any, tmp_path: Path, wait: Any) -> None:
    with shell(fakes, tmp_path, keys=False, limits={"in_flight": 2}) as made:
        made.lm.pause = 0.05
        long = CHAT | {"messages": [{"role": "user", "content": "word " * 40}]}
        http = made.client()
        asking = [threading.Thread(target=http.post, args=("/v1/chat/completions",), kwargs={"json": long})] * 1
        asking.append(threading.Thread(target=http.post, args=("/v1/chat/completions",), kwargs={"json": long}))
        for one in asking:
            one.start()
        depth = made.apps.running.metrics.queue
        wait(lambda: depth._value.get() == 2 and made.lm.busy == 1)
        reply = made.client().get(MODELS)
        assert code(reply) == (429, "overloaded") and reply.headers["retry-after"] == "1"
        assert made.client().get("/livez").status_code == 200
        for one in asking:
            one.join()
        assert made.client().get(MODELS).status_code == 200
