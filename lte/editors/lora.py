"""LoRA: train a low-rank adapter on the edits and merge it into the weights (Hu et al., arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lte.editors.base import EditorError, Handle, checked, rewrite_of
from lte.editors.batch import Layers
from lte.editors.contexts import answer_rows
from lte.editors.located import distinct
from lte.editors.training import TrainConfig, descend, losses_of, sound, together
from lte.edits import Edit
from lte.models import LM
from lte.models.layout import features, out_in

ATTENTION = (("q_proj", "v_proj"), ("c_attn",), ("query_key_value",))  # the last two are q, k and v in one


class LoRAConfig(TrainConfig):
    """Settings of LoRA; the numbers are EasyEdit's for Llama-3-8B, whose adapter is an AdaLoRA.

    target_modules  linear maps of a block by the end of their path. None: q_proj and v_proj; in a model without them
                    the map that holds both, c_attn (GPT-2) or query_key_value (GPT-NeoX).
    """

    editor: Literal["lora"] = "lora"
    target_modules: tuple[str, ...] | None = Field(None, min_length=1)
    layers: Layers | None = None  # blocks that get an adapter; None: all
    rank: int = Field(8, gt=0)
    alpha: float = Field(32, gt=0)  # the change is alpha / rank times B A
    dropout: float = Field(0.1, ge=0, lt=1)  # of what the adapter reads
    lr: float = Field(5e-3, gt=0)
    steps: int = Field(70, gt=0)  # each over all the edits, at most
    seed: int = 0  # of A before training, and of the dropout


class LoRA:
    """Trains a PEFT adapter until every edit's own prompt is answered by it, and merges it: ΔW = alpha / rank · B A.

    Whether an edit is done is seen under dropout, as the loss is. The adapter is float32 whatever the weights are.
    """

    name = "lora"

    def __init__(self, config: LoRAConfig | None = None) -> None:
        self.config = config or LoRAConfig()

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Train on all the edits together, then write the change once; of two with one prompt the later one counts."""
        edits = distinct(self.name, checked(self.name, edits))
        changes = self.train(lm, edits, targets(lm, self.config.target_modules, self.config.layers))
        with ExitStack() as undo:
            Ws = {}
            for path, delta in changes.items():
                name = f"{path}.weight"
                Ws[name] = W = rewrite_of(lm, name, out_in(lm.model.get_submodule(path)))
                undo.callback(W.restore_)
                W.add_(delta)
            return Handle(lm, self, edits, undo, Ws, plain=True)

    def train(self, lm: LM, edits: Sequence[Edit], paths: Mapping[str, int]) -> dict[str, Tensor]:
        """Δ of each weight, (out, in) in float64; the model is as it was."""
        c = self.config
        rows = answer_rows(lm, edits, subject=False, end=c.end_of_turn)
        losses = losses_of(lm, min(paths.values()), rows, c.batch_size)
        shape = {"r": c.rank, "lora_alpha": c.alpha, "lora_dropout": c.dropout}
        with sound(lm), seeded(lm, c.seed), adapters(lm, paths, **shape) as factors:
            weights = [weight for pair in factors.values() for weight in pair]
            descend(self.name, weights, together(len(rows), c.batch_size, c.steps), losses, c.lr, c.stop_loss)
            scale = c.alpha / c.rank
            return {path: scale * (b.detach().double() @ a.detach().double()) for path, (a, b) in factors.items()}


def targets(lm: LM, names: Sequence[str] | None, layers: Sequence[int] | None) -> dict[str, int]:
    """Paths of the blocks' linear maps that end in one of the names, each with its layer.

    Raises `EditorError` for a layer or a name that the model does not have.
    """
    for layer in layers or ():
        lm.mlp_out_module(layer)  # a layer that is not there is refused
    chosen = range(len(lm.blocks)) if layers is None else layers
    linear = {i: [n for n, m in lm.blocks[i].named_modules() if features(m) is not None] for i in chosen}

    def found(name: str) -> dict[str, int]:
        block = lm.layout.block
        return {f"{block.format(i)}.{n}": i for i in chosen for n in linear[i] if f".{n}".endswith(f".{name}")}

    if names is None:
        names = next((group for group in ATTENTION if all(map(found, group))), ATTENTION[0])
    missing = [name for name in names if not found(name)]
    if missing:
        raise EditorError(
            f"lora: no linear map of {lm.name} is called {' or '.join(missing)}; its blocks have "
            f"{', '.join(linear[chosen[0]])}: name those to train in target_modules"
        )
    return {path: i for name in names for path, i in found(name).items()}


@contextmanager
def adapters(lm: LM, paths: Mapping[str, int], **settings: Any) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Within: (A (r, in), B (out, r)) of each path, acting and ready to be trained. After: the model as it was."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    asked = {name: parameter.requires_grad for name, parameter in lm.model.named_parameters()}
    transposed = not isinstance(lm.model.get_submodule(next(iter(paths))), nn.Linear)
    config = LoraConfig(target_modules=list(paths), fan_in_fan_out=transposed, **settings)
    tuner = LoraModel(lm.model, config, "edit")
    try:
        layers = {path: lm.model.get_submodule(path) for path in paths}
        for layer in layers.values():
            layer.get_submodule("lora_dropout").train()  # the model's own dropout, if it has any, stays off
            layer.get_submodule("lora_A").float()  # PEFT takes them in the dtype of the weight
            layer.get_submodule("lora_B").float()
        yield {
            path: (layer.get_parameter("lora_A.edit.weight"), layer.get_parameter("lora_B.edit.weight"))
            for path, layer in layers.items()
        }
    finally:
        tuner.unload()
        for name, parameter in lm.model.named_parameters():
            parameter.requires_grad_(asked[name])


@contextmanager
def seeded(lm: LM, seed: int) -> Iterator[None]:
    """Within: the process's own generators draw by the seed, since PEFT asks them. After: they are where they were."""
    devices = range(torch.cuda.device_count()) if lm.device.type == "cuda" else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
