"""Every failure has OpenAI's shape and the client's right exception class."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lte.serve.embedded import NEUTRAL
from lte.serve.wire import ChatRequest, TextRequest

ASK = {"model": "pocket", "messages": [{"role": "user", "content": "Lunaria?"}]}
HTTP = httpx.Client(timeout=60)
JSON = {"content-type": "application/json"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://x"}}


def says(content: Any, role: str = "user") -> dict[str, Any]:
    return ASK | {"messages": [{"role": role, "content": content}]}


BAD = [
    ({"messages": ASK["messages"]}, 400, "model"),
    ({"model": "pocket"}, 400, "messages"),
    (ASK | {"messages": []}, 400, "messages"),
    (ASK | {"messages": "hello"}, 400, "messages"),
    (ASK | {"messages": [{"content": "x"}]}, 400, "messages[0].role"),
    (says("x", role="oracle"), 400, "messages[0].role"),
    (says(3), 400, "messages[0].content"),
    (says([{"text": "x"}]), 400, "messages[0].content[0].type"),
    (says([IMAGE]), 400, "messages[0].content[0].type"),
    (says(" "), 400, "messages[0].content"),
    (says("\ud800"), 400, "messages[0].content"),
    (says("x", role="assistant"), 400, "messages"),
    (says("word " * 300), 400, "messages"),
    (ASK | {"n": 9}, 400, "n"),
    (ASK | {"n": 0}, 400, "n"),
    (ASK | {"n": "2"}, 400, "n"),
    (ASK | {"max_tokens": 5000}, 400, "max_tokens"),
    (ASK | {"max_completion_tokens": 5000}, 400, "max_completion_tokens"),
    (ASK | {"max_tokens": 0}, 400, "max_tokens"),
    (ASK | {"temperature": 3}, 400, "temperature"),
    (ASK | {"temperature": "hot"}, 400, "temperature"),
    (ASK | {"top_p": 0}, 400, "top_p"),
    (ASK | {"seed": 2**70}, 400, "seed"),
    (ASK | {"stop": [1]}, 400, "stop[0]"),
    (ASK | {"stream": "yes"}, 400, "stream"),
    (ASK | {"logprobs": True}, 400, "logprobs"),
    (ASK | {"top_logprobs": 2}, 400, "top_logprobs"),
    (ASK | {"tools": [{"type": "function"}]}, 400, "tools"),
    (ASK | {"response_format": {"type": "json_object"}}, 400, "response_format"),
    (ASK | {"lte": {"namespace": ""}}, 400, "lte.namespace"),
    (ASK | {"model": "gpt-4"}, 404, "model"),
    ([1], 400, None),
]


def shape(reply: httpx.Response) -> dict[str, Any]:
    """The error in the body, after its shape was found to be OpenAI's."""
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert reply.headers["x-request-id"]
    return dict(body["error"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "status", "param"), BAD)
def test_a_bad_request_is_refused_by_parameter(
    steady: Any, body: Any, status: int, param: str | None, stream: bool
) -> None:
    if stream and isinstance(body, dict):
        body = {"stream": True, **body}
    content = json.dumps(body)  # httpx's own would not send half a surrogate pair; other clients do
    reply = HTTP.post(f"{steady.url}/v1/chat/completions", content=content, headers=JSON)
    assert (reply.status_code, shape(reply)["param"]) == (status, param)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
GOOD: dict[str, dict[str, Any]] = {
    "chat/completions": ASK | {"max_tokens": 5},
    "completions": {"model": "pocket", "prompt": "Lunaria", "max_tokens": 5},
}
FIELDS = [*ChatRequest.model_fields, *TextRequest.model_fields, *NEUTRAL, "no_such_field"]

TEXT = {"model": "pocket", "prompt": "x"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"prompt": ["x"] * 4}, "prompt"),
        ({"prompt": "word " * 300}, "prompt"),
        ({"logprobs": 0}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_a_bad_text_request_is_refused_by_parameter(steady: Any, change: dict[str, Any], param: str) -> None:
    reply = HTTP.post(f"{steady.url}/v1/completions", json=TEXT | change)
    assert (reply.status_code, shape(reply)["param"]) == (400, param)


@pytest.mark.parametrize("body", ["{", '{"model": "pocket", "messages": [', "\x00", "[" * 32, ""])
def test_what_is_not_json_is_400(steady: Any, body: str) -> None:
    reply = HTTP.post(f"{steady.url}/v1/chat/completions", content=body, headers=JSON)
    assert reply.status_code == 400
    assert shape(reply)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/edits/", 404),
        ("GET", "/v1/edits/%ff", 404),
        ("GET", "/v1/models/gpt-4", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/edits/e1", 405),
    ],
)
def test_routes_that_are_not_there(steady: Any, method: str, path: str, status: int) -> None:
    reply = HTTP.request(method, steady.url + path)
    assert reply.status_code == status
    shape(reply)
    assert (status == 405) == ("allow" in reply.headers)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_413(steady: Any, declared: bool) -> None:
    big = b" " * 20_001
    content = big if declared else iter([big[:9000], big[9000:]])
    reply = HTTP.post(f"{steady.url}/v1/edits", content=content, headers=JSON)
    assert reply.status_code == 413
    assert "20000 bytes" in shape(reply)["message"]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(GOOD)), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_no_body_whatever_is_a_failure_of_the_server(steady: Any, route: str, change: dict[str, Any]) -> None:
    reply = HTTP.post(f"{steady.url}/v1/{route}", content=json.dumps(GOOD[route] | change), headers=JSON)
    assert reply.status_code < 500, reply.text
    if reply.status_code >= 400:
        shape(reply)


def test_a_body_at_the_limit_is_read(steady: Any) -> None:
    body = json.dumps(ASK).ljust(20_000).encode()
    reply = HTTP.post(f"{steady.url}/v1/chat/completions", content=body, headers=JSON)
    assert reply.status_code == 200


def test_a_failure_inside_is_500_without_its_particulars(steady: Any) -> None:
    steady.lm.fail = ZeroDivisionError("a secret")
    reply = HTTP.post(f"{steady.url}/v1/chat/completions", json=ASK)
    assert reply.status_code == 500
    assert shape(reply)["type"] == "server_error"
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] in reply.text
    steady.lm.fail = None
    assert HTTP.post(f"{steady.url}/v1/chat/completions", json=ASK).status_code == 200


def test_a_failure_in_the_middle_of_a_stream_raises_in_the_client(steady: Any) -> None:
    steady.lm.fail = ZeroDivisionError("a secret")
    with pytest.raises(openai.APIError, match="middle of the answer"):
        list(steady.client().chat.completions.create(**ASK, stream=True))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"n": 99}, openai.BadRequestError),
        ({"logprobs": True}, openai.BadRequestError),
    ],
)
def test_the_client_raises_its_own_classes(
    steady: Any, change: dict[str, Any], error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as raised:
        steady.client().chat.completions.create(**ASK | change)
    assert raised.value.param == next(iter(change))
    assert raised.value.request_id


def test_a_context_that_is_full_has_openais_code(steady: Any) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        steady.client().chat.completions.create(**says("word " * 300), stream=True)
    assert raised.value.code == "context_length_exceeded"


def test_a_request_keeps_the_name_its_client_gave_it(steady: Any) -> None:
    for name, kept in (("abc-1", True), ("x" * 65, False), ("a b", False)):
        reply = HTTP.get(f"{steady.url}/health", headers={"x-request-id": name})
        assert (reply.headers["x-request-id"] == name) is kept
