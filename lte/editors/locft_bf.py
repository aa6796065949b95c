"""LocFT-BF: fine-tune late MLP output projections breadth-first, all edits an epoch (Yang et al., arXiv:2509.22072)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field

from lte.editors.batch import Layers
from lte.editors.finetune import high_layer
from lte.editors.training import Step, TrainConfig, Trained, parts_of
from lte.models import LM


class LocFTConfig(TrainConfig):
    """Settings of LocFT-BF; the numbers are its authors' for Llama-3-8B-Instruct."""

    editor: Literal["locft_bf"] = "locft_bf"
    layers: Layers | None = None  # blocks whose MLPs are trained; None: one, two thirds of the way up
    epochs: int = Field(25, gt=0)  # passes over the edits, at most
    batch_size: int = Field(100, gt=0)  # edits of one step, and of one forward
    seed: int = 0  # of the order of the edits


class LocFT(Trained):
    """Trains on the edits as on any data set: epochs of mini-batches, shuffled anew each time.

    What fine-tuning as an editor usually does instead, each edit to its end before the next, is to apply `ft_m` to one
    edit after another. A mini-batch whose every edit is done is passed over, and an epoch of such is the last.
    """

    name = "locft_bf"
    config: LocFTConfig

    def __init__(self, config: LocFTConfig | None = None) -> None:
        self.config = config or LocFTConfig()

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The blocks whose MLPs are trained, the lowest first."""
        return self.config.layers or (high_layer(lm),)

    def epochs(self, count: int) -> Iterator[Sequence[Step]]:
        """A step for each mini-batch."""
        generator = torch.Generator().manual_seed(self.config.seed)
        for _ in range(self.config.epochs):
            order = torch.randperm(count, generator=generator).tolist()
            yield [[part] for part in parts_of(order, self.config.batch_size)]
