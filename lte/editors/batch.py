"""A batch of facts written by one solve in each of some layers: what MEMIT, EMMET and their kin have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from torch import Tensor

from lte.editors.base import Handle, checked, remembered
from lte.editors.contexts import answer_rows
from lte.editors.located import (
    Located,
    LocatedConfig,
    changes_of_values,
    distinct,
    keys_of,
    mean_keys,
    rewrites,
    streams_of,
    touched,
)
from lte.editors.solve import Metric
from lte.edits import Edit
from lte.models import LM


def _rising(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or layers[0] < 0 or list(layers) != sorted(set(layers)):
        raise ValueError("wanted one layer or several in rising order, each once, e.g. [4, 5, 6, 7, 8]")
    return layers


Layers = Annotated[tuple[int, ...], AfterValidator(_rising)]  # to rewrite, the lowest first


class BatchConfig(LocatedConfig):
    """Settings of the editors that write a batch of facts by one solve; the numbers are those of the MEMIT authors."""

    v_steps: int = Field(25, gt=0)
    v_decay: float = Field(0.5, ge=0)
    clamp: float = Field(0.75, gt=0)
    norm_of: Literal["mlp", "block"] = "block"
    batch_size: int = Field(32, gt=0)  # edits whose values are sought in one forward


class Batch(Located):
    """Writes many facts at once; by which change to a matrix is what its subclasses say.

    The values are sought once, at the last layer, on the model before the batch (MEMIT, Algorithm 1). Of two edits
    with one subject and one prompt the later one counts, as if they were written in turn.
    """

    config: BatchConfig

    @property
    def remembers(self) -> bool:
        """Whether edits are to be disturbed as little as may be by those that come after them."""
        return False

    def update(
        self, layer: int, C: Metric, S: Tensor | None, W: Tensor, K: Tensor, V: Tensor, names: Sequence[str]
    ) -> Tensor:
        """The change to the layer's matrix W that brings the outputs of the keys K to the values V.

        S  sum of YYᵀ over the keys of this editor's edits in force, Y = C.white(K); `None` without such
        """
        raise NotImplementedError

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Write the edits together: each layer takes an even share of what the layers before it left to do."""
        edits = distinct(self.name, checked(self.name, edits, subject=True))
        layers, names = self.layers(lm), [edit.statement for edit in edits]
        answer_rows(lm, edits)  # a subject that cannot be found is refused before anything is computed
        ready = self.prepare(lm)
        contexts = 1 + len(ready.prefixes)
        rows = answer_rows(lm, edits, ready.prefixes)
        with ExitStack() as undo:
            left = goal = changes_of_values(lm, layers[-1], edits, ready, self.config, self.config.batch_size)
            before = streams_of(lm, layers[-1], rows[::contexts]) if len(layers) > 1 else goal
            Ws = rewrites(lm, layers, undo)
            kept: dict[Hashable, Tensor] = {}
            for ahead, (layer, W) in zip(range(len(layers), 0, -1), Ws.items()):
                K = mean_keys(keys_of(lm, layer, rows, contexts)).T.to(W.exact)
                V = W.exact @ K + left.T.to(W.exact) / ahead
                C, mine = ready.factors[layer], (self, layer)
                self.write(W, self.update(layer, C, remembered(lm, mine), W.exact, K, V, names))
                if self.remembers:  # a layer's keys depend on the layers below it, which are done
                    Y = C.white(K)
                    kept[mine] = Y @ Y.T
                if ahead > 1:
                    left = goal - (streams_of(lm, layers[-1], rows[::contexts]) - before).to(goal)
            return Handle(lm, self, edits, undo, touched(lm, Ws), plain=True, kept=kept)
