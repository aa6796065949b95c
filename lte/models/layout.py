"""Where the parts of a decoder are, found by looking at the module tree and not at the model's name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class ModelError(ValueError):
    """A model or tokenizer that cannot be used as asked; the message names the remedy."""


@dataclass(frozen=True)
class Layout:
    """Module paths with `{}` for the layer: the decoder block, and the projection that ends its MLP."""

    block: str
    mlp_out: str


def features(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear map, `None` for any other module; GPT-2's `Conv1D` stores its weight transposed."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return None


def out_in(module: nn.Module) -> Tensor:
    """The weight as an (out, in) view, whether the module is `Linear` or GPT-2's transposed `Conv1D`."""
    weight = module.get_parameter("weight").data
    return weight if isinstance(module, nn.Linear) or features(module) is None else weight.t()


def check_layout(model: PreTrainedModel, layout: Layout) -> Layout:
    """The layout itself; a `ModelError` where a path typed by hand leads nowhere."""
    for path in (layout.block, layout.mlp_out):
        try:
            module = model.get_submodule(path.format(0))
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ModelError(
                f"layout: {type(model).__name__} has no module {path!r}; write {{}} for the layer, as in "
                "'model.layers.{}.mlp.down_proj', with a path out of model.named_modules()"
            ) from error
    if features(module) is None:
        raise ModelError(f"layout: mlp_out: {layout.mlp_out!r} is a {type(module).__name__}; name a linear projection")
    return layout


def resolve_layout(model: PreTrainedModel) -> Layout:
    """Find the block list and each block's MLP output projection by their shapes.

    Raises `ModelError` when not exactly one projection per block maps the MLP's inner width to the hidden width, as in
    mixture-of-experts models; the paths can then be named by hand.
    """
    config = model.config.get_text_config(decoder=True)
    hidden, depth = getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)
    widths = (getattr(config, n, None) for n in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"))
    inner = next((w for w in widths if w), 4 * hidden)
    stacks = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    found = [
        (stack, name)
        for stack in stacks
        for name, module in model.get_submodule(f"{stack}.0").named_modules()
        if features(module) == (inner, hidden)
    ]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__}: expected one {inner}->{hidden} projection per block, found {found}. "
            "Name the paths in the config, e.g. layout: {block: 'model.layers.{}', "
            "mlp_out: 'model.layers.{}.mlp.down_proj'}."
        )
    [(stack, mlp_out)] = found
    return Layout(block=f"{stack}.{{}}", mlp_out=f"{stack}.{{}}.{mlp_out}")
