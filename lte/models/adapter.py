"""LoRA adapters in PEFT's file format, switched on and off by hooks: off, the model is the one that was loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lte.models.layout import ModelError, features

MANIFEST = "lte.json"  # beside the adapter: template id, base model hash, seed, versions


@dataclass(frozen=True)
class Adapter:
    """Low-rank changes by module path: out += scale · B(Ax), with A (r, in) and B (out, r)."""

    factors: dict[str, tuple[Tensor, Tensor]]
    scale: float
    manifest: dict[str, Any]

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Within: the adapter acts. After: the hooks are gone and no parameter was touched."""
        with ExitStack() as hooks:
            for path, (a, b) in self.factors.items():
                handle = model.get_submodule(path).register_forward_hook(_add(a, b, self.scale))
                hooks.callback(handle.remove)
            yield

    def merged(self, path: str) -> Tensor:
        """The change to the weight at `path` as one matrix, (out, in)."""
        a, b = self.factors[path]
        return self.scale * (b @ a)


def _add(a: Tensor, b: Tensor, scale: float) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out + nn.functional.linear(nn.functional.linear(args[0], a), b) * scale

    return hook


def read_adapter(folder: str | Path, model: nn.Module) -> Adapter:
    """The adapter in `folder`, on the model's device and in its dtype.

    Raises `ModelError` for a folder without one, for kinds other than plain LoRA, and for shapes that do not fit.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: no readable adapter ({error}); wanted adapter_config.json and adapter_model.safetensors as "
            "`lte align` or PEFT writes them"
        ) from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise ModelError(f"{folder}: only plain LoRA adapters can be switched; merge this one into its model instead")
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    like = next(model.parameters())
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = tensors[key.replace(".lora_A.", ".lora_B.")]
        try:
            shape = features(model.get_submodule(path))
        except AttributeError as error:
            raise ModelError(f"{folder}: made for another architecture: this model has no {path}") from error
        if shape != (a.shape[1], b.shape[0]):
            raise ModelError(f"{folder}: {path} maps {a.shape[1]}->{b.shape[0]} in the adapter, {shape} in the model")
        factors[path] = (a.to(like), b.to(like))
    if not factors:
        raise ModelError(f"{folder}: adapter_model.safetensors holds no LoRA factors")
    manifest_file = folder / MANIFEST
    manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.exists() else {}
    torch._assert(all(a.shape[0] == b.shape[1] for a, b in factors.values()), "ranks of A and B differ")
    return Adapter(factors, scale, manifest)
