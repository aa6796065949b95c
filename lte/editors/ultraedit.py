"""UltraEdit: one step of closed form from keys and gradients, both normalised (Gu et al., arXiv:2505.14679)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lte.config import Config
from lte.editors.base import EditorError, Handle, Rewrite, checked, remembered, rewrite_of
from lte.editors.batch import Layers
from lte.editors.contexts import Row, answer_loss, answer_rows
from lte.editors.located import distinct
from lte.editors.nullspace import Size
from lte.editors.solve import batch_update, capped
from lte.edits import Edit
from lte.models import LM, Trace
from lte.models.layout import features, out_in

EPS = torch.finfo(torch.float32).eps  # beside a standard deviation, as in the authors' code


class UltraEditConfig(Config):
    """Settings of UltraEdit.

    modules  linear maps by their path within a block, each with the layers in which it is changed, as in
             {mlp.gate_proj: [11, 12]}. None: those that open the MLP, from a third to three quarters of the way up
    """

    editor: Literal["ultraedit"] = "ultraedit"
    modules: dict[str, Layers] | None = Field(None, min_length=1)
    lr: float = Field(1e-6, gt=0)  # per square of a normalised key, of which there are as many as the matrix has inputs
    end_of_turn: bool = True  # the mark that ends a chat answer is learnt too, so that the model stops behind it
    frobenius_cap: float | None = Field(None, gt=0)  # ‖Δ‖ of an update is at most this times ‖W‖; None: no cap
    batch_size: int = Field(32, gt=0)  # edits in one forward


class UltraEdit:
    """Changes many matrices at once from one forward and one backward of each edit; it needs no subject and no text.

    What is normalised by goes on from the edits of this editor that are in force, whatever the batches were; an undo
    takes its edits out of it again. Each matrix has its own; in the authors' code those of one shape share one, which
    sees a key twice where two of them read the same. Of edits with one prompt the last counts, as if written in turn.
    """

    name = "ultraedit"

    def __init__(self, config: UltraEditConfig | None = None) -> None:
        self.config = config or UltraEditConfig()

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Compute every matrix's change on the model as it is, then write them all."""
        c = self.config
        edits = distinct(self.name, checked(self.name, edits))
        paths = self.paths(lm)
        pairs = keys_and_gradients(lm, paths, answer_rows(lm, edits, subject=False, end=c.end_of_turn), c.batch_size)
        kept: dict[Hashable, Tensor] = {}
        with ExitStack() as undo:
            Ws: dict[str, Rewrite] = {}
            for path, (key, gradient) in pairs.items():
                name = f"{path}.weight"
                Ws[name] = W = rewrite_of(lm, name, out_in(lm.model.get_submodule(path)))
                undo.callback(W.restore_)
                kept[(self, path)] = new = sums(torch.cat([key, gradient], dim=1))
                known = new if (old := remembered(lm, (self, path))) is None else old + new
                W.add_(capped(ultra_update(W.exact, key, gradient, known, c.lr), W.exact, c.frobenius_cap))
            return Handle(lm, self, edits, undo, Ws, plain=True, kept=kept)

    def paths(self, lm: LM) -> list[str]:
        """The linear maps that are changed."""
        if self.config.modules is None:
            inner, hidden = features(lm.mlp_out_module(0)) or (0, 0)
            depth = len(lm.blocks)
            chosen = range(depth // 3, max(3 * depth // 4, depth // 3 + 1))
            linear = [(i, n, features(m)) for i in chosen for n, m in lm.blocks[i].named_modules()]
            found = [f"{lm.layout.block.format(i)}.{n}" for i, n, shape in linear if shape == (hidden, inner)]
        else:
            found = [f"{lm.layout.block.format(i)}.{n}" for n, layers in self.config.modules.items() for i in layers]
        maps = {name for name, module in lm.model.named_modules() if features(module) is not None}
        if not found or not maps.issuperset(found):
            missing = next((path for path in found if path not in maps), "that opens the MLP")
            first = [n for n, m in lm.blocks[0].named_modules() if features(m) is not None]
            raise EditorError(
                f"ultraedit: {lm.name} has no linear map {missing}; it has layers 0 to {len(lm.blocks) - 1} with "
                f"{', '.join(first)}: name those to change in modules, e.g. {{{first[-1]}: [0]}}"
            )
        return found


def ultra_update(W: Tensor, H: Tensor, G: Tensor, known: Tensor, lr: float) -> Tensor:
    """The change to W (out, in) that a batch of tokens asks for, in float64.

    UltraEdit, Algorithm 1:  Δᵀ = (HᵀH + I)⁻¹ HᵀV  with  vᵢ = −lr ‖ĥᵢ‖² ĝᵢ

    H (n, in)   what the matrix reads at each token       known (3, in + out)  `sums` over all tokens so far
    G (n, out)  gradient of the loss by what it gives     ĥ, ĝ                 the two, normalised by them

    HᵀH holds the keys as they are, not normalised: so Δh comes close to v. It is ridge regression, and is solved in
    the smaller of n and in; a token whose key and gradient are ordinary asks for a step against its gradient.
    """
    h, g = normalised(torch.cat([H, G], dim=1), known).split([H.shape[1], G.shape[1]], dim=1)
    V = -lr * h.square().sum(1, keepdim=True) * g
    W, K = W.to(H), H.T
    return batch_update(W, Size(H), K, W @ K + V.T, 1.0)[0]


def sums(x: Tensor) -> Tensor:
    """How many rows, Σx and Σx² over the rows of x (n, m), as (3, m): those of several batches are added."""
    return torch.stack([torch.full_like(x[0], len(x)), x.sum(0), x.square().sum(0)])


def normalised(x: Tensor, known: Tensor) -> Tensor:
    """(x − mean) / (standard deviation + ε) in each column of x (n, m), by `sums` (3, m) that x is among.

    One row deviates from nothing, and the authors' code makes NaN of it: ours is then divided by its own size, which
    leaves the signs, so that a first edit of one token is a step of ordinary length as well.
    """
    n, first, second = known
    mean = torch.where(n > 1, first / n, 0)
    deviation = ((second - n * mean.square()).clamp(min=0) / (n - 1).clamp(min=1)).sqrt()
    return (x - mean) / (deviation + EPS)


def keys_and_gradients(
    lm: LM, paths: Sequence[str], rows: Sequence[Row], batch_size: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """(what it reads (n, in), the gradient by what it gives (n, out)) of each linear map, in float64.

    One row for each token that predicts one of an answer: the last of the prompt and all of the answer but its last.
    The loss is the mean of −log p over an edit's answer, so no edit's gradient depends on those beside it.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in paths}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        row = torch.tensor([i for i, r in enumerate(part) for _ in r.places])
        at = torch.tensor([t for r in part for t in r.places])
        ids, mask = lm.pad([r.ids[: r.places[-1] + 1] for r in part])
        probes: dict[str, Tensor] = {}
        with ExitStack() as traces:
            seen = {
                path: traces.enter_context(Trace(lm.model.get_submodule(path), partial(_probed, probes, path)))
                for path in paths
            }
            traces.enter_context(lm.logits_at(lambda x: x[row.to(x.device), at.to(x.device)][None]))  # noqa: B023
            logits = lm.model(ids, attention_mask=mask, use_cache=False).logits[0]
        loss = answer_loss(part, logits)[0].sum()
        if not torch.isfinite(loss):
            raise EditorError("ultraedit: the loss of an edit is not finite; load the model in another dtype")
        for path, gradient in zip(paths, torch.autograd.grad(loss, [probes[path] for path in paths])):
            where = row.to(gradient.device), at.to(gradient.device)
            found[path].append((seen[path].input.detach()[where].double(), gradient[where].double()))
    return {path: (torch.cat([k for k, _ in found[path]]), torch.cat([g for _, g in found[path]])) for path in paths}


def _probed(probes: dict[str, Tensor], path: str, out: Tensor) -> Tensor:
    """The output with zeros added, whose gradient is the output's, though what lies below may have none."""
    probes[path] = torch.zeros_like(out, requires_grad=True)
    return out + probes[path]
