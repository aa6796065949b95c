"""What the editors that train share: which tokens count, when it is enough, a change kept apart from its weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from lte.config import Config
from lte.editors.activations import Below, Seen, logits_from, look
from lte.editors.base import EditorError, Handle, check_finite, checked
from lte.editors.contexts import Row, answer_loss, answer_rows
from lte.editors.located import distinct, rewrites, touched
from lte.edits import Edit
from lte.models import LM, Trace

Part = Sequence[int]  # rows of one forward
Step = Sequence[Part]  # rows of one step of the optimiser, in one forward or several
Losses = Callable[[Part], tuple[Tensor, Tensor]]  # (−log p of the answer, whether every token is argmax) of each row


class TrainConfig(Config):
    """Settings of every editor that trains."""

    lr: float = Field(5e-4, gt=0)  # of Adam
    stop_loss: float = Field(0.01, ge=0)  # an edit is done below it, once every answer token is argmax
    end_of_turn: bool = True  # the mark that ends a chat answer is trained too, so that the model stops behind it
    batch_size: int = Field(32, gt=0)  # edits in one forward


class Trained:
    """An editor that trains some layers' MLP output projections; which, and how long, is what its subclasses say."""

    name: str
    config: TrainConfig

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The blocks whose MLP is trained, the lowest first."""
        raise NotImplementedError

    def epochs(self, count: int) -> Iterator[Sequence[Step]]:
        """The steps of each epoch over so many rows."""
        raise NotImplementedError

    def rows(self, lm: LM, edits: Sequence[Edit]) -> list[Row]:
        """What is trained: every answer token at the place before its own (FT-M, arXiv:2401.01286)."""
        return answer_rows(lm, edits, subject=False, end=self.config.end_of_turn)

    def box(self) -> float | None:
        """How far an entry of a weight may move."""
        return None

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Train on all the edits together, then write the change once; of two with one prompt the later one counts."""
        c, edits = self.config, distinct(self.name, checked(self.name, edits))
        layers, rows = self.layers(lm), self.rows(lm, edits)
        deltas = {layer: zeros(lm.mlp_out(layer)) for layer in layers}
        losses = losses_of(lm, layers[0], rows, c.batch_size, deltas)
        with sound(lm):
            descend(self.name, list(deltas.values()), self.epochs(len(rows)), losses, c.lr, c.stop_loss, self.box())
        with ExitStack() as undo:
            Ws = rewrites(lm, layers, undo)
            for layer, W in Ws.items():
                W.add_(deltas[layer].detach())
            return Handle(lm, self, edits, undo, touched(lm, Ws), plain=True)


@contextmanager
def sound(lm: LM) -> Iterator[None]:
    """Within: a training that fails because a parameter of the model is not finite says so, and does not blame lr."""
    try:
        yield
    except EditorError:
        check_finite(lm)
        raise


def zeros(weight: Tensor) -> Tensor:
    """Δ of a weight before training, (out, in) in float32.

    The model computes (W + Δ)x with W untouched, so a bfloat16 weight rounds once, at the end.
    """
    return torch.zeros(weight.shape, dtype=torch.float32, device=weight.device, requires_grad=True)


def parts_of(rows: Sequence[int], size: int) -> list[Part]:
    """The rows in groups of at most `size`."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def together(count: int, size: int, steps: int) -> Iterator[list[Step]]:
    """So many epochs of one step over all rows: its gradient is the whole batch's, whatever fits into a forward."""
    for _ in range(steps):
        yield [parts_of(range(count), size)]


def descend(
    editor: str,
    weights: Sequence[Tensor],
    epochs: Iterable[Sequence[Step]],
    losses: Losses,
    lr: float,
    stop_loss: float,
    box: float | None = None,
) -> None:
    """Adam on the mean loss of each step's rows, in place; it ends with the first epoch whose every row is done.

    A step whose rows are all done is left out. An `EditorError` where a loss is not finite.

    box  no entry of a weight ends a step further than this from 0
    """
    optimiser = torch.optim.Adam(weights, lr=lr)
    taken = 0
    for steps in epochs:
        before = taken
        for step in steps:
            count, done = sum(map(len, step)), True
            gradients = [torch.zeros_like(weight) for weight in weights]
            for part in step:  # a part's graph is freed before the next is built
                loss, hit = losses(part)
                if not torch.isfinite(loss).all():
                    raise EditorError(f"{editor}: the loss is not finite at step {taken}; lower lr (now {lr})")
                done &= bool((hit & (loss < stop_loss)).all())
                for total, gradient in zip(gradients, torch.autograd.grad(loss.sum() / count, weights)):
                    total += gradient
            if done:
                continue
            taken += 1
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient
            optimiser.step()
            if box is not None:
                with torch.no_grad():
                    for weight in weights:
                        weight.clamp_(-box, box)
        if taken == before:
            return


def losses_of(
    lm: LM, lowest: int, rows: Sequence[Row], batch_size: int, deltas: Mapping[int, Tensor] | None = None
) -> Losses:
    """The loss of any of the rows under the change so far; what lies below the block `lowest` is run once, here.

    deltas  (out, in) by layer, added to the layers' MLP projections
    """
    kept: list[Seen] = []
    for part in parts_of(range(len(rows)), batch_size):
        chosen = [rows[i] for i in part]
        kept += apart(look(lm, lowest, [row.ids for row in chosen], [row.places for row in chosen]))

    def losses(part: Part) -> tuple[Tensor, Tensor]:
        with ExitStack() as traces:
            for layer, delta in (deltas or {}).items():
                traces.enter_context(_adding(lm.mlp_out_module(layer), delta))
            logits = logits_from(lm, lowest, joined([kept[i] for i in part]), lambda key, out: out)
        return answer_loss([rows[i] for i in part], logits)

    return losses


def apart(seen: Seen) -> list[Seen]:
    """Each row for itself, without its padding; keys and values, which training does not read, are let go."""
    rows = []
    for i, mask in enumerate(seen.forward["attention_mask"]):
        length = int(mask.sum())
        forward = {name: _row(x, i, length) for name, x in seen.forward.items()}
        below = _each(seen.below, partial(_row, i=i, length=length))
        nothing = _row(seen.inputs, i, 0)
        rows.append(Seen(nothing, nothing, [seen.places[i]], forward, None, below))
    return rows


def joined(rows: Sequence[Seen]) -> Seen:
    """Rows that were seen apart as one batch, padded on the right."""
    width = max(row.forward["input_ids"].shape[1] for row in rows)

    def padded(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, width - x.shape[1]))

    forward = {name: torch.cat([padded(row.forward[name]) for row in rows]) for name in rows[0].forward}
    hidden = [row.below[0] if isinstance(row.below, tuple) else row.below for row in rows if len(row.below)]
    below = _each(rows[0].below, lambda _: torch.cat([padded(x) for x in hidden]))
    nothing = torch.cat([row.inputs for row in rows])
    return Seen(nothing, nothing, [row.places[0] for row in rows], forward, None, below)


def _each(below: Below, change: Callable[[Tensor], Tensor]) -> Below:
    """The same with other hidden states."""
    if isinstance(below, tuple):
        return (change(below[0]), *below[1:]) if below else ()
    return change(below)


def _row(x: Tensor, i: int, length: int) -> Tensor:
    return x[i : i + 1, :length].clone()


def _adding(module: nn.Module, delta: Tensor) -> Trace:
    trace = Trace(module, change=lambda out: out + (trace.input.float() @ delta.T).to(out.dtype))
    return trace
