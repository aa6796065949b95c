"""LoRA adapters in PEFT's file format, switched on and off by hooks: off, the model is the one that was loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lte.models.layout import ModelError, features

if TYPE_CHECKING:
    from lte.models.lm import LM

logger = logging.getLogger(__name__)
MANIFEST = "lte.json"  # beside the adapter: template id, base model hash, seed, versions
BEYOND = (  # settings of PEFT that make an adapter more than B(Ax) with one scale
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
)


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


def fits(lm: LM, name: str, template: str) -> bool:
    """Whether the model's adapter `name` was trained on the prompt template of the id `template`.

    Trained on other weights than those the model was loaded with, it fits, and its answers may be poor: a warning.
    """
    manifest = lm.adapters[name].manifest
    if manifest.get("template") != template:
        return False
    base = manifest.get("base_sha256")
    # weights that an editor has changed cannot be told from others
    if base and not any(handle.touched for handle in lm.handles) and not lm.has_weights(base):
        logger.warning(
            "adapter %r was trained on other weights than those of %s; its answers may be worse than measured",
            name,
            lm.name,
        )
    return True


def read_adapter(folder: str | Path, model: nn.Module) -> Adapter:
    """The adapter in `folder`, each factor on the device and in the dtype of its weight.

    Raises `ModelError` for a folder without one, for kinds other than plain LoRA, and for shapes that do not fit.
    """
    folder, manifest_file = Path(folder), Path(folder, MANIFEST)
    try:
        config = dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
        tensors = load_file(folder / "adapter_model.safetensors")
        manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.exists() else {}
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: no readable adapter ({error}); wanted adapter_config.json and adapter_model.safetensors as "
            "`lte align` or PEFT writes them"
        ) from error
    pairs = {k.rpartition(".lora_")[0] for k in tensors}
    whole = {f"{p}.lora_{x}.weight" for p in pairs for x in "AB"}
    if config.get("peft_type") != "LORA" or any(map(config.get, BEYOND)) or whole != set(tensors) or not pairs:
        raise ModelError(f"{folder}: only plain LoRA adapters can be switched; merge this one into its model instead")
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for pair in sorted(pairs):
        a, b = tensors[f"{pair}.lora_A.weight"], tensors[f"{pair}.lora_B.weight"]
        path = pair.removeprefix("base_model.model.")
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise ModelError(
                f"{folder}: made for another architecture: this model has no {path}; load the adapter's own base model"
            ) from error
        if features(module) != (a.shape[1], b.shape[0]) or a.shape[0] != b.shape[1]:
            raise ModelError(
                f"{folder}: {path} is {tuple(b.shape)} x {tuple(a.shape)} in the adapter, (in, out) is "
                f"{features(module)} in the model; load the adapter's own base model"
            )
        weight = module.get_parameter("weight")
        factors[path] = (a.to(weight), b.to(weight))
    rank = next(iter(factors.values()))[0].shape[0]
    scale = config.get("lora_alpha", 8) / (rank**0.5 if config.get("use_rslora") else rank)
    return Adapter(factors, scale, manifest)
