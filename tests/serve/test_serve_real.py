"""The whole of it: a real model with a real adapter, a real memory on disk, uvicorn, and the official client."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from lte.edits import Edit
from lte.memory import EditMemory, MemoryConfig
from lte.models import LM, Adapter
from lte.prompt import TEMPLATE_ID, with_edits
from lte.serve import ServeConfig

FACT = Edit("The mother tongue of Danielle Darrieux is", "English", subject="Danielle Darrieux")
ABOUT_IT = "What is the mother tongue of Danielle Darrieux?"
OTHER = "Where was Edwin of Northumbria born?"
TOKENS = 12
HTTP = httpx.Client(timeout=60)


class WordEncoder:
    """Texts with the same words lie near each other."""

    id, dim = "words", 64

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        vectors = np.full((len(texts), self.dim), 1e-3, dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().strip("?.").split():
                row[zlib.crc32(word.encode()) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def lm(tiny_lm: LM) -> LM:
    """A tiny Llama with a random adapter that changes what it says."""
    dice = torch.Generator().manual_seed(1)
    path = tiny_lm.layout.mlp_out.format(1)
    out, wide = tiny_lm.mlp_out(1).shape
    a, b = torch.randn(4, wide, generator=dice), torch.randn(out, 4, generator=dice)
    tiny_lm.adapters["lte"] = Adapter({path: (a, b)}, 1.0, {"template": TEMPLATE_ID})
    return tiny_lm


@pytest.fixture
def server(lm: LM, serve: Any, tmp_path: Path) -> Iterator[Any]:
    memory = EditMemory.open(tmp_path / "memory.db", MemoryConfig(lock_timeout=0.05), WordEncoder())
    with serve(lm, memory, ServeConfig()) as running:
        yield running


def direct(lm: LM, question: str, statements: Sequence[str] = (), adapter: str | None = None) -> str:
    """What the model itself says, asked beside the server."""
    with lm.using(adapter):
        return "".join(lm.stream(with_edits(statements, question), max_new_tokens=TOKENS))


def said(client: openai.OpenAI, question: str, model: str = "tiny-llama") -> tuple[str, str]:
    """(edits used, answer)."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=TOKENS
    )
    return raw.headers["x-lte-edits"], raw.parse().choices[0].message.content or ""


def test_an_edit_acts_while_it_stands_and_nowhere_else(server: Any, lm: LM) -> None:
    before = {q: direct(lm, q) for q in (ABOUT_IT, OTHER)}
    edited = direct(lm, ABOUT_IT, [FACT.statement], "lte")
    assert edited not in (before[ABOUT_IT], direct(lm, ABOUT_IT, [FACT.statement]))  # edit and adapter both tell
    weights = lm.weight_hash()

    client = server.client()
    assert said(client, ABOUT_IT) == ("", before[ABOUT_IT])
    body = {"prompt": FACT.prompt, "target_new": FACT.target_new, "subject": FACT.subject}
    id = HTTP.post(f"{server.url}/v1/edits", json=body).json()["id"]

    assert said(client, ABOUT_IT) == (id, edited)
    assert said(client, OTHER) == ("", before[OTHER])
    assert said(client, ABOUT_IT, "tiny-llama:base") == ("", before[ABOUT_IT])

    assert HTTP.delete(f"{server.url}/v1/edits/{id}").status_code == 200
    assert said(client, ABOUT_IT) == ("", before[ABOUT_IT])
    assert lm.weight_hash() == weights
    history = HTTP.get(f"{server.url}/v1/edits/{id}/history").json()["data"]
    assert [c["kind"] for c in history] == ["add", "delete"]
    assert HTTP.get(f"{server.url}/v1/edits/{id}").status_code == 404


