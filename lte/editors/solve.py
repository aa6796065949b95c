"""The linear algebra of locating a fact in one matrix: tensors in, tensors out, float64 inside."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from lte.editors.base import EditorError

logger = logging.getLogger(__name__)
RIDGE = 1e-6  # of the mean eigenvalue of C: makes C of few tokens invertible, far below what changes an answer


@dataclass(frozen=True)
class Factor:
    """C + εI = LLᵀ with ε = RIDGE · tr(C)/d: factored once, solved with often, never inverted."""

    lower: Tensor

    @classmethod
    def of(cls, C: Tensor, ridge: float = RIDGE) -> Factor:
        """The Cholesky factor of the second moment C (in, in) in float64.

        C of fewer tokens than dimensions, summed in float32, can be slightly indefinite; ε then grows until it is not.
        """
        C = C.double()
        mean = C.trace() / len(C)
        if not torch.isfinite(C).all() or mean <= 0:
            raise EditorError("the second moment of the keys is zero or not finite; take the statistics again")
        for scale in (1, 10, 100, 1000):
            lower, failed = torch.linalg.cholesky_ex(C + scale * ridge * mean * torch.eye(len(C)).to(C))
            if not failed:
                if scale > 1:
                    logger.warning("C is nearly singular; ridge raised to %g of its mean eigenvalue", scale * ridge)
                return cls(lower)
        raise EditorError("the second moment of the keys is not positive definite; take it of more tokens")

    def solve(self, k: Tensor) -> Tensor:
        """(C + εI)⁻¹k for a key (in,) or keys (in, n)."""
        K = k.to(self.lower).reshape(len(k), -1)
        return torch.cholesky_solve(K, self.lower).reshape(k.shape)

    @property
    def condition(self) -> float:
        """A lower bound of the condition number, from the factor's diagonal at no cost."""
        diagonal = self.lower.diagonal()
        return float((diagonal.max() / diagonal.min()) ** 2)


@dataclass(frozen=True)
class Report:
    """How well a solve went.

    condition  lower bound of cond(C + εI)
    residual   ‖(W+Δ)k − v‖ / ‖v‖, of the key at which v is to come out
    size       ‖Δ‖ / ‖W‖
    """

    condition: float
    residual: float
    size: float


def rank_one_update(W: Tensor, C: Tensor | Factor, k: Tensor, v: Tensor, at: Tensor | None = None) -> Tensor:
    """The change to W that sends k to v and disturbs ordinary keys least, in float64.

    ROME Eq. 2:  Δ = Λ (C⁻¹k)ᵀ  with  Λ = (v − Wk) / (C⁻¹k)ᵀk

    W (out, in)   MLP output projection        k (in,)    key at the subject's last token
    C (in, in)    E[kkᵀ], not centred          v (out,)   value that yields `target_new`

    at (in,)  another key at which v is to come out: Λ = (v − W·at) / (C⁻¹k)ᵀat. Only the original ROME has one, and
              where the two keys part the denominator nearly vanishes and Δ disables the model (Gupta et al.,
              arXiv:2403.07175); left out it is k, and the denominator is positive whatever the key.
    """
    factor = C if isinstance(C, Factor) else Factor.of(C)
    W, k, v = (x.to(factor.lower) for x in (W, k, v))
    at = k if at is None else at.to(factor.lower)
    u = factor.solve(k)
    pull = u @ at
    if not torch.isfinite(pull) or pull == 0:
        raise EditorError(
            f"nothing can be written at the key (C⁻¹k·k = {pull.item()}); does the subject reach the layer?"
        )
    delta = torch.outer((v - W @ at) / pull, u)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", report(W, factor, delta, at, v))
    return delta


def report(W: Tensor, factor: Factor, delta: Tensor, k: Tensor, v: Tensor) -> Report:
    """How well Δ stores the pair (k, v) in W."""
    residual = torch.linalg.vector_norm((W + delta) @ k - v) / torch.linalg.vector_norm(v)
    size = torch.linalg.matrix_norm(delta) / torch.linalg.matrix_norm(W)
    return Report(factor.condition, float(residual), float(size))
