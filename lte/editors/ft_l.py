"""FT-L: fine-tune one MLP output projection within a box around what it was (Meng et al., arXiv:2202.05262)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lte.editors.contexts import Row
from lte.editors.finetune import FineTune, OneProjectionConfig
from lte.edits import Edit
from lte.models import LM
from lte.models.tokens import encode

Objective = Literal["answer", "prompt_last"]


class FTLConfig(OneProjectionConfig):
    """Settings of FT-L.

    objective  answer       every answer token, each predicted at the place before its own
               prompt_last  the code in common use: all tokens of the answer at the last place of the prompt, the BOS
                            that the tokenizer opens it with among them. An answer of several tokens cannot be learnt
                            so: the best that one place can do is to share its probability among them. The mark that
                            ends a turn is no part of it, whatever `end_of_turn` says.
    """

    editor: Literal["ft_l"] = "ft_l"
    norm: float | None = Field(5e-4, gt=0)  # ε of ROME's GPT-2 XL, its GPT-J has 5e-5; None: no box, which is ft_m
    objective: Objective = "answer"


class FTL(FineTune):
    """Trains one matrix, no entry of which leaves a box, on all the edits that are given.

    ROME's baseline "FT+L": Adam on −log p of the answer, stopped early, with the L∞ constraint of Zhu et al.
    (arXiv:2012.00363). As in its code the given edits are trained together and the box lies around the weight as it
    was before them: edits applied one after another, in calls of their own, get a new box each.
    """

    name = "ft_l"
    config: FTLConfig

    def __init__(self, config: FTLConfig | None = None) -> None:
        self.config = config or FTLConfig()

    def rows(self, lm: LM, edits: Sequence[Edit]) -> list[Row]:
        """What is trained, by the objective."""
        return super().rows(lm, edits) if self.config.objective == "answer" else at_prompt_end(lm, edits)


@dataclass(frozen=True)
class AtPromptEnd(Row):
    """An answer whose every token is wanted at the last place before it."""

    @property
    def places(self) -> list[int]:
        """That place, once for each token."""
        return [self.answer[0] - 1] * (self.answer[1] - self.answer[0])


def at_prompt_end(lm: LM, edits: Sequence[Edit]) -> list[Row]:
    """Each prompt with its answer tokenised for itself, with all that the tokenizer puts around it."""
    rows: list[Row] = []
    for i, edit in enumerate(edits):
        [prompt] = encode(lm.tokenizer, [lm.render(edit.prompt)])
        answer = list(lm.tokenizer(f" {edit.target_new.strip()}")["input_ids"])
        rows.append(AtPromptEnd(prompt.ids + answer, i, (len(prompt.ids), len(prompt.ids) + len(answer))))
    return rows
