"""The algebra, as properties of random float64 problems."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lte.editors import solve
from lte.editors.base import EditorError, Rewrite
from lte.editors.solve import (
    ALIKE,
    RIDGE,
    Factor,
    batch_update,
    capped,
    emmet_update,
    memit_update,
    rank_one_update,
    report,
)

seeds = st.integers(0, 2**31)
weights = st.floats(-4, 6).map(lambda x: 10.0**x)  # λ, from nearly none to more than any edit withstands
counts = st.integers(1, 15)  # edits: fewer and more than the nine inputs
some = settings(max_examples=20, deadline=None)


def problem(seed: int, tokens: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, C, k, v) with 6 outputs and 9 inputs."""
    g = torch.Generator().manual_seed(seed)
    W, k, v = (torch.randn(*n, generator=g, dtype=torch.float64) for n in ((6, 9), (9,), (6,)))
    K = torch.randn(9, tokens, generator=g, dtype=torch.float64)
    return W, K @ K.T / tokens, k, v


def batch(seed: int, edits: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, C, K, V) with 6 outputs, 9 inputs and a column for each edit."""
    g = torch.Generator().manual_seed(seed + 1)
    W, C, _, _ = problem(seed)
    return W, C, *(torch.randn(n, edits, generator=g, dtype=torch.float64) for n in (9, 6))  # type: ignore[return-value]


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


# --- many edits: MEMIT and EMMET --------------------------------------------------------------------------------------


@some
@given(seeds, counts, weights)
def test_memit_is_its_formula(seed: int, edits: int, weight: float) -> None:
    W, C, K, V = batch(seed, edits)
    expected = torch.linalg.solve(weight * ridged(C) + K @ K.T, K @ (V - W @ K).T).T
    assert_close(memit_update(W, C, K, V, weight), expected, rtol=1e-6, atol=1e-8)


@some
@given(seeds, st.integers(1, 8), st.sampled_from([0.0, 1e-3, 0.1, 10.0]))
def test_emmet_is_its_formula(seed: int, edits: int, alpha: float) -> None:
    W, C, K, V = batch(seed, edits)
    Y = torch.linalg.solve(ridged(C), K)
    D = K.T @ Y + alpha * torch.eye(edits, dtype=torch.float64)
    expected = (V - W @ K) @ torch.linalg.solve(D, Y.T)
    assert_close(emmet_update(W, C, K, V, alpha), expected, rtol=1e-6, atol=1e-8)


@some
@given(seeds)
def test_emmet_of_one_edit_is_rome(seed: int) -> None:
    W, C, k, v = problem(seed)
    assert_close(emmet_update(W, C, k[:, None], v[:, None]), rank_one_update(W, C, k, v))


@some
@given(seeds, counts, st.sampled_from([1.0, 0.3, 1000.0]), st.sampled_from([0.1, 2.0]))
def test_memit_with_weight_alpha_w_is_emmet_with_w_times_c(seed: int, edits: int, w: float, alpha: float) -> None:
    W, C, K, V = batch(seed, edits)
    assert_close(memit_update(W, C, K, V, alpha * w), emmet_update(W, w * C, K, V, alpha), rtol=1e-6, atol=1e-9)


@some
@given(seeds, st.integers(1, 8))
def test_emmet_stores_every_pair(seed: int, edits: int) -> None:
    W, C, K, V = batch(seed, edits)
    delta, told = batch_update(W, C, K, V, 0.0)
    assert_close((W + delta) @ K, V, rtol=1e-6, atol=1e-6)
    assert told.residual < 1e-8 and torch.linalg.matrix_rank(delta) <= min(edits, 6)


@some
@given(seeds, st.integers(1, 8))
def test_no_cheaper_change_stores_the_pairs(seed: int, edits: int) -> None:
    W, C, K, V = batch(seed, edits)
    C = ridged(C)
    delta = emmet_update(W, Factor.of(C, ridge=0), K, V)
    other = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other -= other @ K @ torch.linalg.pinv(K)  # any change that leaves the outputs of the keys alone
    assert energy(delta, C) <= energy(delta + other, C) * (1 + 1e-9)


@some
@given(seeds, counts, weights)
def test_no_change_is_a_better_compromise_than_memits(seed: int, edits: int, weight: float) -> None:
    W, C, K, V = batch(seed, edits)
    C = ridged(C)

    def cost(delta: Tensor) -> float:
        return weight * energy(delta, C) + float(((W + delta) @ K - V).square().sum())

    best = memit_update(W, Factor.of(C, ridge=0), K, V, weight)
    other = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert all(cost(best) <= cost(best + size * other) * (1 + 1e-9) for size in (1e-3, 0.1, -0.1, 1.0))


@some
@given(seeds, st.integers(1, 8))
def test_a_weight_that_vanishes_meets_the_values_and_one_that_grows_changes_nothing(seed: int, edits: int) -> None:
    W, C, K, V = batch(seed, edits)
    told = [batch_update(W, C, K, V, weight)[1] for weight in (1e3, 1.0, 1e-3, 1e-6)]
    assert all(a.residual >= b.residual for a, b in pairwise(told))
    assert told[-1].residual < 1e-3 * max(1.0, told[0].residual)
    assert_close(memit_update(W, C, K, V, 1e-7), emmet_update(W, C, K, V), rtol=1e-2, atol=1e-3)
    assert batch_update(W, C, K, V, 1e12)[1].size < 1e-6


@some
@given(seeds, counts)
def test_ordinary_keys_are_moved_less_the_more_they_weigh(seed: int, edits: int) -> None:
    W, C, K, V = batch(seed, edits)
    moved = [energy(memit_update(W, C, K, V, 10.0**x), ridged(C)) for x in range(-3, 7)]
    assert all(a > b for a, b in pairwise(moved))


@some
@given(seeds, counts, weights)
def test_the_order_of_the_edits_changes_nothing(seed: int, edits: int, weight: float) -> None:
    W, C, K, V = batch(seed, edits)
    order = torch.randperm(edits, generator=torch.Generator().manual_seed(seed))
    assert_close(
        memit_update(W, C, K, V, weight), memit_update(W, C, K[:, order], V[:, order], weight), rtol=1e-6, atol=1e-8
    )


@some
@given(seeds, counts, weights)
def test_the_system_of_edits_and_that_of_inputs_give_one_change(seed: int, edits: int, weight: float) -> None:
    W, C, K, V = batch(seed, edits)
    factor = Factor.of(C)
    Y, R = factor.white(K), V - W @ K
    small, over_edits = solve._over_edits(factor, Y, R, weight, ())
    large, over_inputs = solve._over_inputs(factor, Y, R, weight, ())
    assert_close(small, large, rtol=1e-6, atol=1e-8)
    assert over_edits.shape == (edits, edits) and over_inputs.shape == (9, 9)


@pytest.mark.parametrize(("edits", "smaller"), [(3, 3), (9, 9), (15, 9)])
def test_the_smaller_system_is_solved(edits: int, smaller: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    cholesky = torch.linalg.cholesky_ex
    W, C, K, V = batch(0, edits)
    factor = Factor.of(C)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda G: (sizes.append(len(G)), cholesky(G))[1])
    monkeypatch.setattr(torch.linalg, "inv", lambda *_: pytest.fail("inverted"))
    monkeypatch.setattr(torch.linalg, "pinv", lambda *_: pytest.fail("inverted"))
    memit_update(W, factor, K, V, 1.0)
    assert sizes == [smaller]  # C was factored before, and is not again


@some
@given(seeds)
def test_b2_without_statistics_ordinary_keys_move_more(seed: int) -> None:
    W, C, K, V = batch(seed, 4)
    assert energy(emmet_update(W, C, K, V), ridged(C)) <= energy(emmet_update(W, torch.eye(9), K, V), ridged(C))


@some
@given(seeds, st.integers(1, 6))
def test_b1_the_system_between_edits_is_positive_whatever_the_keys(seed: int, edits: int) -> None:
    W, C, K, V = batch(seed, edits)
    told = batch_update(W, C, K, V, 0.0)[1]
    G = K.T @ torch.linalg.solve(ridged(C), K)
    assert 1 <= told.system <= float(torch.linalg.cond(G)) * (1 + 1e-6)  # a lower bound, reported


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_b21_a_key_twice_is_refused_by_name_and_never_pseudo_inverted(noise: float) -> None:
    W, C, K, V = batch(0, 4)
    K[:, 3] = K[:, 1] * (1 + noise)
    K[0, 3] += noise
    names = ["Ada is a", "Bo plays the", "Cy sings", "Bo was born in"]
    with pytest.raises(EditorError, match="'Bo plays the' and 'Bo was born in' have the same key") as error:
        emmet_update(W, C, K, V, names=names)
    assert "above 0" in str(error.value)
    with pytest.raises(EditorError, match="number 1 and number 3"):
        memit_update(W, C, K, V, 1e-12)  # no weight to speak of
    with pytest.raises(EditorError, match="same key"):
        emmet_update(W, C, K.repeat(1, 2), V.repeat(1, 2))


def test_b21_with_a_weight_a_key_twice_gets_the_mean_of_its_values() -> None:
    W, C, K, V = batch(0, 4)
    K[:, 3] = K[:, 1]
    mean = (V[:, 1] + V[:, 3]) / 2
    assert_close((W + memit_update(W, C, K, V, 1e-5)) @ K[:, 1], mean, rtol=1e-3, atol=1e-3)


def test_more_edits_than_inputs_cannot_be_met_exactly() -> None:
    W, C, K, V = batch(0, 10)
    with pytest.raises(EditorError, match=r"10 edits .* 9 inputs; set alpha above 0"):
        emmet_update(W, C, K, V)


@pytest.mark.parametrize("what", ["key", "value", "zero", "weight", "alpha"])
def test_what_cannot_be_solved_is_refused(what: str) -> None:
    W, C, K, V = batch(0, 3)
    if what == "key":
        K[0, 1] = torch.nan
    elif what == "value":
        V[0, 1] = torch.inf
    elif what == "zero":
        K[:, 1] = 0
    with pytest.raises(EditorError, match={"zero": "number 1"}.get(what, what)):
        if what == "weight":
            memit_update(W, C, K, V, 0.0)
        else:
            emmet_update(W, C, K, V, -1.0 if what == "alpha" else 0.0)


@some
@given(seeds, st.integers(1, 7), st.sampled_from([0.0, 0.1, 100.0]))
def test_what_is_kept_stays_and_the_rest_is_as_cheap_as_can_be(seed: int, edits: int, ridge: float) -> None:
    W, C, K, V = batch(seed, edits)
    bos, C = 50 * torch.randn(9, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), ridged(C)
    factor = Factor.of(C, ridge=0).keeping(bos)
    delta = batch_update(W, factor, K, V, ridge)[0]
    assert float((delta @ bos).norm()) < 1e-7 * float(delta.norm() * bos.norm())
    # the same, as one more edit whose value is what it gives already: an equality, so its multiplier is not weighed
    bordered = torch.cat([torch.cat([ridge * C + K @ K.T, bos], 1), torch.cat([bos.T, torch.zeros(1, 1)], 1)])
    if ridge:
        expected = torch.linalg.solve(bordered, torch.cat([K @ (V - W @ K).T, torch.zeros(1, 6)]).double())[:9].T
        assert_close(delta, expected, rtol=1e-5, atol=1e-7)
    else:
        also = emmet_update(W, Factor.of(C, ridge=0), torch.cat([K, bos], 1), torch.cat([V, W @ bos], 1))
        assert_close(delta, also, rtol=1e-5, atol=1e-6)


@some
@given(seeds)
def test_rome_keeps_too(seed: int) -> None:
    W, C, k, v = problem(seed)
    bos = torch.randn(9, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    delta = rank_one_update(W, Factor.of(C).keeping(bos), k, v)
    assert_close((W + delta) @ k, v)
    assert_close(delta @ bos, torch.zeros_like(delta @ bos))


def test_nothing_is_written_at_a_key_that_is_kept() -> None:
    W, C, k, v = problem(0)
    factor = Factor.of(C).keeping(k[:, None])
    with pytest.raises(EditorError, match="to stay"):
        rank_one_update(W, factor, 2 * k, v)
    with pytest.raises(EditorError, match="to stay"):
        emmet_update(W, factor, torch.stack([v.new_ones(9), k], 1), torch.stack([v, v], 1))


def test_alike_keys_are_told_apart_from_the_bound_on() -> None:
    W, _, K, V = batch(0, 2)
    factor = Factor.of(torch.eye(9), ridge=0)
    k = K[:, 0] / K[:, 0].norm()
    aside = K[:, 1] - (K[:, 1] @ k) * k
    for sine, apart in ((2 * ALIKE**0.5, True), (ALIKE**0.5 / 2, False)):
        near = torch.stack([k, k + sine * aside / aside.norm()], 1)
        if apart:
            assert batch_update(W, factor, near, V, 0.0)[1].residual < 1e-4
        else:
            with pytest.raises(EditorError, match="same key"):
                batch_update(W, factor, near, V, 0.0)


@some
@given(seeds, st.floats(1e-3, 10))
def test_a_cap_scales_down_and_never_up(seed: int, cap: float) -> None:
    W, C, k, v = problem(seed)
    delta = rank_one_update(W, C, k, v)
    limited = capped(delta, W, cap)
    assert limited.norm() <= min(cap * W.norm(), delta.norm()) * (1 + 1e-9)
    assert_close(limited / limited.norm(), delta / delta.norm())
    assert torch.equal(capped(delta, W, None), delta)


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


def test_a_change_that_the_weights_dtype_cannot_hold_is_refused() -> None:
    weight = torch.ones(2, 2, dtype=torch.float16)
    Rewrite(weight.clone()).add_(torch.full((2, 2), 6e4))
    with pytest.raises(EditorError, match=r"too large for a weight in torch\.float16; lower"):
        Rewrite(weight).add_(torch.full((2, 2), 7e4))
    assert torch.equal(weight, torch.ones(2, 2, dtype=torch.float16))
