"""B17: however many edits a bfloat16 model gets, and in however many calls, its weights are rounded but once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from bad_input_kit import made, of_weights
from editors_kit import CLOZES, EDITS, same, state

from lte.editors.base import Handle
from lte.editors.located import rewrites, touched
from lte.models import LM


def nudged(lm: LM, delta: torch.Tensor) -> Handle:
    """An edit that adds `delta` to the MLP projection of the middle block."""
    with ExitStack() as undo:
        Ws = rewrites(lm, [1], undo)
        Ws[1].add_(delta)
        return Handle(lm, "nudge", EDITS[:1], undo, touched(lm, Ws), plain=True)


def ulps(weight: torch.Tensor, exact: torch.Tensor) -> float:
    """How far at most the weight is from one write of the exact sum, in units of its last bit."""
    once = exact.to(weight.dtype).double()
    last = torch.finfo(weight.dtype).eps * 2.0 ** once.abs().clamp(min=1e-30).log2().floor()
    return float(((weight.double() - once).abs() / last).max())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_b17_a_thousand_edits_in_turn_are_one_write_of_their_sum(architecture: str, tiny_lm: LM, any_other: LM) -> None:
    lm = tiny_lm if architecture == "llama" else any_other
    lm.model.to(torch.bfloat16)
    before, start = state(lm), lm.mlp_out(1).double()
    deltas = 1e-4 * torch.rand(1000, *start.shape, generator=torch.Generator().manual_seed(0)).double()
    whole = nudged(lm, deltas[0])
    for delta in deltas[1:]:
        whole.join(nudged(lm, delta))
    assert ulps(lm.mlp_out(1), start + deltas.sum(0)) == 0
    lost = start.bfloat16()
    for delta in deltas:
        lost += delta.bfloat16()
    assert ulps(lost, start + deltas.sum(0)) > 8  # what each write for itself would have lost
    [rewrite] = whole.rewrites.values()
    torch.testing.assert_close(rewrite.change, deltas.sum(0), rtol=1e-9, atol=1e-12)
    whole.undo()
    assert same(before, state(lm))


@of_weights
def test_b17_edits_in_turn_are_rounded_once_joined_or_not(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.to(torch.bfloat16)
    before, editor = state(tiny_lm), made(name, tiny_lm, tmp_path)
    handles = [editor.apply(tiny_lm, [edit]) for edit in (*EDITS, *CLOZES)]
    written = dict(tiny_lm.model.named_parameters())
    for parameter in {n for handle in handles for n in handle.touched}:
        rounded = [h.rewrites[parameter] for h in handles if parameter in h.rewrites]
        flat = rounded[0].weight.shape == written[parameter].shape
        total = sum(r.change if flat else r.change.T for r in rounded)
        assert ulps(written[parameter].data, before[parameter].double() + total) == 0
    for handle in handles[::-1]:
        handle.undo()
    assert same(before, state(tiny_lm))


def test_b17_what_was_written_by_other_hands_in_between_counts(tiny_lm: LM) -> None:
    start = tiny_lm.mlp_out(1).double()
    first = nudged(tiny_lm, torch.full_like(start, 0.25))
    with torch.no_grad():
        tiny_lm.mlp_out(1)[2] = 7.0
    second = nudged(tiny_lm, torch.full_like(start, 0.5))
    assert (tiny_lm.mlp_out(1)[2] == 7.5).all() and ulps(tiny_lm.mlp_out(1)[3], start[3] + 0.75) == 0
    second.undo()
    first.undo()
    assert ulps(tiny_lm.mlp_out(1), start) == 0
