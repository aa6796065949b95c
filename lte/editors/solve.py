"""The linear algebra of locating facts in one matrix: tensors in, tensors out, float64 inside."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lte.editors.base import EditorError

logger = logging.getLogger(__name__)
RIDGE = 1e-6  # of the mean eigenvalue of C: makes C of few tokens invertible, far below what changes an answer
ALIKE = 1e-10  # squared sine of the angle between a key and the others, below which it is no key of its own
EXACT = 1e-4  # relative residual above which a change that is to store its pairs does not


class Metric(ABC):
    """What a change costs, as coordinates of the keys in which the cost is ‖·‖²: `Factor` counts by ordinary keys."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device that is computed in."""

    @abstractmethod
    def white(self, K: Tensor) -> Tensor:
        """Keys (in, n) in those coordinates, (m, n) with m ≤ in."""

    @abstractmethod
    def back(self, Y: Tensor) -> Tensor:
        """The transposed of `white`: of coordinates (m, n) what stands beside keys, (in, n)."""

    @property
    @abstractmethod
    def condition(self) -> float:
        """A lower bound of the condition number."""

    def solve(self, k: Tensor) -> Tensor:
        """`back` of `white` for a key (in,) or keys (in, n): (C + εI)⁻¹k of a `Factor`."""
        return self.back(self.white(k.reshape(len(k), -1))).reshape(k.shape)


@dataclass(frozen=True)
class Factor(Metric):
    """C + εI = LLᵀ with ε = RIDGE · tr(C)/d: factored once, solved with often, never inverted.

    lower  L, (in, in)
    kept   orthonormal columns, (in, n): what no change made with this factor reaches; `None` where there is no such
    """

    lower: Tensor
    kept: Tensor | None = None

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
            ridged = C.clone()  # one copy beside C and the factor: of Llama-3-8B each takes 1.6 GB
            ridged.diagonal().add_(scale * ridge * mean)
            lower, failed = torch.linalg.cholesky_ex(ridged)
            if not failed:
                if scale > 1:
                    logger.warning("C is nearly singular; ridge raised to %g of its mean eigenvalue", scale * ridge)
                return cls(lower)
        raise EditorError("the second moment of the keys is not positive definite; take it of more tokens")

    @property
    def like(self) -> Tensor:
        return self.lower

    def keeping(self, K: Tensor) -> Factor:
        """The same for changes that leave the outputs of the keys K, (in, n), where they are: ΔK = 0, exactly.

        In white coordinates the constraint is a projection: (C + εI)⁻¹ becomes L⁻ᵀ(I − QQᵀ)L⁻¹, with Q a basis of L⁻¹K.
        """
        Q = torch.linalg.qr(self.white(K)).Q
        return Factor(self.lower, Q if self.kept is None else torch.cat([self.kept, Q], dim=1))

    def white(self, K: Tensor) -> Tensor:
        """L⁻¹K, (in, n): the keys where ordinary ones are uncorrelated and of one size, without what is kept."""
        Y = torch.linalg.solve_triangular(self.lower, K.to(self.lower), upper=False)
        if self.kept is None:
            return Y
        free = Y - self.kept @ (self.kept.T @ Y)
        left = torch.linalg.vector_norm(free, dim=0) / torch.linalg.vector_norm(Y, dim=0)
        if (left**2 < ALIKE).any():
            raise EditorError(
                "a key is one of those whose outputs are to stay as they are; nothing can be written at it"
            )
        return free

    def back(self, Y: Tensor) -> Tensor:
        """L⁻ᵀY, (in, n): behind `white` it makes (C + εI)⁻¹K."""
        return torch.linalg.solve_triangular(self.lower.mT, Y, upper=True)

    @property
    def condition(self) -> float:
        """A lower bound of the condition number, from the factor's diagonal at no cost."""
        return condition_of(self.lower)


