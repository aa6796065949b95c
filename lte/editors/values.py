"""The value that makes a model say an edit's answer: gradient descent on one vector per edit, many edits a forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lte.config import Config
from lte.editors.activations import Seen, logits_from, look
from lte.editors.base import EditorError, check_finite
from lte.editors.contexts import Row, answer_loss
from lte.models import LM


class ValueConfig(Config):
    """How the value is sought; the numbers are those of the ROME authors."""

    v_steps: int = Field(20, gt=0)  # forwards at most; the last takes no step
    v_lr: float | None = Field(None, gt=0)  # of Adam; None: half the mean size of v₀'s entries
    v_decay: float = Field(1e-3, ge=0)  # weight of ‖δ‖/‖v₀‖²
    kl_weight: float = Field(0.0625, ge=0)  # keeps "{subject} is a" where it was
    clamp: float = Field(4.0, gt=0)  # ‖δ‖ is at most this times ‖v₀‖
    norm_of: Literal["mlp", "block"] = "mlp"  # v₀ above: what the MLP gives at the subject, or its block (MEMIT)
    stop: Literal["both", "loss", "argmax"] = "both"  # done once every answer token is argmax (MPES), by loss, or both
    stop_loss: float = Field(0.05, ge=0)  # the loss below which an edit is done
    norm_anchor: float | None = Field(None, gt=0)  # ‖v₀ + δ‖ becomes this many ordinary norms (`anchored`); None: free


def look_at_subjects(lm: LM, layer: int, rows: Sequence[Row]) -> Seen:
    """The rows from their subject's last token on, as the layer saw them; the subject stands at place 0."""
    return look(lm, layer, [r.ids for r in rows], [r.places for r in rows], [r.subject for r in rows])


def value_changes(
    lm: LM, layer: int, rows: Sequence[Row], seen: Seen, config: ValueConfig, first: Tensor | None = None
) -> Tensor:
    """δ of each edit, (edits, d) in float32: added to the MLP's output at the subject, it yields the answer.

    Meng et al., arXiv:2202.05262, Eq. 4:  mean over contexts of −log p(answer) + KL("{subject} is a") + decay

    rows   of all edits: `answer_rows`, an edit's bare prompt first, and `drift_rows`
    seen   what `look_at_subjects` gave for them; only the tokens and the blocks behind δ run again
    first  v₀ of each edit, (edits, d), whose norm rate, clamp and decay go by; `None`: what the MLP gives

    An edit that is done leaves the batch, so the others' forwards get cheaper. Only δ has a gradient.
    """
    bare = bare_rows(rows)
    count = len(bare)
    first = (seen.outputs[bare, 0] if first is None else first.to(seen.outputs.device)).float()
    size = torch.linalg.vector_norm(first, dim=1)
    # Adam's steps have the size of its rate: δ is sought in units of it, which may differ between edits
    unit = size / (2 * first.shape[1] ** 0.5) if config.v_lr is None else torch.full_like(size, config.v_lr)
    x = torch.zeros_like(first, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=1.0)
    found = torch.zeros_like(first)
    taken_for: dict[int, Tensor] = {}  # by row: log p of "{subject} is a" before any change, seen at step 0
    alive, here = list(range(count)), list(range(len(rows)))
    for step in range(config.v_steps):
        delta = unit[:, None] * x
        logits = _logits(lm, layer, [rows[i].edit for i in here], seen, delta)
        loss, hit = _loss(rows, here, logits, taken_for, alive, config)
        decay = torch.linalg.vector_norm(delta[alive], dim=1) / size[alive] ** 2
        loss = loss + config.v_decay * decay.to(loss.device)
        if not torch.isfinite(loss).all():
            check_finite(lm)
            raise EditorError(
                f"the search for a value diverged at step {step}; lower v_lr (now {unit.max().item():.3g})"
            )
        found[alive] = delta.detach()[alive]
        low = loss < config.stop_loss
        going = ~{"both": low & hit, "loss": low, "argmax": hit}[config.stop]
        if step == config.v_steps - 1 or not going.any():
            break
        [x.grad] = torch.autograd.grad(loss[going].sum(), [x])
        optimiser.step()
        with torch.no_grad():
            norm = torch.linalg.vector_norm(unit[:, None] * x, dim=1).clamp(min=1e-12)
            x *= (config.clamp * size / norm).clamp(max=1)[:, None]
        if not going.all():
            alive = [e for e, more in zip(alive, going.tolist()) if more]
            still = set(alive)
            left = [j for j, i in enumerate(here) if rows[i].edit in still]
            seen, here = seen.only(left), [here[j] for j in left]
    return found


def bare_rows(rows: Sequence[Row]) -> list[int]:
    """Places of the edits' bare prompts among their rows, in the order of the edits."""
    first: dict[int, int] = {}
    for i, row in enumerate(rows):
        if row.asks:
            first.setdefault(row.edit, i)
    return [first[e] for e in sorted(first)]


def anchored(first: Tensor, delta: Tensor, norm: float) -> Tensor:
    """δ, (edits, d), for which v₀ + δ keeps its direction and has the given norm; `first` is v₀.

    Liu et al., arXiv:2602.02543: values that grow with the weights they are read from make the weights grow, so the
    norm is to be one of the unedited model; theirs is the mean of values sought on it for other facts.
    """
    v = first + delta
    return v * (norm / torch.linalg.vector_norm(v, dim=1, keepdim=True)) - first


def _logits(lm: LM, layer: int, owners: Sequence[int], seen: Seen, delta: Tensor) -> Tensor:
    """Logits at the rows' places with δ of each row's edit added at its subject."""

    def add(key: Tensor, out: Tensor) -> Tensor:
        return torch.cat([out[:, :1] + delta[list(owners), None].to(out.dtype), out[:, 1:]], dim=1)

    return logits_from(lm, layer, seen, add)


def _loss(
    rows: Sequence[Row],
    here: Sequence[int],
    logits: Tensor,
    taken_for: dict[int, Tensor],
    edits: Sequence[int],
    config: ValueConfig,
) -> tuple[Tensor, Tensor]:
    """(loss without decay, whether every answer token is argmax in every context) of each of `edits`."""
    parts = dict(zip(here, logits.split([len(rows[i].places) for i in here])))
    asked = [i for i in here if rows[i].asks]
    nll, right = answer_loss([rows[i] for i in asked], torch.cat([parts[i] for i in asked]))
    losses, hits = [], []
    for e in edits:
        mine = [j for j, i in enumerate(asked) if rows[i].edit == e]
        loss = nll[mine].mean()
        for i in (i for i in here if rows[i].edit == e and not rows[i].asks):
            after = parts[i].float().log_softmax(-1)
            before = taken_for.setdefault(i, after.detach())
            loss = loss + config.kl_weight * (before.exp() * (before - after)).sum()
        losses.append(loss)
        hits.append(right[mine].all())
    return torch.stack(losses), torch.stack(hits)
