"""The algebra, as properties of random float64 problems."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lte.editors.base import EditorError, Rewrite
from lte.editors.solve import RIDGE, Factor, rank_one_update, report

seeds = st.integers(0, 2**31)
some = settings(max_examples=20, deadline=None)


def problem(seed: int, tokens: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, C, k, v) with 6 outputs and 9 inputs."""
    g = torch.Generator().manual_seed(seed)
    W, k, v = (torch.randn(*n, generator=g, dtype=torch.float64) for n in ((6, 9), (9,), (6,)))
    K = torch.randn(9, tokens, generator=g, dtype=torch.float64)
    return W, K @ K.T / tokens, k, v


def ridged(C: Tensor) -> Tensor:
    return C + RIDGE * C.trace() / len(C) * torch.eye(len(C), dtype=C.dtype)


def energy(delta: Tensor, C: Tensor) -> float:
    """tr(ΔCΔᵀ): how much Δ moves the outputs of ordinary keys."""
    return float((delta @ C @ delta.T).trace())


@some
@given(seeds)
def test_rome_stores_the_pair(seed: int) -> None:
    W, C, k, v = problem(seed)
    assert_close((W + rank_one_update(W, C, k, v)) @ k, v)


@some
@given(seeds)
def test_no_cheaper_change_stores_the_pair(seed: int) -> None:
    W, C, k, v = problem(seed)
    C = ridged(C)
    delta = rank_one_update(W, Factor.of(C, ridge=0), k, v)
    other = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other -= torch.outer(other @ k, k) / (k @ k)  # any change that leaves the output of k alone
    assert energy(delta, C) <= energy(delta + other, C) * (1 + 1e-9)


@some
@given(seeds)
def test_with_white_keys_the_change_has_least_norm(seed: int) -> None:
    W, _, k, v = problem(seed)
    assert_close(rank_one_update(W, torch.eye(9), k, v), torch.outer(v - W @ k, k) / (k @ k))


@some
@given(seeds, st.floats(1e-3, 1e3))
def test_the_scale_of_the_statistics_changes_nothing(seed: int, scale: float) -> None:
    W, C, k, v = problem(seed)
    assert_close(rank_one_update(W, C, k, v), rank_one_update(W, scale * C, k, v))


@some
@given(seeds)
def test_the_change_is_of_rank_one_and_reported(seed: int) -> None:
    W, C, k, v = problem(seed)
    factor = Factor.of(C)
    delta = rank_one_update(W, factor, k, v)
    told = report(W, factor, delta, k, v)
    assert torch.linalg.matrix_rank(delta) == 1
    assert told.residual < 1e-10 and told.condition <= float(torch.linalg.cond(ridged(C))) * (1 + 1e-9)


@some
@given(seeds)
def test_b1_one_key_keeps_the_denominator_positive_where_two_keys_explode(seed: int) -> None:
    W, C, k, v = problem(seed)
    bare = k - (Factor.of(C).solve(k) @ k) / (Factor.of(C).solve(k) @ Factor.of(C).solve(k)) * Factor.of(C).solve(k)
    bare = bare + 1e-6 * k  # a bare key nearly orthogonal to C⁻¹k*, as of a subject that opens the prompt
    one, two = rank_one_update(W, C, k, v), rank_one_update(W, C, k, v, at=bare)
    assert_close((W + two) @ bare, v)  # the paper's mismatch stores the pair as well, but at what price
    assert two.norm() > 1e3 * one.norm()


def test_statistics_of_few_tokens_are_solvable() -> None:
    W, C, k, v = problem(0, tokens=2)
    assert_close((W + rank_one_update(W, C, k, v)) @ k, v)
    slightly_off = C - 1e-5 * C.trace() / 9 * torch.eye(9, dtype=torch.float64)  # as float32 sums leave it
    assert_close((W + rank_one_update(W, slightly_off, k, v)) @ k, v)


@pytest.mark.parametrize("C", [torch.zeros(9, 9), torch.full((9, 9), torch.nan), torch.eye(9) - 2 * torch.ones(9, 9)])
def test_statistics_that_are_none_are_refused(C: Tensor) -> None:
    with pytest.raises(EditorError, match="second moment"):
        Factor.of(C)


def test_a_key_of_zero_is_refused() -> None:
    W, C, k, v = problem(0)
    with pytest.raises(EditorError, match="key"):
        rank_one_update(W, C, torch.zeros_like(k), v)


def test_b17_many_small_changes_to_a_bfloat16_weight_are_one_large_one() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, generator=g).bfloat16()
    deltas = 1e-4 * torch.randn(1000, 8, 8, generator=g).double() + 1e-4
    many = Rewrite(weight.clone())
    for delta in deltas:
        many.add_(delta)
    once = (weight.double() + deltas.sum(0)).bfloat16()
    ulp = torch.finfo(torch.bfloat16).eps * once.abs().float()
    assert ((many.weight.float() - once.float()).abs() <= ulp).all()
    naive = weight.clone()
    for delta in deltas:
        naive += delta.bfloat16()
    assert ((naive.float() - once.float()).abs() > ulp).any()  # what adding one by one would have lost
    many.restore_()
    assert torch.equal(many.weight, weight)


def test_a_change_that_is_not_finite_is_refused() -> None:
    weight = torch.ones(2, 2)
    with pytest.raises(EditorError, match="not finite"):
        Rewrite(weight).add_(torch.tensor([[0.0, torch.inf], [0.0, 0.0]]))
    assert torch.equal(weight, torch.ones(2, 2))
