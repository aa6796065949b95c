"""Edits in the forms that other programs load: a whole checkpoint, or a LoRA adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lte.editors.artefact import Written, changes, made_by, model_row, origin
from lte.editors.base import EditorError, Handle
from lte.editors.change import low_rank, truncated
from lte.editors.folders import check_new, new_folder
from lte.editors.manifest import MANIFEST, versions
from lte.models import LM
from lte.models.layout import features

ENOUGH = 1e-6  # of ‖Δ‖: what a float32 adapter's factors may leave out and count as the change itself
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Module:
    """What an adapter holds of one module's change Δ.

    needed  columns that Δ takes, `None` where they are more than the adapter may have
    error   ‖Δ − BA‖ / ‖Δ‖ (Frobenius), of the factors as they are stored
    """

    rank: int
    needed: int | None
    error: float

    @property
    def cut(self) -> bool:
        """Whether columns were left out."""
        return self.needed is None


def export_model(lm: LM, folder: str | Path) -> None:
    """Write the model as it is now, edits in force, as an ordinary checkpoint with its tokenizer."""
    if lm.routes:
        raise EditorError(
            f"{lm.handles[-1].editor} works in the prompt and leaves the weights as they are; serve it with "
            "`lte serve`, or name an editor that writes weights"
        )
    with new_folder(folder) as part:
        lm.model.save_pretrained(part)
        lm.tokenizer.save_pretrained(part)


def export_lora(handle: Handle, folder: str | Path, max_rank: int = 64, dtype: str = "float32") -> dict[str, Module]:
    """Write a handle's change as a LoRA adapter that PEFT and vLLM load, and return how near it comes, by module.

    A change that takes at most `max_rank` columns is kept whole, of any other the nearest of that rank; all modules
    get as many as the widest needs, because vLLM takes one rank for an adapter. The scale is 1.

    dtype  of the stored factors: float32 or bfloat16
    """
    check_new(folder)
    if max_rank < 1:
        raise EditorError(f"max_rank {max_rank}: an adapter has at least one column")
    if dtype not in DTYPES:
        raise EditorError(f"dtype {dtype!r}: an adapter is stored in {' or '.join(DTYPES)}")
    if not handle.touched:
        raise EditorError(f"{handle!r} is in the prompt alone; an adapter holds changes of weights: name ft_m or rome")
    modules = {_linear(handle.lm, name): name for name in handle.touched}
    base, root, under = origin(handle)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    needed: dict[str, int | None] = {}
    found: dict[str, Module] = {}
    deltas: dict[str, Tensor] = {}
    for written, path in zip(changes(handle), modules):
        delta = deltas[path] = _out_in(handle.lm, path, written)
        (b, a), needed[path] = _factors(delta, max_rank)
        factors[path] = b.to(DTYPES[dtype]), a.to(DTYPES[dtype])
    rank = max(1, *(b.shape[1] for b, _ in factors.values()))
    tensors: dict[str, Tensor] = {}
    for path, (b, a) in factors.items():
        error = torch.linalg.vector_norm(deltas[path] - b.double() @ a.double().T)
        size = torch.linalg.vector_norm(deltas[path])
        found[path] = Module(b.shape[1], needed[path], float(error / size) if size else 0.0)
        more = rank - b.shape[1]
        tensors[f"base_model.model.{path}.lora_A.weight"] = nn.functional.pad(a.T, (0, 0, 0, more)).cpu().contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = nn.functional.pad(b, (0, more)).cpu().contiguous()
    told = {
        "kind": "lora",
        "base_sha256": base,
        "root_sha256": root,
        "under": under,
        "made": [m.model_dump(mode="json") for m in made_by(handle)],
        "rank": rank,
        "max_rank": max_rank,
        "dtype": dtype,
        "modules": {p: {"rank": m.rank, "whole": not m.cut, "error": m.error} for p, m in found.items()},
        "model": model_row(handle.lm),
        "versions": versions(),
    }
    with new_folder(folder) as part:
        save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
        _write_json(part / "adapter_config.json", _peft(handle.lm, list(modules), rank))
        _write_json(part / MANIFEST, told)
    return found


def _linear(lm: LM, name: str) -> str:
    """The path of the linear map whose weight the parameter is."""
    path, _, kind = name.rpartition(".")
    if kind != "weight" or features(lm.model.get_submodule(path)) is None:
        raise EditorError(
            f"{name} was changed, and an adapter holds changes of linear maps' weights alone; export this edit as a "
            "delta or as a model"
        )
    return path


def _transposed(lm: LM, path: str) -> bool:
    return not isinstance(lm.model.get_submodule(path), nn.Linear)


def _out_in(lm: LM, path: str, written: Written) -> Tensor:
    return written.change.t() if _transposed(lm, path) else written.change


def _factors(delta: Tensor, max_rank: int) -> tuple[tuple[Tensor, Tensor], int | None]:
    """((B (out, r), A transposed (in, r)), the rank that is needed or `None`), in float64."""
    most = min(max_rank, *delta.shape)
    found = low_rank(delta, ENOUGH * float(torch.linalg.vector_norm(delta)), most)
    return (found, found[0].shape[1]) if found is not None else (truncated(delta, most), None)


def _peft(lm: LM, modules: list[str], rank: int) -> dict[str, Any]:
    """An adapter_config.json; the modules are named whole, since the same ones of other layers were not changed."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lm.name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(modules),
        "fan_in_fan_out": any(_transposed(lm, path) for path in modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def _write_json(path: Path, row: dict[str, Any]) -> None:
    path.write_text(json.dumps(row, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
