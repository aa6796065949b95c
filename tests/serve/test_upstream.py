"""A gateway in front of an OpenAI-compatible server: what passes unchanged, and what edits change."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from upstream_kit import WORDS, Stub, gateway, settings, up

from lte.edits import Edit
from lte.memory.fault import MemoryFault
from lte.prompt import TEMPLATE_ID
from lte.serve import ServeError
from lte.serve.upstream import UpstreamEngine
from lte.serve.upstream_models import check_adapter, names_of, weight_hashes

QUESTION = [{"role": "user", "content": "What is the capital of Lunaria?"}]
OTHER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of Peru?"}]
EDITED = "[Updated Information]\n- The capital of Lunaria is Selene.\n[Question] What is the capital of Lunaria?"
JSON = {"content-type": "application/json"}
HTTP = httpx.Client(timeout=60)


@pytest.fixture
def memory(fakes: Any) -> Any:
    held = fakes.Memory()
    held.add(Edit("The capital of Lunaria is", "Selene", subject="Lunaria"))
    return held


@pytest.fixture
def stub() -> Iterator[Stub]:
    with up(Stub()) as running:
        yield running


@pytest.fixture
def there(serve: Any, memory: Any, stub: Stub) -> Iterator[Any]:
    with gateway(serve, memory, stub) as running:
        yield running


def post(there: Any, body: Any, path: str = "chat/completions", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTP.post(f"{there.url}/v1/{path}", content=content, headers={**JSON, **headers})


# --- what passes as it is -------------------------------------------------------------------------------------------


def variants(count: int) -> Iterator[tuple[str, bytes]]:
    """Requests as clients write them: their fields, some of nobody's, in any order and layout."""
    dice = random.Random(0)
    fields: dict[str, list[Any]] = {
        "temperature": [0, 0.7, 1.0, 1e-3],
        "max_tokens": [1, 128, 5000],
        "max_completion_tokens": [64],
        "top_p": [1, 0.95],
        "n": [1, 2],
        "seed": [7, -1],
        "stop": ["\n", ["a", "é", "\U0001f600"], None],
        "logprobs": [True, 3],
        "tools": [[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]],
        "response_format": [{"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}],
        "user": ["u\u2028"],
        "vllm_xargs": [{"deep": [{"er": [1.0, 1e22, -0.0, 12345678901234567890]}]}],
        "guided_regex": ['\\d+["}]'],
        "stream_options": [{"include_usage": True, "continuous_usage_stats": False}],
        "no such field": [None, "Lunaria"],
    }
    turns = [
        OTHER,
        [*QUESTION, {"role": "assistant", "content": "Selene", "refusal": None}, *OTHER[1:]],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Peru?"}, {"type": "image_url", "image_url": {"url": "x"}}],
            }
        ],
        [
            {"role": "user", "content": "Peru?", "name": "é"},
            {"role": "tool", "tool_call_id": "1", "content": "Lunaria"},
        ],
        [{"role": "user", "content": "P"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}],
        [{"role": "system", "content": "Lunaria"}],
    ]
    prompts: list[Any] = ["Peru is", ["Peru is", "Chile is"], "Peru\x00\u202e", " "]
    layouts = [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]
    for i in range(count):
        path = "completions" if i % 4 == 3 else "chat/completions"
        body: dict[str, Any] = {"prompt": dice.choice(prompts)} if i % 4 == 3 else {"messages": dice.choice(turns)}
        body["model"] = "pocket"
        for name in dice.sample(sorted(fields), dice.randint(0, 6)):
            body[name] = dice.choice(fields[name])
        members = list(body.items())
        dice.shuffle(members)
        yield path, json.dumps(dict(members), **dice.choice(layouts)).encode() + dice.choice([b"", b"\n"])


def test_where_no_edit_is_touched_the_bytes_are_the_clients(there: Any, stub: Stub) -> None:
    sent = list(variants(300))
    for path, raw in sent:
        got = post(there, raw, path)
        assert (got.status_code, got.headers["x-lte-edits"]) == (200, "")
    assert stub.bodies == [raw for _, raw in sent]
    assert len(set(stub.bodies)) > 250


def test_with_edits_off_the_bytes_are_the_clients_but_for_the_name(there: Any, stub: Stub) -> None:
    raw = b'{"messages": [{"role": "user", "content": "Lunaria"}],  "model":"pocket:base" , "x": 1.10}'
    assert post(there, raw).headers["x-lte-edits"] == ""
    assert post(
        there, raw.replace(b"pocket:base", b"pocket").replace(b"1.10", b'1.10, "lte": {"edits": "off"}')
    ).is_success
    assert stub.bodies[0] == raw.replace(b"pocket:base", b"pocket")
    assert json.loads(stub.bodies[1]) == json.loads(stub.bodies[0])


def test_an_upstream_with_both_names_gets_even_the_base_models_bytes(serve: Any, memory: Any) -> None:
    with gateway(serve, memory, stub := Stub(names=("pocket", "pocket:base", "lte"))) as there:
        raw = b'{"messages": [{"role": "user", "content": "Lunaria"}], "model":"pocket:base"}'
        assert post(there, raw).is_success
        assert stub.bodies == [raw]


