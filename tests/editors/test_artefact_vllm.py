"""A real vLLM that loads an exported adapter while it runs answers as the edited model does: needs `make vllm`.

LTE_LORA_EXPORT=FILE keeps the figures as JSON.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from vllm_kit import needs_vllm, vllm_server

from lte.config import shipped
from lte.editors import editor_from
from lte.editors.base import Handle, Rewrite
from lte.editors.export import export_lora
from lte.edits import Case, Edit, read_cases
from lte.evaluate.config import EndpointConfig
from lte.evaluate.endpoint import Endpoint
from lte.models import LM, Score, load_model
from lte.pocket import home

pytestmark = needs_vllm
EDITED, CASES, BOUND = 4, 20, 1e-3
SETTINGS = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--max-loras", "4"]


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    """The figures, kept at the end where LTE_LORA_EXPORT names a file."""
    figures: dict[str, Any] = {
        "command": " ".join(
            ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 bash launch/vllm.sh data/pocket data/pocket/adapter", *SETTINGS]
        ),
        "threshold": {"max_abs_delta_logprob": BOUND},
        "transformers": {name: version(name) for name in ("torch", "transformers")} | {"dtype": "float32"},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    yield figures
    if file := os.environ.get("LTE_LORA_EXPORT"):
        Path(file).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]) -> Iterator[str]:
    """A server of the pocket model that may be given adapters while it runs."""
    command = [str(home()), str(home() / "adapter"), *SETTINGS]
    live = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with vllm_server(tmp_path_factory.mktemp("vllm"), command, live) as (at, versions):
        record["vllm"] = versions
        yield at


@pytest.fixture(scope="module")
def lm() -> LM:
    """The model in this process."""
    return load_model("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """The first cases of the pocket benchmark; the first few are edited."""
    return read_cases(home() / "cases.jsonl")[:CASES]


@pytest.fixture(scope="module")
def asked(cases: list[Case]) -> tuple[list[str], list[str]]:
    """Their questions, each with the new and with the old answer."""
    prompts = [(c, [c.edit.prompt, *(p.prompt for p in c.generalization + c.locality)]) for c in cases]
    pairs = [(p, str(t)) for c, own in prompts for p in own for t in (c.edit.target_new, c.edit.target_true)]
    return [p for p, _ in pairs], [t for _, t in pairs]


def by_rome(lm: LM, edits: list[Edit], folder: Path) -> Handle:
    """The pocket's own settings of ROME."""
    made = editor_from(shipped("editors/pocket/rome.yaml"), [f"statistics.cache={folder}"])
    return made.apply(lm, edits)


def by_hand(lm: LM, edits: list[Edit], folder: Path) -> Handle:
    """Changes of two layers, of different ranks, as MEMIT spreads them: large enough to be seen in every answer."""
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as undo:
        rewrites = {}
        for layer, rank in ((2, 4), (5, 7)):
            W = rewrites[f"{lm.layout.mlp_out.format(layer)}.weight"] = Rewrite(lm.mlp_out(layer))
            undo.callback(W.restore_)
            u, v = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in W.weight.shape)
            delta = u @ v.T
            W.add_(0.5 * torch.linalg.norm(W.exact) / torch.linalg.norm(delta) * delta)
        return Handle(lm, "hand", edits, undo, rewrites, plain=True)


def apart(there: list[Score], here: list[Score]) -> list[float]:
    """How far each target's log-probability per token is."""
    return [abs(a.logprob - b.logprob) for a, b in zip(there, here, strict=True)]


@pytest.mark.parametrize("way", [by_rome, by_hand], ids=["rome", "two-layers"])
def test_vllm_with_the_adapter_is_the_edited_model(
    way: Any,
    url: str,
    lm: LM,
    cases: list[Case],
    asked: tuple[list[str], list[str]],
    record: dict[str, Any],
    tmp_path: Path,
) -> None:
    plain = lm.score(*asked)
    with way(lm, [c.edit for c in cases[:EDITED]], tmp_path / "cache") as handle:
        edited = lm.score(*asked)
        found = export_lora(handle, tmp_path / "adapter")
    name = way.__name__
    told = httpx.post(
        f"{url}/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(tmp_path / "adapter")}, timeout=120
    )
    assert told.status_code == 200, told.text
    served: dict[str, list[Score]] = {}
    for model in (name, "base"):
        config = EndpointConfig(url=url, model=model, tokenizer=str(home()), timeout=300)
        with Endpoint(config) as endpoint:
            served[model] = endpoint.score(*asked)
    deltas, beside, changed = apart(served[name], edited), apart(served["base"], plain), apart(edited, plain)
    record[name] = {
        "modules": {path: vars(module) for path, module in found.items()},
        "targets": len(deltas),
        "max_abs_delta_logprob": max(deltas),
        "mean_abs_delta_logprob": sum(deltas) / len(deltas),
        "same_argmax_tokens": sum(a.predicted == b.predicted for a, b in zip(served[name], edited)) / len(deltas),
        "base_max_abs_delta_logprob": max(beside),
        "edit_max_abs_delta_logprob": max(changed),
        "edit_mean_abs_delta_logprob": sum(changed) / len(changed),
    }
    assert max(changed) > 0.5  # had the adapter not acted, it would show
    assert max(deltas) < BOUND and max(beside) < BOUND
