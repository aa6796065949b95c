"""What a change costs besides C: nothing but its size in directions that ordinary keys lack, or by earlier keys too."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from lte.editors.base import EditorError
from lte.editors.solve import Metric, condition_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Size(Metric):
    """A change costs its own size ‖Δ‖² and nothing else; `any` is of the dtype and on the device."""

    any: Tensor

    @property
    def like(self) -> Tensor:
        return self.any

    @property
    def condition(self) -> float:
        return 1.0

    def white(self, K: Tensor) -> Tensor:
        """The keys themselves."""
        return K.to(self.any)

    def back(self, Y: Tensor) -> Tensor:
        """The coordinates themselves."""
        return Y


@dataclass(frozen=True)
class NullSpace(Metric):
    """Changes that see no part of a key but its nearly unused directions: ΔP = Δ with P = UUᵀ (AlphaEdit).

    basis  U, orthonormal, (in, r): eigenvectors of C with small eigenvalues
    """

    basis: Tensor

    @classmethod
    def of(cls, C: Tensor, threshold: float | None = None, share: float | None = None) -> NullSpace:
        """The eigenvectors of C (in, in) in float64 whose eigenvalue is below `threshold`.

        threshold  in C's own units, squares of activations, so it means something else in every model
        share      in place of it, and of no unit: how large a part of all directions, those with the least eigenvalues

        So tr(ΔCΔᵀ), what a change does to ordinary outputs, is at most the largest of those eigenvalues times ‖Δ‖².
        """
        C = C.double()
        if not torch.isfinite(C).all() or C.trace() <= 0:
            raise EditorError("the second moment of the keys is zero or not finite; take the statistics again")
        sizes, U = torch.linalg.eigh(C)
        small = int((share or 0) * len(C) if threshold is None else (sizes < threshold).sum())
        if not small:
            raise EditorError(
                f"no direction of the keys is free at threshold {threshold}, share {share}: the eigenvalues of their "
                f"second moment are {sizes[0]:.3g} to {sizes[-1]:.3g}, median {sizes.median():.3g}; raise the one set"
            )
        held = sizes[:small].sum() / C.trace()
        logger.info("null space: %d of %d directions, with %.2g of the ordinary keys' size", small, len(C), held)
        return cls(U[:, :small].contiguous())

    @property
    def like(self) -> Tensor:
        return self.basis

    @property
    def condition(self) -> float:
        return 1.0

    def keeping(self, K: Tensor) -> NullSpace:
        """The same without what the keys K, (in, n), reach of it, so that their outputs stay: ΔK = 0, exactly."""
        n = K.shape[1]
        if n >= self.basis.shape[1]:
            raise EditorError(f"{n} keys are to stay, and no more than {self.basis.shape[1]} directions are free")
        Q = torch.linalg.qr(self.white(K), mode="complete").Q
        return NullSpace(self.basis @ Q[:, n:])

    def white(self, K: Tensor) -> Tensor:
        """UᵀK, (r, n)."""
        return self.basis.T @ K.to(self.basis)

    def back(self, Y: Tensor) -> Tensor:
        """UY, (in, n)."""
        return self.basis @ Y


@dataclass(frozen=True)
class Remembering(Metric):
    """Another metric that counts the keys of earlier edits too: λI becomes λI + S in its coordinates.

    metric  the other one
    lower   M of MMᵀ = I + S/λ, (m, m); it is factored for each update, as S has grown since the last
    """

    metric: Metric
    lower: Tensor

    @classmethod
    def of(cls, metric: Metric, S: Tensor | None, ridge: float) -> Metric:
        """For a system whose ridge is λ; S (m, m) is the sum of YYᵀ over the earlier keys, `None` if there are none.

        As λI + S + YYᵀ = λMMᵀ + YYᵀ, the ridge of the system in the new coordinates M⁻¹Y is λ again.
        """
        if S is None:
            return metric
        lower, failed = torch.linalg.cholesky_ex(S / ridge + torch.eye(len(S)).to(S))
        if failed:
            raise EditorError(f"the keys of earlier edits are not finite, or too large beside the ridge {ridge:g}")
        return cls(metric, lower)

    @property
    def like(self) -> Tensor:
        return self.lower

    @property
    def condition(self) -> float:
        return condition_of(self.lower)

    def white(self, K: Tensor) -> Tensor:
        """M⁻¹Y, (m, n), with Y what the other metric makes of the keys."""
        return torch.linalg.solve_triangular(self.lower, self.metric.white(K), upper=False)

    def back(self, Y: Tensor) -> Tensor:
        """What the other metric makes of M⁻ᵀY, (in, n)."""
        return self.metric.back(torch.linalg.solve_triangular(self.lower.mT, Y, upper=True))