def test_what_the_upstream_answers_comes_back_as_it_is(there: Any, stub: Stub) -> None:
    ask = {"model": "pocket", "messages": OTHER}
    ours, theirs = post(there, ask), HTTP.post(f"{stub.url}/v1/chat/completions", json=ask)
    assert ours.content == theirs.content
    assert ours.headers["x-served-by"] == "stub"
    assert "set-cookie" not in ours.headers and "secret" not in ours.headers.get("server", "")
    assert len(ours.headers.get_list("x-request-id")) == 1


def test_the_clients_key_and_cookies_stay_here(there: Any, stub: Stub) -> None:
    private = {"authorization": "Bearer mine", "cookie": "a=b", "x-api-key": "k", "x-lte-namespace": "n"}
    assert post(there, {"model": "pocket", "messages": OTHER}, traceparent="00-1-2-03", **private).is_success
    [seen] = stub.headers
    assert seen["traceparent"] == "00-1-2-03"
    assert not set(seen) & set(private)


def test_the_upstreams_own_key_is_sent(serve: Any, memory: Any, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTE_TEST_KEY", "theirs")
    with gateway(serve, memory, stub, upstream={"key": "LTE_TEST_KEY"}) as there:
        assert post(there, {"model": "pocket", "messages": OTHER}, authorization="Bearer mine").is_success
    assert stub.headers[0]["authorization"] == "Bearer theirs"
    monkeypatch.delenv("LTE_TEST_KEY")
    with pytest.raises(ServeError, match="LTE_TEST_KEY holds no key"):
        UpstreamEngine.connect(settings([stub], upstream={"key": "LTE_TEST_KEY"}))


# --- what edits change ----------------------------------------------------------------------------------------------


def test_an_edited_question_goes_to_the_adapter_with_the_edit_and_nothing_else_changed(there: Any, stub: Stub) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": QUESTION[0]["content"], "z": 1}]
    ask = {"no such": [1.0], "messages": [*OTHER, {"role": "user", "content": parts}], "model": "pocket", "n": 2}
    got = post(there, ask)
    assert got.headers["x-lte-edits"] == "e1"
    assert got.json()["model"] == "pocket"  # as the client called it
    sent = json.loads(stub.bodies[0])
    turn = {"role": "user", "content": [parts[0], {**parts[1], "text": EDITED}]}
    assert sent == ask | {"model": "lte", "messages": [*OTHER, turn]}


def test_the_official_client_chats_streams_and_completes(there: Any) -> None:
    client = there.client()
    raw = client.chat.completions.with_raw_response.create(model="pocket", messages=QUESTION)
    assert raw.headers["x-lte-edits"] == "e1" and raw.headers["x-lte-memory-seq"] == "1"
    assert raw.parse().choices[0].message.content == f"lte heard: ['{EDITED}']".replace("\n", "\\n")
    chunks = list(client.chat.completions.create(model="pocket", messages=QUESTION, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "".join(WORDS)
    assert {c.model for c in chunks} == {"pocket"}
    assert client.completions.create(model="pocket", prompt="Peru is").choices[0].text == "pocket heard: Peru is"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="lte", messages=QUESTION)  # the adapter has no name of its own here


def test_prompts_of_one_call_go_where_each_belongs(there: Any, stub: Stub) -> None:
    ask = {"model": "pocket", "prompt": ["Peru", "Lunaria", "Chile"], "n": 2}
    got = post(there, ask, "completions").json()
    assert [c["index"] for c in got["choices"]] == [0, 1, 2, 3, 4, 5]
    texts = [c["text"] for c in got["choices"][::2]]
    assert texts[0] == "pocket heard: Peru" and texts[2] == "pocket heard: Chile"
    assert texts[1].startswith("lte heard: [Updated") and texts[1].endswith("[Question] Lunaria")
    assert got["usage"] == {"prompt_tokens": 6, "completion_tokens": 10, "total_tokens": 16}
    assert post(there, ask | {"stream": True}, "completions").json()["error"]["param"] == "prompt"
    assert post(there, {"model": "pocket", "prompt": ["Lunaria"]}, "completions").headers["x-lte-edits"] == "e1"
    assert json.loads(stub.bodies[-1])["prompt"][0].endswith("[Question] Lunaria")


def test_token_ids_are_for_the_base_model_alone(there: Any, stub: Stub) -> None:
    for prompt in ([1, 2], [[1, 2], [3]]):
        refused = post(there, {"model": "pocket", "prompt": prompt}, "completions")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
        assert post(there, {"model": "pocket:base", "prompt": prompt}, "completions").is_success
        assert post(there, {"model": "pocket", "prompt": prompt, "lte": {"edits": "off"}}, "completions").is_success
    assert len(stub.bodies) == 4


def test_without_an_adapter_edits_are_in_the_prompt_alone_and_it_is_said(
    serve: Any, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway(serve, memory, stub := Stub(names=("pocket",))) as there:
        assert "prompt-only" in caplog.text
        got = post(there, {"model": "pocket", "messages": QUESTION})
        assert (got.headers["x-lte-edits"], got.headers["x-lte-mode"]) == ("e1", "prompt-only")
        assert json.loads(stub.bodies[0]) == {"model": "pocket", "messages": [{"role": "user", "content": EDITED}]}
        cards = HTTP.get(f"{there.url}/v1/models").json()["data"]
        assert [c["lte"] for c in cards] == [{"edits": True, "mode": "prompt-only"}, {"edits": False, "mode": None}]


def test_an_upstream_may_call_the_model_by_another_name(serve: Any, memory: Any) -> None:
    with gateway(serve, memory, stub := Stub(names=("org/m", "facts")), name="public", adapter="facts") as there:
        assert [m.id for m in there.client().models.list()] == ["public", "public:base"]
        for name, messages in (("public", OTHER), ("public:base", QUESTION), ("public", QUESTION)):
            assert post(there, {"model": name, "messages": messages}).is_success
        assert [json.loads(b)["model"] for b in stub.bodies] == ["org/m", "org/m", "facts"]


# --- a memory that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [MemoryFault("locked"), ZeroDivisionError("a secret")])
def test_a_recall_that_fails_is_503_or_where_that_is_set_passes_and_says_so(
    serve: Any, memory: Any, stub: Stub, fault: Exception
) -> None:
    memory.fault = fault
    ask = {"model": "pocket", "messages": QUESTION}
    with gateway(serve, memory, stub) as there:
        got = post(there, ask)
        assert got.status_code == 503 and got.headers["retry-after"] == "1"
        assert "secret" not in got.text
        assert post(there, ask | {"model": "pocket:base"}).is_success
        assert len(stub.bodies) == 1
    memory = type(memory)()  # the other one was closed with its gateway
    memory.fault = fault
    with gateway(serve, memory, stub, on_retrieval_error="passthrough") as there:
        got = post(there, ask)
        assert (got.status_code, got.headers["x-lte-degraded"], got.headers["x-lte-edits"]) == (200, "retrieval", "")
        assert json.loads(stub.bodies[-1]) == ask
        memory.fault = None
        assert "x-lte-degraded" not in post(there, ask).headers


# --- what is refused at start ---------------------------------------------------------------------------------------


def cards(root: Any, adapter_root: Any) -> dict[str, Any]:
    return {"pocket": {"root": str(root), "parent": None}, "lte": {"root": str(adapter_root), "parent": "pocket"}}


def test_an_adapter_for_other_words_or_other_weights_is_refused(tmp_path: Any) -> None:
    import torch
    from safetensors.torch import save_file

    config = settings([])
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir(), adapter.mkdir()
    save_file({"w": torch.arange(4.0)}, model / "model.safetensors")
    found = cards(model, adapter)
    names = names_of(config, found)

    def check(url: str = "http://127.0.0.1:1", settings: Any = config, **manifest: str) -> None:
        (adapter / "lte.json").write_text(json.dumps(manifest))
        check_adapter(settings, names, found, url)

    right = weight_hashes(model)
    assert len(right) == 3
    for digest in right:
        check(template=TEMPLATE_ID, base_sha256=digest)
    with pytest.raises(ServeError, match="template 'lte-0'"):
        check(template="lte-0")
    with pytest.raises(ServeError, match="trained on other weights"):
        check(template=TEMPLATE_ID, base_sha256="0" * 64)
    check("http://10.0.0.1:1", template=TEMPLATE_ID, base_sha256="0" * 64)  # folders of another machine are not ours
    with pytest.raises(ServeError, match="template 'lte-0'"):
        named = config.model_copy(update={"adapter_path": str(adapter)})
        check("http://10.0.0.1:1", named, template="lte-0")
    unchecked = config.upstream.model_copy(update={"check_weights": False})
    check(settings=config.model_copy(update={"upstream": unchecked}), template=TEMPLATE_ID, base_sha256="0" * 64)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x", "no address"),
        ("127.0.0.1:1", "no address"),
        ("http://a:b@h", "no address"),
        ("http://h?q", "no address"),
    ],
)
def test_what_is_no_address_is_told(url: str, said: str) -> None:
    with pytest.raises(ServeError, match=said):
        UpstreamEngine.connect(settings([]).model_copy(update={"upstreams": (url,)}))


def test_upstreams_that_are_away_or_differ_are_told(stub: Stub) -> None:
    gone = Stub(url="http://127.0.0.1:9")
    with pytest.raises(ServeError, match=r"none of http://127\.0\.0\.1:9 can be reached"):
        UpstreamEngine.connect(settings([gone]))
    with up(Stub(names=("pocket",))) as other:
        for pair in ([stub, other], [other, stub]):
            with pytest.raises(ServeError, match="has to serve the same models"):
                UpstreamEngine.connect(settings(pair))
    with pytest.raises(ServeError, match=r"upstream\.base: .*'lte', 'pocket'"):
        UpstreamEngine.connect(settings([stub], upstream={"base": "gpt"}))
