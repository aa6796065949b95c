"""The null space of ordinary keys, and metrics that remember earlier keys: algebra on random matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lte.config import ConfigError
from lte.editors import editor
from lte.editors.base import EditorError
from lte.editors.nullspace import NullSpace, Remembering
from lte.editors.solve import Factor, batch_update, memit_update

OUT, IN = 6, 40


@pytest.fixture(params=[1, 5, 35], ids=lambda n: f"{n}edits")
def problem(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W, C, K, V) with eigenvalues of C from 1e-4 to 100; 35 edits are more than the free directions."""
    torch.manual_seed(request.param)
    U = torch.linalg.qr(torch.randn(IN, IN, dtype=torch.float64)).Q
    C = U * torch.logspace(-4, 2, IN, dtype=torch.float64) @ U.T
    E = request.param
    W, K, V = (torch.randn(n, m, dtype=torch.float64) for n, m in ((OUT, IN), (IN, E), (OUT, E)))
    return W, C, K, V


def test_the_change_is_the_papers(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    W, C, K, V = problem
    earlier, l2 = torch.randn(IN, 9, dtype=torch.float64), 0.7
    space = NullSpace.of(C, threshold=0.02)
    sizes, U = torch.linalg.eigh(C)
    P = U[:, sizes < 0.02] @ U[:, sizes < 0.02].T
    assert 10 < space.basis.shape[1] < 30
    for Kp in (None, earlier):
        S = None if Kp is None else space.white(Kp) @ space.white(Kp).T
        delta = batch_update(W, Remembering.of(space, S, l2), K, V, l2)[0]
        # Eq. 14 with P on the other side, as the authors solve it: (P(KKᵀ + KpKpᵀ) + L₂I) Δᵀ = P K Rᵀ
        seen = K @ K.T + (0 if Kp is None else Kp @ Kp.T)
        paper = torch.linalg.solve(P @ seen + l2 * torch.eye(IN, dtype=torch.float64), P @ K @ (V - W @ K).T).T
        assert_close(delta, paper, rtol=1e-9, atol=1e-11)


def test_ordinary_outputs_move_by_less_than_the_threshold(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    W, C, K, V = problem
    for threshold in (1e-3, 0.02, 3.0):
        delta = batch_update(W, NullSpace.of(C, threshold), K, V, 1e-3)[0]
        moved, size = torch.trace(delta @ C @ delta.T), delta.square().sum()
        assert 0 < moved <= threshold * size
        sizes, U = torch.linalg.eigh(C)
        used = U[:, sizes >= threshold]
        assert used.shape[1] and float((delta @ used).norm() / delta.norm()) < 1e-12
    free = batch_update(W, NullSpace.of(C, 1e9), K, V, 1e-3)[0]
    assert torch.trace(free @ C @ free.T) > 0.02 * free.square().sum()  # the bound is not one of any change


def test_with_every_direction_free_it_is_ridge_regression(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    W, C, K, V = problem
    delta = batch_update(W, NullSpace.of(C, threshold=1e9), K, V, 0.3)[0]
    eye = torch.eye(IN, dtype=torch.float64)
    assert_close(delta, memit_update(W, Factor.of(eye, ridge=0), K, V, 0.3))
    assert_close(delta, torch.linalg.solve(K @ K.T + 0.3 * eye, K @ (V - W @ K).T).T)


def test_a_share_is_of_the_directions_that_are_used_least() -> None:
    C = torch.diag(torch.tensor([6.0, 1.0, 2.0, 1.5]))
    assert [NullSpace.of(C, share=s).basis.shape[1] for s in (0.25, 0.49, 0.5, 1.0)] == [1, 1, 2, 4]
    for scale in (1, 1e4):  # it has no unit
        basis = NullSpace.of(scale * C, share=0.75).basis
        assert basis.shape[1] == 3 and float(basis[0].abs().max()) == 0
    assert NullSpace.of(C, threshold=2.0).basis.shape[1] == 2 and NullSpace.of(C, threshold=2.01).basis.shape[1] == 3


def test_a_key_that_is_kept_is_not_moved(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    W, C, K, V = problem
    bos = torch.randn(IN, 2, dtype=torch.float64)
    space = NullSpace.of(C, threshold=0.02)
    delta = batch_update(W, space.keeping(bos), K, V, 0.1)[0]
    assert float((delta @ bos).norm() / delta.norm()) < 1e-12
    assert float((batch_update(W, space, K, V, 0.1)[0] @ bos).norm() / delta.norm()) > 1e-2
    assert space.keeping(bos).basis.shape[1] == space.basis.shape[1] - 2
    with pytest.raises(EditorError, match="40 keys are to stay"):
        space.keeping(torch.eye(IN))


@pytest.mark.parametrize("kept", [False, True])
def test_memit_that_remembers_balances_with_earlier_keys(
    problem: tuple[Tensor, Tensor, Tensor, Tensor], kept: bool
) -> None:
    W, C, K, V = problem
    Kp, weight = torch.randn(IN, 7, dtype=torch.float64), 0.9
    factor = Factor.of(C, ridge=0)
    if kept:
        factor = factor.keeping(torch.randn(IN, 1, dtype=torch.float64))
    S = factor.white(Kp) @ factor.white(Kp).T
    delta = memit_update(W, Remembering.of(factor, S, weight), K, V, weight)
    if kept:  # the earlier keys are one more part of C, wherever changes are free
        at = factor.back(factor.kept)  # type: ignore[arg-type]
        both = Factor.of(C + Kp @ Kp.T / weight, ridge=0).keeping(C @ at)
        assert_close(delta, memit_update(W, both, K, V, weight), rtol=1e-7, atol=1e-9)
    else:
        paper = torch.linalg.solve(weight * C + Kp @ Kp.T + K @ K.T, K @ (V - W @ K).T).T
        assert_close(delta, paper, rtol=1e-7, atol=1e-9)
    assert float((delta @ Kp).norm()) < float((memit_update(W, factor, K, V, weight) @ Kp).norm())


def test_nothing_to_remember_is_the_metric_itself() -> None:
    factor = Factor.of(torch.eye(3))
    assert Remembering.of(factor, None, 1.0) is factor
    with pytest.raises(EditorError, match="earlier edits are not finite"):
        Remembering.of(factor, torch.full((3, 3), torch.nan, dtype=torch.float64), 1.0)


@pytest.mark.parametrize("C", [torch.zeros(3, 3), torch.full((3, 3), torch.nan)])
def test_a_second_moment_of_nothing_is_refused(C: Tensor) -> None:
    with pytest.raises(EditorError, match="take the statistics again"):
        NullSpace.of(C, threshold=1.0)


def test_no_free_direction_is_refused_with_the_eigenvalues() -> None:
    C = torch.diag(torch.tensor([2.0, 3.0, 5.0]))
    for setting in ({"threshold": 1.0}, {"share": 0.1}):
        with pytest.raises(EditorError, match="2 to 5, median 3; raise the one set"):
            NullSpace.of(C, **setting)


@pytest.mark.parametrize("given", [{}, {"threshold": 1.0, "share": 0.5}])
def test_one_of_threshold_and_share_is_set(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="set one of threshold and share"):
        editor("alphaedit", {"nullspace": given})
