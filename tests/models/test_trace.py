"""A trace sees what a module takes in and gives out, may rewrite it, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lte.models import LM, Trace


class Pair(nn.Module):
    """Returns a tuple led by a tensor, as the blocks of older transformers releases do."""

    def forward(self, x: Tensor, scale: float = 2.0) -> tuple[Tensor, str]:
        return x * scale, "cache"


def test_b18_a_tensor_is_seen_and_changed() -> None:
    linear, x = nn.Linear(3, 3), torch.ones(1, 3)
    with Trace(linear) as seen:
        out = linear(x)
    assert seen.input is x and seen.output is out
    with Trace(linear, lambda t: t + 1) as seen:
        changed = linear(x)
    assert torch.equal(changed, out + 1) and seen.output is changed
    assert torch.equal(linear(x), out)


def test_b18_a_tuple_is_seen_and_changed() -> None:
    pair, x = Pair(), torch.ones(2)
    with Trace(pair) as seen:
        assert pair(x)[1] == "cache"
    assert torch.equal(seen.output, x * 2)
    with Trace(pair, lambda t: t + 1):
        changed, rest = pair(x)
    assert torch.equal(changed, x * 2 + 1) and rest == "cache"


def test_an_input_given_by_name_is_seen() -> None:
    with Trace(Pair()) as seen:
        seen.module(x=torch.ones(2), scale=3.0)
    assert torch.equal(seen.input, torch.ones(2))


def test_the_hook_is_gone_after_an_error() -> None:
    linear = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="inside"), Trace(linear, lambda t: t * 0):
        raise RuntimeError("inside")
    assert not linear._forward_hooks and not torch.equal(linear(torch.ones(3)), torch.zeros(3))


def test_every_block_and_projection_can_be_traced(any_lm: LM) -> None:
    ids = torch.tensor([[1, 9, 12]])
    for module in (*any_lm.blocks, any_lm.mlp_out_module(0)):
        with torch.no_grad(), Trace(module, lambda t: t + 1) as seen:
            changed = any_lm.model(ids).logits
        assert seen.output.shape == (1, 3, 32) and not module._forward_hooks
        assert not torch.equal(changed, any_lm.model(ids).logits)


def test_b18_gradients_flow_through_a_change(any_lm: LM) -> None:
    ids = torch.tensor([[1, 9, 12]])

    def loss(delta: Tensor) -> Tensor:
        with Trace(any_lm.mlp_out_module(1), lambda t: t + delta):
            return any_lm.model(ids).logits[0, -1].double().log_softmax(-1)[7]

    delta = torch.zeros(32, requires_grad=True)
    [gradient] = torch.autograd.grad(loss(delta), delta)
    step = 1e-2 * gradient / gradient.norm()  # norms and rotations compute in float32: no smaller step
    with torch.no_grad():
        slope = (loss(step) - loss(-step)) / 2e-2
    assert_close(slope, gradient.norm().double(), rtol=2e-2, atol=1e-4)
