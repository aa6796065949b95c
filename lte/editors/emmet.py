"""EMMET: many facts at once, each met exactly, in one layer (Gupta et al., arXiv:2403.14236)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from lte.editors.batch import Batch, BatchConfig
from lte.editors.located import low_layer
from lte.editors.solve import Metric, emmet_update
from lte.models import LM


class EmmetConfig(BatchConfig):
    """Settings of EMMET, and of the search for its values."""

    editor: Literal["emmet"] = "emmet"
    layer: int | None = Field(None, ge=0)  # block to rewrite; None: a sixteenth of the way up
    alpha: float = Field(0.0, ge=0)  # 0: equality; above it the change is MEMIT's with weight alpha (α·w of the papers)


class Emmet(Batch):
    """Writes a batch of facts into one layer by equality constraints, and disturbs ordinary keys least.

    texts  ordinary texts for the second moment, in place of the file that the settings name
    """

    name = "emmet"
    config: EmmetConfig

    def __init__(self, config: EmmetConfig | None = None, texts: Iterable[str] | None = None) -> None:
        super().__init__(config or EmmetConfig(), texts)

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The block that is rewritten."""
        return (low_layer(lm) if self.config.layer is None else self.config.layer,)

    def update(
        self, layer: int, C: Metric, S: Tensor | None, W: Tensor, K: Tensor, V: Tensor, names: Sequence[str]
    ) -> Tensor:
        """Δ = R (KᵀC⁻¹K + αI)⁻¹ KᵀC⁻¹."""
        return emmet_update(W, C, K, V, self.config.alpha, names)
