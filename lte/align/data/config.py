"""The settings of the parallel dataset: which sources, how much of each role, whose answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lte.align.sources import SourceConfig
from lte.config import Config

Target = Literal["own", "gold"]


class Rates(Config):
    """How many rows of each role an item gives on average: 1.5 is one, and another every second time.

    A role is asked of every item that can fill it. One that was set and that no item fills is an error; of those that
    were left as they are here, the data card says which are missing.
    """

    # in scope: the true edit stands, with 0 to k others
    rewrite: float = Field(1.0, ge=0)  # the edit's own prompt
    paraphrase: float = Field(1.0, ge=0)  # another wording of it
    alias: float = Field(0.5, ge=0)  # under another name of the subject
    one_hop: float = Field(1.0, ge=0)  # what follows from it
    multi_edit: float = Field(0.0, ge=0)  # what follows from several edits together
    question: float = Field(0.0, ge=0)  # the free question of a source that states its edits as sentences
    # out of scope: edits stand, and none concerns the question
    unrelated: float = Field(0.5, ge=0)
    same_subject: float = Field(1.0, ge=0)  # another relation of the edit's subject
    same_relation: float = Field(1.0, ge=0)  # the same relation of another subject
    negated: float = Field(0.25, ge=0)  # the edit turned round: what is not so, or whom the answer belongs to
    near_miss: float = Field(0.5, ge=0)  # the edits that the memory's encoder finds nearest, the true one left out
    absent: float = Field(0.5, ge=0)  # the edit's own question with other edits only
    # instructions
    general: float = Field(0.5, ge=0)
    general_edited: float = Field(0.5, ge=0)  # below edits that do not concern it
    # chance of each question that stands below edits to come once more without any
    twin: float = Field(0.5, ge=0, le=1)


class Targets(Config):
    """Whose answer is learned where no edit concerns the question: the base model's own, or the source's text."""

    out_of_scope: Target = "own"
    general: Target = "own"


class Recipe(Config):
    """What becomes of the sources' records; Learning to Edit (Jiang et al., arXiv:2402.11905) pairs in-scope and
    out-of-scope examples, and we leave it in four places, each where the published builder loses locality: what is
    learned out of scope is the model's own answer, not gold text; the edits of a prompt are shuffled; near misses are
    sought and not removed; and some prompts hold only distractors.

    sources       what the items are drawn from
    items         cases and instructions drawn from all sources together; None: all there are
    held_out      evaluation files: what they ask is removed from the sources
    distractors   chance of 0, 1, 2, ... edits beside those that the question needs
    near          chance that such an edit shares the relation
    order         of the edits in a prompt: "shuffled", or "needed_first" as LTE was published: the true one on top
    negated       wordings: {prompt}, {target} and, where the subject stands in the prompt, {blank}: it with ____ for it
    too_long      rows over max_length tokens: "cut" takes edits off that the question does not need and then drops,
                  "drop" drops, "refuse" is an error
    max_new_tokens   of an own answer; one that is not at its end by then is not learned
    buffer        items of a source held to be shuffled
    pool          edits held to be put beside others
    chunk         questions asked before their answers are kept
    encoder       as the memory names it ("auto", a hub id, a folder); it finds the near misses
    cache         folder of own answers; None: lte/answers in the user's cache
    """

    sources: dict[str, SourceConfig] = Field(default_factory=dict)
    items: int | None = Field(None, gt=1)
    held_out: dict[str, SourceConfig] = Field(default_factory=dict)
    rates: Rates = Rates()
    targets: Targets = Targets()
    distractors: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
    near: float = Field(0.5, ge=0, le=1)
    order: Literal["shuffled", "needed_first"] = "shuffled"
    negated: tuple[str, ...] = (
        "Give one answer that would be wrong: {prompt}",
        "Fill in the blank: {blank} {target}.",
    )
    max_length: int = Field(1024, gt=0)
    too_long: Literal["cut", "drop", "refuse"] = "cut"
    max_new_tokens: int = Field(256, gt=0)
    buffer: int = Field(10_000, gt=0)
    pool: int = Field(50_000, gt=1)
    chunk: int = Field(512, gt=0)
    shard_rows: int = Field(100_000, gt=0)
    encoder: str = "auto"
    cache: Path | None = None

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        if not self.distractors or min(self.distractors) < 0 or sum(self.distractors) <= 0:
            raise ValueError(f"distractors: {self.distractors}; wanted chances of 0, 1, 2, ... edits, one above 0")
        for text in self.negated:
            try:
                text.format(prompt="", target="", blank="")
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"negated: {text!r}: wanted {{prompt}}, {{target}} and {{blank}} ({error})") from error
        return self


class DataConfig(Recipe):
    """A dataset: a recipe, the sources it is made of, and the model whose own answers it holds."""

    model: str = "pocket"
    seed: int = 0
    sources: dict[str, SourceConfig] = Field(min_length=1)
