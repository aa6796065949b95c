"""What flows through one layer: seen once, and replayed so that a change at the layer costs only what lies above."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lte.models import LM, Trace


@dataclass(frozen=True)
class Seen:
    """A batch of rows as a layer's MLP output projection saw it.

    ids, mask (rows, longest)    inputs (rows, longest, d_k): keys    outputs (rows, longest, d): values
    below (rows, longest, d): what the block under the layer gave, `None` at layer 0
    """

    ids: Tensor
    mask: Tensor
    inputs: Tensor
    outputs: Tensor
    below: Tensor | None

    def only(self, rows: Sequence[int]) -> Seen:
        """The same for some of the rows."""
        if len(rows) == len(self.ids):
            return self
        at = torch.tensor(list(rows))
        parts = (self.ids, self.mask, self.inputs, self.outputs, self.below)
        return Seen(*(None if x is None else x[at.to(x.device)] for x in parts))  # type: ignore[arg-type]


@torch.no_grad()
def look(lm: LM, layer: int, rows: Sequence[Sequence[int]]) -> Seen:
    """Run the rows up to the layer and keep what it saw."""
    ids, mask = lm.pad(rows)
    module = lm.mlp_out_module(layer)
    with ExitStack() as traces:
        at = traces.enter_context(Trace(module))
        below = traces.enter_context(Trace(lm.blocks[layer - 1])) if layer else None
        traces.enter_context(up_to(module))
        lm.model.base_model(ids, attention_mask=mask, use_cache=False)
    return Seen(ids, mask, at.input, at.output, below.output if below else None)


def logits_from(
    lm: LM, layer: int, seen: Seen, places: Sequence[Sequence[int]], change: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Logits at the places of each row, (tokens, vocabulary), when the layer's MLP gives `change(input, output)`.

    The blocks below the layer are not run again: they give what they gave.
    """
    row = torch.tensor([i for i, p in enumerate(places) for _ in p])
    at = torch.tensor([t for p in places for t in p])
    trace = Trace(lm.mlp_out_module(layer), change=lambda out: change(trace.input, out))
    picked = lm.logits_at(lambda hidden: hidden[row.to(hidden.device), at.to(hidden.device)][None])
    with _giving(lm.blocks[:layer], seen.below), trace, picked:
        logits: Tensor = lm.model(seen.ids, attention_mask=seen.mask, use_cache=False).logits[0]
    return logits


@contextmanager
def up_to(module: nn.Module) -> Iterator[None]:
    """Within: a forward ends behind `module`, and so does the block."""

    def end(*_: Any) -> None:
        raise _Reached

    hook = module.register_forward_hook(end)
    try:
        yield
    except _Reached:
        pass
    finally:
        hook.remove()


class _Reached(Exception):
    """Ends a forward at the last module that is wanted."""


@contextmanager
def _giving(blocks: Sequence[nn.Module], output: Tensor | None) -> Iterator[None]:
    """Within: each block gives `output` and computes nothing; only what the last of them gives is read."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return output

    before = [vars(block).get("forward") for block in blocks]  # a library that spreads a model over devices puts one there
    try:
        for block in blocks:
            block.forward = forward
        yield
    finally:
        for block, own in zip(blocks, before):
            if own is None:
                vars(block).pop("forward", None)
            else:
                block.forward = own