@dataclass(frozen=True)
class Report:
    """How well a solve went.

    condition  lower bound of cond(C + εI), or of another metric's
    residual   ‖(W+Δ)K − V‖ / ‖V‖, of the keys at which the values are to come out
    size       ‖Δ‖ / ‖W‖
    system     lower bound of the condition number of the system between the edits, 1 where there is but one
    """

    condition: float
    residual: float
    size: float
    system: float = 1.0


def rank_one_update(W: Tensor, C: Tensor | Metric, k: Tensor, v: Tensor, at: Tensor | None = None) -> Tensor:
    """The change to W that sends k to v and disturbs ordinary keys least, in float64.

    ROME Eq. 2:  Δ = Λ (C⁻¹k)ᵀ  with  Λ = (v − Wk) / (C⁻¹k)ᵀk

    W (out, in)   MLP output projection        k (in,)    key at the subject's last token
    C (in, in)    E[kkᵀ], not centred          v (out,)   value that yields `target_new`

    at (in,)  another key at which v is to come out: Λ = (v − W·at) / (C⁻¹k)ᵀat. Only the original ROME has one, and
              where the two keys part the denominator nearly vanishes and Δ disables the model (Gupta et al.,
              arXiv:2403.07175); left out it is k, and the denominator is positive whatever the key.
    """
    factor = Factor.of(C) if isinstance(C, Tensor) else C
    W, k, v = (x.to(factor.like) for x in (W, k, v))
    at = k if at is None else at.to(factor.like)
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


def memit_update(
    W: Tensor, C: Tensor | Metric, K: Tensor, V: Tensor, weight: float, names: Sequence[str] = ()
) -> Tensor:
    """The change to W that sends the keys to the values as far as ordinary keys allow, in float64.

    MEMIT Eq. 14:  Δ = R Kᵀ (λC + KKᵀ)⁻¹  with  R = V − WK,  where  λ tr(ΔCΔᵀ) + ‖ΔK − R‖²  is least

    W (out, in)   MLP output projection             K (in, E)    keys, a column an edit
    C (in, in)    E[kkᵀ], the mean, not centred     V (out, E)   values

    weight  λ > 0: of how many ordinary tokens the edits are put in the balance with
    names   what an error calls the edits
    """
    if not weight > 0:
        raise EditorError(f"weight {weight}: wanted more than 0; without a weight the change is emmet_update's")
    return batch_update(W, C, K, V, weight, names)[0]


def emmet_update(
    W: Tensor, C: Tensor | Metric, K: Tensor, V: Tensor, alpha: float = 0.0, names: Sequence[str] = ()
) -> Tensor:
    """The change to W that sends every key to its value and disturbs ordinary keys least, in float64.

    EMMET Eq. 7 (Gupta et al., arXiv:2403.14236):  Δ = R (KᵀC⁻¹K + αI)⁻¹ KᵀC⁻¹  with  R = V − WK

    Arguments as of `memit_update`, which gives the same Δ for λ = α: KᵀC⁻¹(αI + KKᵀC⁻¹)⁻¹ pushed through. At α = 0
    the values come out exactly, and keys that are the same are an `EditorError`.
    """
    return batch_update(W, C, K, V, alpha, names)[0]


def batch_update(
    W: Tensor, C: Tensor | Metric, K: Tensor, V: Tensor, ridge: float, names: Sequence[str] = ()
) -> tuple[Tensor, Report]:
    """(Δ, how it went) of `memit_update` and `emmet_update`, through the smaller of the two systems, E or `in` wide.

    Both are solved in white coordinates Y = L⁻¹K, where the system is YᵀY + λI or YYᵀ + λI; C may be another `Metric`.
    """
    factor = Factor.of(C) if isinstance(C, Tensor) else C
    W, K, V = (x.to(factor.like) for x in (W, K, V))
    if not ridge >= 0:
        raise EditorError(f"alpha {ridge}: wanted 0 or more")
    if not (torch.isfinite(K).all() and torch.isfinite(V).all()):
        raise EditorError("a key or a value is not finite; lower v_lr or the clamp, or load the model in another dtype")
    inputs, edits = K.shape
    if edits > inputs and not ridge:
        raise EditorError(
            f"{edits} edits cannot all be met exactly in a matrix of {inputs} inputs; set alpha above 0, or give fewer"
        )
    R, Y = V - W @ K, factor.white(K)
    solve = _over_inputs if edits > len(Y) else _over_edits
    delta, lower = solve(factor, Y, R, ridge, names)
    told = report(W, factor, delta, K, V, condition_of(lower))
    logger.debug("%s", told)
    if not ridge and told.residual > EXACT:
        logger.warning("the values come out to %.1g of their size only; alike keys? %s", told.residual, told)
    return delta, told


