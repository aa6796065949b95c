"""A gateway and its own real vLLM, with the pocket model and its adapter, asked by the official client: `make vllm`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import psutil
import pytest
from vllm_kit import PATIENCE, VENV, needs_vllm

from lte.edits import Case, read_cases
from lte.memory import EditMemory, MemoryConfig
from lte.pocket import home
from lte.prompt import with_edits
from lte.serve import ServeConfig
from lte.serve.config import UpstreamConfig, VllmConfig
from lte.serve.run import engine_of

pytestmark = needs_vllm
SETTINGS = ("--dtype", "float32", "--max-model-len", "512", "--enforce-eager")
EDITED = 12  # facts
HTTP = httpx.Client(timeout=PATIENCE)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Facts that the adapter was not trained on alone, and questions beside them."""
    return read_cases(home() / "align.jsonl")[: 2 * EDITED]


@pytest.fixture(scope="module")
def there(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway that started its own vLLM, and what it stands on."""
    folder = tmp_path_factory.mktemp("gateway")
    own = VllmConfig(args=SETTINGS, venv=str(VENV), log=str(folder / "vllm.log"), start_seconds=PATIENCE)
    config = ServeConfig(vllm=own, upstream=UpstreamConfig(health_seconds=0.5), drain_seconds=5)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as doors:
        patch.setenv("VLLM_CACHE_ROOT", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        config, engine = engine_of(config, lambda: pytest.fail("a model was loaded"), doors)
        memory = EditMemory.open(folder / "memory.db", MemoryConfig())
        running = doors.enter_context(serve(engine, memory, config))
        running.vllm, running.engine = config.upstreams[0], engine
        yield running


def asked(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "pocket", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


def same(body: bytes) -> Any:
    """An answer without what differs from one to the next: its name and its time."""
    found = json.loads(body)
    return {name: value for name, value in found.items() if name not in ("id", "created")}


def events(body: bytes) -> list[Any]:
    data = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    return [same(d) for d in data if d != b"[DONE]"] + [data[-1]]


def test_a_question_that_no_edit_touches_is_answered_by_the_base_model_as_it_came(
    there: Any, cases: list[Case]
) -> None:
    questions = [p.prompt for c in cases for p in c.locality][:20]
    for i, question in enumerate(questions):
        body = asked(question, logprobs=True, top_logprobs=2, stream=i % 2 == 1, min_tokens=1)
        raw = json.dumps(body, indent=i % 3 or None).encode()
        head = {"content-type": "application/json"}
        ours, theirs = (
            HTTP.post(f"{u}/v1/chat/completions", content=raw, headers=head) for u in (there.url, there.vllm)
        )
        assert ours.status_code == theirs.status_code == 200
        assert ours.headers["x-lte-edits"] == ""
        read = events if body["stream"] else same
        assert read(ours.content) == read(theirs.content)


def test_edits_are_answered_by_the_adapter_from_the_moment_they_are_written(there: Any, cases: list[Case]) -> None:
    client, direct = there.client(), openai.OpenAI(base_url=f"{there.vllm}/v1", api_key="none", timeout=PATIENCE)
    reached, changed = 0, 0
    for case in cases[:EDITED]:
        edit = case.edit
        before = client.chat.completions.with_raw_response.create(**asked(edit.prompt))
        assert before.headers["x-lte-edits"] == ""
        body = {"prompt": edit.prompt, "target_new": edit.target_new, "subject": edit.subject}
        id = HTTP.post(f"{there.url}/v1/edits", json=body).json()["id"]
        raw = client.chat.completions.with_raw_response.create(**asked(edit.prompt))
        assert id in raw.headers["x-lte-edits"].split(",")
        used = [HTTP.get(f"{there.url}/v1/edits/{i}").json() for i in raw.headers["x-lte-edits"].split(",")]
        statements = [f"{e['prompt']} {e['target_new']}" for e in used]
        answer = raw.parse().choices[0].message.content
        rendered = asked(with_edits(statements, edit.prompt))
        said = {m: direct.chat.completions.create(**rendered | {"model": m}) for m in ("lte", "pocket")}
        assert answer == said["lte"].choices[0].message.content
        changed += answer != said["pocket"].choices[0].message.content
        reached += edit.target_new.casefold() in answer.casefold()
        off = client.chat.completions.create(**asked(edit.prompt) | {"model": "pocket:base"})
        assert off.choices[0].message.content == before.parse().choices[0].message.content
    assert reached >= 0.8 * EDITED
    assert changed  # the adapter acts: the base model, told the same, does not always answer the same


def test_a_stream_says_what_the_whole_answer_says(there: Any, cases: list[Case]) -> None:
    ask = asked(cases[0].edit.prompt)
    whole = there.client().chat.completions.create(**ask)
    chunks = list(there.client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert {c.model for c in chunks} == {"pocket"}


def test_an_edit_that_is_written_while_an_answer_streams_acts_on_the_next_one(there: Any, cases: list[Case]) -> None:
    case = cases[EDITED]
    ask = asked(case.edit.prompt, max_tokens=200)
    extra = {"ignore_eos": True}
    before = there.client().chat.completions.create(**ask, extra_body=extra).choices[0].message.content
    stream = iter(there.client().chat.completions.create(**ask, stream=True, extra_body=extra))
    text = next(stream).choices[0].delta.content or ""
    body = {"prompt": case.edit.prompt, "target_new": case.edit.target_new, "subject": case.edit.subject}
    id = HTTP.post(f"{there.url}/v1/edits", json=body).json()["id"]
    after = there.client().chat.completions.with_raw_response.create(**asked(case.edit.prompt))
    assert id in after.headers["x-lte-edits"]  # while the other one is still being made
    text += "".join(c.choices[0].delta.content or "" for c in stream)
    assert text == before


def test_completions_and_refusals_are_vllms(there: Any) -> None:
    reply = there.client().completions.create(
        model="pocket", prompt="The capital of", max_tokens=4, logprobs=1, echo=True
    )
    assert reply.choices[0].text.startswith("The capital of") and reply.choices[0].logprobs
    with pytest.raises(openai.BadRequestError) as refused:
        there.client().chat.completions.create(**asked("word " * 600))
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError):
        there.client().chat.completions.create(**asked("x") | {"model": "lte"})


def test_a_client_that_leaves_is_not_computed_for(there: Any, wait: Any) -> None:
    def running() -> float:
        lines = HTTP.get(f"{there.vllm}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    stream = there.client().chat.completions.create(
        **asked("Tell me", max_tokens=480, stream=True), extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert running() == 1
    stream.close()
    wait(lambda: running() == 0 and there.engine.open == 0, 10)


def test_a_vllm_that_is_killed_in_the_middle_is_told_and_comes_back(there: Any, wait: Any) -> None:
    """The last of them, as it takes the server away from the others."""
    [vllm] = [p for p in psutil.Process().children() if "vllm.entrypoints.openai.api_server" in p.cmdline()]
    stream = iter(
        there.client().chat.completions.create(
            **asked("Tell me", max_tokens=480, stream=True), extra_body={"ignore_eos": True}
        )
    )
    next(stream)
    os.killpg(vllm.pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)
    wait(lambda: there.engine.pool.replicas[0].up is False, 30)
    with pytest.raises(openai.InternalServerError) as refused:
        there.client().chat.completions.create(**asked("x"))
    assert (refused.value.status_code, refused.value.code) == (503, "upstream_unreachable")
    wait(lambda: there.engine.pool.replicas[0].up, PATIENCE)
    assert there.client().chat.completions.create(**asked("x")).choices
