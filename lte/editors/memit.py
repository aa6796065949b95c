"""MEMIT: many facts at once, balanced against ordinary keys in each of some layers (Meng et al., arXiv:2210.07229)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from lte.editors.batch import Batch, BatchConfig, Layers
from lte.editors.located import low_layer
from lte.editors.nullspace import Remembering
from lte.editors.solve import Metric, memit_update
from lte.models import LM


class MemitConfig(BatchConfig):
    """Settings of MEMIT, and of the search for its values."""

    editor: Literal["memit"] = "memit"
    layers: Layers | None = None  # blocks to rewrite, lowest first; None: one, a sixteenth of the way up
    weight: float = Field(15000, gt=0)  # λ, in ordinary tokens: C is their mean (mom2_update_weight)
    remember: bool = False  # keys of earlier edits weigh as ordinary tokens do, one each: λC + Σ K_pK_pᵀ


class Memit(Batch):
    """Writes a batch of facts as far as ordinary keys allow, spread over some layers.

    texts  ordinary texts for the second moment, in place of the file that the settings name
    """

    name = "memit"
    config: MemitConfig

    def __init__(self, config: MemitConfig | None = None, texts: Iterable[str] | None = None) -> None:
        super().__init__(config or MemitConfig(), texts)

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The blocks that are rewritten, the lowest first."""
        return self.config.layers or (low_layer(lm),)

    @property
    def remembers(self) -> bool:
        """Whether the settings say so."""
        return self.config.remember

    def update(
        self, layer: int, C: Metric, S: Tensor | None, W: Tensor, K: Tensor, V: Tensor, names: Sequence[str]
    ) -> Tensor:
        """Δ = R Kᵀ (λC + Σ K_pK_pᵀ + KKᵀ)⁻¹, the sum over earlier edits where they are remembered."""
        return memit_update(W, Remembering.of(C, S, self.config.weight), K, V, self.config.weight, names)