def report(W: Tensor, factor: Metric, delta: Tensor, K: Tensor, V: Tensor, system: float = 1.0) -> Report:
    """How well Δ stores the pairs in W: a key (in,) and its value (out,), or columns of them."""
    residual = torch.linalg.vector_norm((W + delta) @ K - V) / torch.linalg.vector_norm(V)
    size = torch.linalg.matrix_norm(delta) / torch.linalg.matrix_norm(W)
    return Report(factor.condition, float(residual), float(size), system)


def capped(delta: Tensor, W: Tensor, cap: float | None) -> Tensor:
    """Δ, scaled down where its Frobenius norm is more than `cap` times that of W; `None` sets no cap."""
    size = float(torch.linalg.matrix_norm(delta) / torch.linalg.matrix_norm(W))
    if cap is None or not size > cap:
        return delta
    logger.info("a change of %.3g times the weight's norm is scaled down to %.3g", size, cap)
    return delta * (cap / size)


def _over_edits(factor: Metric, Y: Tensor, R: Tensor, ridge: float, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Δ = R (YᵀY + λI)⁻¹ (L⁻ᵀY)ᵀ and the system's Cholesky factor, (E, E)."""
    G = Y.T @ Y
    G.diagonal().add_(ridge)
    lower, failed = torch.linalg.cholesky_ex(G)
    _tell_apart(G, lower, int(failed), ridge, names)
    return torch.cholesky_solve(R.T, lower).T @ factor.back(Y).T, lower


def _over_inputs(factor: Metric, Y: Tensor, R: Tensor, ridge: float, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Δ = R Yᵀ (YYᵀ + λI)⁻¹ L⁻¹ and the system's Cholesky factor, (in, in)."""
    M = Y @ Y.T
    M.diagonal().add_(ridge)
    lower, failed = torch.linalg.cholesky_ex(M)
    if failed:
        raise EditorError(f"the {Y.shape[1]} edits' system is singular at λ = {ridge:g}; raise weight or alpha")
    return factor.back(torch.cholesky_solve(Y @ R.T, lower)).T, lower


def _tell_apart(G: Tensor, lower: Tensor, failed: int, ridge: float, names: Sequence[str]) -> None:
    """Refuse keys that the system cannot tell from those before them, by the names of the edits.

    A pivot of the Cholesky factor is a key's squared distance to the span of those before it.
    """
    size = G.diagonal()
    if not (size > 0).all():
        raise EditorError(f"nothing can be written at the key of {_name(names, int(size.argmin()))}; it is zero")
    own = lower.diagonal() ** 2 / size
    last = failed - 1 if failed else int(own.argmin())
    if not failed and own[last] >= ALIKE:
        return
    near = (G[:, last] / (size * size[last]).sqrt()).abs()
    near[last] = -1
    settle = f"raise it above {ridge:g}" if ridge else "set it above 0"
    raise EditorError(
        f"the edits {_name(names, int(near.argmax()))} and {_name(names, last)} have the same key (one subject, and "
        "the words up to it), so they cannot each have a value of their own; keep one of them, or let alpha (weight) "
        f"settle between them: {settle}"
    )


def _name(names: Sequence[str], place: int) -> str:
    return repr(names[place]) if names else f"number {place}"


def condition_of(lower: Tensor) -> float:
    """A lower bound of the condition number of LLᵀ, from the diagonal of L."""
    diagonal = lower.diagonal()
    return float((diagonal.max() / diagonal.min()) ** 2)
