"""FT-M: fine-tune one MLP output projection on the answer tokens (Zhang et al., arXiv:2401.01286)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from lte.editors.training import Step, TrainConfig, Trained, together
from lte.models import LM


class OneProjectionConfig(TrainConfig):
    """Settings of the editors that train one matrix."""

    layer: int | None = Field(None, ge=0)  # block whose MLP is trained; None: two thirds of the way up
    steps: int = Field(25, gt=0)  # each over all the edits, at most
    norm: float | None = Field(None, gt=0)  # no entry of the weight moves further than this (FT-L's constraint)


class FineTuneConfig(OneProjectionConfig):
    """Settings of FT-M."""

    editor: Literal["ft_m"] = "ft_m"


class FineTune(Trained):
    """Trains one matrix until every edit's own prompt is answered by it; nothing protects the other answers."""

    name = "ft_m"
    config: OneProjectionConfig

    def __init__(self, config: FineTuneConfig | None = None) -> None:
        self.config = config or FineTuneConfig()

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The block whose MLP is trained."""
        return (high_layer(lm) if self.config.layer is None else self.config.layer,)

    def epochs(self, count: int) -> Iterator[Sequence[Step]]:
        """All edits count in each step."""
        return together(count, self.config.batch_size, self.config.steps)

    def box(self) -> float | None:
        """How far an entry of the weight may move."""
        return self.config.norm


def high_layer(lm: LM) -> int:
    """Two thirds of the way up: near the 21 and 22 of 32 that are in use for Llama-3-8B."""
    return 2 * len(lm.blocks) // 3
