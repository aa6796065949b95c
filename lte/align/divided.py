"""A model that ZeRO-3 has divided among the ranks: told, hashed, and asked as if each rank had all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from lte.models import LM


def divided(model: nn.Module) -> bool:
    """Whether each rank has but a part of every parameter."""
    return any(hasattr(p, "ds_id") for p in model.parameters())


def weight_hash(lm: LM) -> str:
    """`LM.weight_hash`, of a divided model as well; there, every rank has to ask for it.

    DeepSpeed divides a model in the dtype that it trains in, so it is the hash of the model loaded in that dtype.
    """
    return lm.weight_hash(_Whole(lm.model)) if divided(lm.model) else lm.weight_hash()


@contextmanager
def whole(model: nn.Module, engine: Any = None) -> Iterator[None]:
    """Within: a divided model can be run outside of training, all ranks with the same inputs; another is as it was.

    Each module has its weights while it runs and no longer, so the GPU never holds more than one of them whole. All
    ranks take the first one's logits: figures that differ in the last bit would have one rank stop where the others go
    on, and they would wait for it for ever.

    engine  DeepSpeed's, once there is one: its own hooks expect the modules in the order of training
    """
    if not divided(model):
        yield
        return
    from trl.models.utils import add_hooks, remove_hooks

    with ExitStack() as undo:
        if engine is not None:
            remove_hooks(engine)
            undo.callback(add_hooks, engine)
        for module in model.modules():
            if own := list(module.parameters(recurse=False)):
                lend = _Lend(own)
                undo.callback(module.register_forward_pre_hook(lend.gather).remove)
                undo.callback(module.register_forward_hook(lend.release, always_call=True).remove)
        undo.callback(model.register_forward_hook(_agree).remove)
        yield


class _Lend:
    """Gives a module its own parameters for one call."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters, self._open = parameters, ExitStack()

    def gather(self, module: nn.Module, args: Any) -> None:
        import torch
        from deepspeed import zero

        with torch.inference_mode(False):  # what is gathered is trained on afterwards
            self._open.enter_context(zero.GatheredParameters(self._parameters))

    def release(self, module: nn.Module, args: Any, out: Any) -> None:
        import torch

        with torch.inference_mode(False):
            self._open.close()


def _agree(module: nn.Module, args: Any, out: Any) -> Any:
    """The first rank's logits for all."""
    from torch import distributed

    out.logits = out.logits.contiguous()
    distributed.broadcast(out.logits, 0)
    return out


class _Whole(Mapping[str, Tensor]):
    """The parameters of a divided model by name, each put together when it is looked at, by all ranks in one order."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())

    def __getitem__(self, name: str) -> Tensor:
        from deepspeed import zero

        with zero.GatheredParameters([self._parameters[name]]):
            return self._parameters[name].detach().cpu().clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)