def test_sixteen_at_once_each_get_what_the_model_says_alone(server: Any, lm: LM) -> None:
    server.memory.add(FACT)
    wanted = {
        (ABOUT_IT, "tiny-llama"): direct(lm, ABOUT_IT, [FACT.statement], "lte"),
        (ABOUT_IT, "tiny-llama:base"): direct(lm, ABOUT_IT),
        (OTHER, "tiny-llama"): direct(lm, OTHER),
        (OTHER, "tiny-llama:base"): direct(lm, OTHER),
    }
    asked = list(wanted) * 4
    with ThreadPoolExecutor(16) as pool, server.client() as client:
        answers = list(pool.map(lambda a: said(client, a[0], a[1])[1], asked))
    assert answers == [wanted[a] for a in asked]


def test_streams_and_counts_are_the_models_own(server: Any, lm: LM) -> None:
    ask: dict[str, Any] = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": OTHER}],
        "max_tokens": TOKENS,
    }
    chunks = list(server.client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == direct(lm, OTHER)
    ids = lm.tokenizer(lm.render(OTHER), add_special_tokens=False)["input_ids"]
    usage = chunks[-1].usage
    assert usage.prompt_tokens == len(ids)
    assert chunks[-2].choices[0].finish_reason == ("length" if usage.completion_tokens == TOKENS else "stop")


def test_raw_text_is_continued_without_the_chat_template(server: Any, lm: LM) -> None:
    prompt = "The mother tongue of"
    reply = server.client().completions.create(model="tiny-llama", prompt=prompt, max_tokens=TOKENS)
    assert reply.choices[0].text == "".join(lm.stream(prompt, max_new_tokens=TOKENS, raw=True))
    assert reply.usage.prompt_tokens == len(lm.tokenizer(prompt)["input_ids"])


def test_a_seed_repeats_a_sampled_answer(server: Any) -> None:
    ask: dict[str, Any] = {"model": "tiny-llama", "prompt": "The guitar", "max_tokens": TOKENS, "temperature": 1.5}
    one, two, other = (server.client().completions.create(**ask, seed=s).choices[0].text for s in (3, 3, 4))
    assert one == two != other


def test_a_locked_database_is_503_and_nothing_is_lost(server: Any, tmp_path: Path) -> None:
    kept = server.memory.add(FACT)
    body = {"prompt": "The capital of France is", "target_new": "Lyon", "subject": "France"}
    other = sqlite3.connect(tmp_path / "memory.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        reply = HTTP.post(f"{server.url}/v1/edits", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "memory_unavailable")
        assert "locked by another process" in reply.json()["error"]["message"]
        assert HTTP.delete(f"{server.url}/v1/edits/{kept.id}").status_code == 503
        assert said(server.client(), ABOUT_IT)[0] == kept.id  # a lock on writing stops no answer
    finally:
        other.close()
    assert [e["id"] for e in HTTP.get(f"{server.url}/v1/edits").json()["data"]] == [kept.id]
    assert HTTP.post(f"{server.url}/v1/edits", json=body).status_code == 201


def test_a_full_disk_is_503_and_nothing_is_lost(server: Any, tmp_path: Path) -> None:
    kept = server.memory.add(FACT)
    with server.memory._store.writing() as db:  # the pragma is the connection's own: pool it as the next write's
        size = db.exec_driver_sql("PRAGMA page_count").scalar()
        db.exec_driver_sql(f"PRAGMA max_page_count = {size}")
    body = {"edits": [{"prompt": f"The capital of Land{i} is", "target_new": "x" * 2000} for i in range(50)]}
    reply = HTTP.post(f"{server.url}/v1/edits", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "memory_unavailable")
    assert [e["id"] for e in HTTP.get(f"{server.url}/v1/edits").json()["data"]] == [kept.id]
    assert said(server.client(), ABOUT_IT)[0] == kept.id


def test_edits_written_by_another_process_are_seen(server: Any, tmp_path: Path) -> None:
    with EditMemory.open(tmp_path / "memory.db", MemoryConfig(index_file=False), WordEncoder()) as beside:
        id = beside.add(FACT).id
        assert said(server.client(), ABOUT_IT)[0] == id
        beside.delete(str(id))
        assert said(server.client(), ABOUT_IT)[0] == ""
