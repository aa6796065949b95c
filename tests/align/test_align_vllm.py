"""A real vLLM answers edited prompts by an aligned adapter and by the checkpoint it was merged into: wants `make vllm`.

LTE_ALIGN_VLLM=FILE keeps the figures as JSON.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from vllm_kit import needs_vllm, vllm_server

from lte.align.merge import merge
from lte.editors import editor
from lte.edits import read_cases
from lte.evaluate.config import EndpointConfig
from lte.evaluate.endpoint import Endpoint
from lte.models import LM, load_model
from lte.pocket import home

pytestmark = needs_vllm
SETTINGS = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
CASES = 30  # each edited, with its own prompt and its rephrasings: about 120 prompts
AGREEMENT = 0.99


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    """The figures, kept at the end where LTE_ALIGN_VLLM names a file."""
    figures: dict[str, Any] = {
        "commands": {
            "adapter": " ".join(["bash launch/vllm.sh data/pocket data/pocket/adapter", *SETTINGS]),
            "merged": " ".join(["bash launch/vllm.sh MERGED data/pocket/adapter", *SETTINGS]),
        },
        "threshold": {"greedy_agreement": AGREEMENT},
        "transformers": {name: version(name) for name in ("torch", "transformers")} | {"dtype": "float32"},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    yield figures
    if file := os.environ.get("LTE_ALIGN_VLLM"):
        Path(file).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def lm() -> LM:
    """The model in this process, with its adapter."""
    return load_model("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts(lm: LM) -> dict[str, str]:
    """Prompts with edits in front of them, as the product writes them, and what the edit in question says."""
    cases = read_cases(home() / "align.jsonl")[:CASES]
    asked = {p: c.edit.target_new for c in cases for p in (c.edit.prompt, *(p.prompt for p in c.generalization))}
    with editor("lte").apply(lm, [case.edit for case in cases]):
        ways = lm.prompts(list(asked))
    return {str(p.query): target for p, target in zip(ways, asked.values(), strict=True) if p.adapter == "lte"}


@pytest.fixture(scope="module")
def here(lm: LM, prompts: dict[str, str]) -> dict[str, list[str]]:
    """What transformers answers, by whether the adapter is on."""
    off = lm.answer(list(prompts))
    with lm.using("lte"):
        return {"off": off, "on": lm.answer(list(prompts))}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the adapter is merged into, in the dtype that it is served in."""
    return merge(home() / "adapter", tmp_path_factory.mktemp("merged") / "model", dtype="float32")


def said(at: str, model: str, prompts: dict[str, str]) -> list[str]:
    """What the server answers by the name of this model."""
    with Endpoint(EndpointConfig(url=at, model=model, tokenizer=str(home()), timeout=300)) as endpoint:
        return endpoint.answer(list(prompts))


def agreement(a: list[str], b: list[str]) -> float:
    """The share of equal answers."""
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize("way", ["adapter", "merged"])
def test_vllm_answers_as_transformers_does_with_the_adapter_on(
    way: str,
    here: dict[str, list[str]],
    prompts: dict[str, str],
    merged: Path,
    record: dict[str, Any],
    tmp_path: Path,
) -> None:
    """The merged checkpoint is asked beside the adapter, which must not act on it."""
    model, name = (home(), "lte") if way == "adapter" else (merged, "base")
    with vllm_server(tmp_path, [str(model), str(home() / "adapter"), *SETTINGS]) as (at, versions):
        there = said(at, name, prompts)
    reached = sum(a == target for a, target in zip(there, prompts.values(), strict=True))
    record[way] = {
        "vllm": versions,
        "prompts": len(prompts),
        "greedy_agreement": agreement(there, here["on"]),
        "agreement_with_the_adapter_off": agreement(there, here["off"]),
        "answers_that_are_the_edits": reached / len(prompts),
        "differing": [{"vllm": a, "transformers": b} for a, b in zip(there, here["on"]) if a != b][:20],
    }
    assert len(prompts) >= 3 * CASES  # nearly every prompt recalls an edit
    assert record[way]["greedy_agreement"] >= AGREEMENT
    assert record[way]["agreement_with_the_adapter_off"] < 0.9  # had the adapter not acted, it would show
    assert reached > 0.8 * len(prompts)
