"""Watch or change what flows through a block while the model runs."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor, nn


class Trace:
    """Within the `with` block: keep what `module` last took in and gave out, and let `change` rewrite what it gives.

    Works for modules that return a tensor and for those that return a tuple led by one (decoder blocks of older
    transformers releases).
    """

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor] | None = None) -> None:
        self.module, self.change = module, change
        self.input: Tensor
        self.output: Tensor

    def __enter__(self) -> Trace:
        self._hook = self.module.register_forward_hook(self._seen, with_kwargs=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._hook.remove()

    def _seen(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        self.input = args[0] if args else next(iter(kwargs.values()))
        tensor = out[0] if isinstance(out, tuple) else out
        if self.change is not None:
            tensor = self.change(tensor)
        self.output = tensor
        if self.change is None:
            return None
        return (tensor, *out[1:]) if isinstance(out, tuple) else tensor
