"""AlphaEdit: facts written where ordinary keys have next to nothing (Fang et al., arXiv:2410.02355)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from lte.config import Config
from lte.editors.batch import Batch, BatchConfig, Layers
from lte.editors.located import low_layer
from lte.editors.nullspace import NullSpace, Remembering
from lte.editors.solve import Metric, batch_update
from lte.models import LM


class NullSpaceConfig(Config):
    """Which directions count as unused by ordinary keys; one of the two is set."""

    threshold: float | None = Field(None, gt=0)  # the paper's: eigenvalues of C below it
    share: float | None = Field(None, gt=0, le=1)  # or the least used part of all directions, e.g. 0.5

    @model_validator(mode="after")
    def _one(self) -> NullSpaceConfig:
        if (self.threshold is None) == (self.share is None):
            raise ValueError("set one of threshold and share, and the other to null")
        return self


class AlphaEditConfig(BatchConfig):
    """Settings of AlphaEdit, and of the search for its values."""

    editor: Literal["alphaedit"] = "alphaedit"
    layers: Layers | None = None  # blocks to rewrite, lowest first; None: one, a sixteenth of the way up
    nullspace: NullSpaceConfig = NullSpaceConfig(threshold=0.02)
    l2: float = Field(10, gt=0)  # ridge of the change, in squares of activations as the keys' own size


class AlphaEdit(Batch):
    """Writes a batch of facts into the directions that ordinary keys lack, and leaves alone what it wrote before.

    Earlier edits of this editor that are in force count in each solve, whatever the batches were; an undo forgets
    them. So does a saved artefact: it is a change of weights, and edits made after loading it do not know its keys.
    An edit whose key was written before moves but part of the way, as the solve balances it with the earlier one.

    For each layer and model in float64: U (d_k x r) and, for the keys, r x r twice while a solve runs.

    texts  ordinary texts for the second moment, in place of the file that the settings name
    """

    name = "alphaedit"
    config: AlphaEditConfig

    def __init__(self, config: AlphaEditConfig | None = None, texts: Iterable[str] | None = None) -> None:
        super().__init__(config or AlphaEditConfig(), texts)

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The blocks that are rewritten, the lowest first."""
        return self.config.layers or (low_layer(lm),)

    @property
    def remembers(self) -> bool:
        """Always."""
        return True

    def metric(self, C: Tensor, kept: Tensor | None) -> Metric:
        """The null space of C, without what the keys `kept` reach of it."""
        space = NullSpace.of(C, self.config.nullspace.threshold, self.config.nullspace.share)
        return space if kept is None else space.keeping(kept)

    def update(
        self, layer: int, C: Metric, S: Tensor | None, W: Tensor, K: Tensor, V: Tensor, names: Sequence[str]
    ) -> Tensor:
        """Δ = R KᵀP (KKᵀP + K_pK_pᵀP + L₂I)⁻¹, the paper's, with P = UUᵀ; solved as R Yᵀ (YYᵀ + S + L₂I)⁻¹ Uᵀ.

        Y = UᵀK: in the basis of the null space the system is symmetric, positive definite and no wider than it.
        """
        return batch_update(W, Remembering.of(C, S, self.config.l2), K, V, self.config.l2, names)[0]
