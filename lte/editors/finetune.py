"""FT-M: fine-tune one MLP output projection on the answer tokens (Zhang et al., arXiv:2401.01286)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lte.config import Config
from lte.editors.activations import Seen, logits_from, look
from lte.editors.base import EditorError, Handle, Rewrite, checked
from lte.editors.contexts import Row, answer_loss, answer_rows
from lte.edits import Edit
from lte.models import LM


class FineTuneConfig(Config):
    """Settings of FT-M."""

    editor: Literal["ft_m"] = "ft_m"
    layer: int | None = Field(None, ge=0)  # block whose MLP is trained; None: two thirds of the way up
    steps: int = Field(25, gt=0)  # forwards over all edits at most
    lr: float = Field(5e-4, gt=0)  # of Adam
    norm: float | None = Field(None, gt=0)  # no entry of the weight moves further than this (FT-L's constraint)
    stop_loss: float = Field(0.01, ge=0)  # done when every edit is below it and every answer token is argmax
    end_of_turn: bool = True  # the mark that ends a chat answer is trained too, so that the model stops behind it
    batch_size: int = Field(32, gt=0)  # edits in one forward; all edits count in each step


class FineTune:
    """Trains one matrix until every edit's own prompt is answered by it; nothing protects the other answers."""

    name = "ft_m"

    def __init__(self, config: FineTuneConfig | None = None) -> None:
        self.config = config or FineTuneConfig()

    def layer(self, lm: LM) -> int:
        """The block whose MLP is trained."""
        return 2 * len(lm.blocks) // 3 if self.config.layer is None else self.config.layer

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Train on all the edits together, then write the change once."""
        edits = checked(self.name, edits)
        layer = self.layer(lm)
        rows = answer_rows(lm, edits, subject=False, end=self.config.end_of_turn)
        size = self.config.batch_size
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        delta = self.train(lm, layer, [(part, look(lm, layer, *_read(part))) for part in parts])
        with ExitStack() as undo:
            W = Rewrite(lm.mlp_out(layer))
            undo.callback(W.restore_)
            W.add_(delta)
            return Handle(lm, self, edits, undo, {f"{lm.layout.mlp_out.format(layer)}.weight": W}, plain=True)

    def train(self, lm: LM, layer: int, parts: Sequence[tuple[list[Row], Seen]]) -> Tensor:
        """Δ of the layer's weight, (out, in) in float32.

        The model computes (W + Δ)x with W untouched, so a bfloat16 weight rounds once, at the end.
        """
        c = self.config
        weight = lm.mlp_out(layer)
        delta = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device, requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=c.lr)
        count = sum(len(rows) for rows, _ in parts)

        def add_delta(key: Tensor, out: Tensor) -> Tensor:
            return out + (key.float() @ delta.T).to(out.dtype)

        for step in range(c.steps):
            done = True
            gradient = torch.zeros_like(delta)
            for rows, seen in parts:  # a part's graph is freed before the next is built
                loss, hit = answer_loss(rows, logits_from(lm, layer, seen, add_delta))
                if not torch.isfinite(loss).all():
                    raise EditorError(f"ft_m: the loss is not finite at step {step}; lower lr (now {c.lr})")
                done &= bool((hit & (loss < c.stop_loss)).all())
                gradient += torch.autograd.grad(loss.sum() / count, [delta])[0]
            if done:
                break
            delta.grad = gradient
            optimiser.step()
            if c.norm is not None:
                with torch.no_grad():
                    delta.clamp_(-c.norm, c.norm)
        return delta.detach()


def _read(rows: Sequence[Row]) -> tuple[list[list[int]], list[list[int]]]:
    return [row.ids for row in rows], [row.places for row in rows]
