"""What the study of recipes compares: ways to align, and to serve what was aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lte.config import Config
from lte.editors.in_context import LTE, LTEConfig
from lte.edits import Edit
from lte.memory import MemoryConfig
from lte.pocket.asked import AlignOn

if TYPE_CHECKING:
    from lte.editors.base import Handle
    from lte.models import LM

ANYTHING = -1.0  # as a threshold: every edit reaches it


class RecipeConfig(Config):
    """A way to align and to serve.

    label      what the table calls it
    adapter    settings of its alignment (`lte align`); recipes of one file share its adapters
    always_on  whether the adapter is on for every question, or only where the prompt holds an edit
    gate       whether an edit has to reach the memory's thresholds, or the k nearest are always in the prompt
    subjects   whether the memory is told whom an edit is about
    """

    label: str
    adapter: Path
    always_on: bool = False
    gate: bool = True
    subjects: bool = True
    k: int = Field(3, gt=0)


class StudyConfig(Config):
    """The study.

    align    cases to align on, and what is added to them
    cases    cases to measure on, and of them `size`
    facts    known facts that no edit concerns, asked at most
    text     a file for perplexity: of its lines those that name no edit's subject, at most `texts`
    memory   the gate's settings
    """

    align: Path
    cases: Path
    text: Path
    size: int = Field(300, gt=0)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    add: AlignOn = AlignOn()
    facts: int = Field(300, gt=0)
    texts: int = Field(100, gt=0)
    memory: MemoryConfig = MemoryConfig()
    recipes: dict[str, RecipeConfig] = Field(min_length=1)
    align_settings: tuple[str, ...] = ()  # of every alignment, as after --set


class Served(LTE):
    """Learning to edit as a recipe serves it: its adapter, its gate, and when the adapter is on."""

    def __init__(self, recipe: RecipeConfig, memory: MemoryConfig, adapter: Path, encoder: Any = None) -> None:
        if not recipe.gate:
            names = ("threshold", "mention_threshold", "free_threshold")
            memory = memory.model_copy(update=dict.fromkeys(names, ANYTHING))
        super().__init__(LTEConfig(k=recipe.k, memory=memory, adapter=adapter))
        self.recipe, self._encoder = recipe, encoder

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Put the edits in the way of the model's queries."""
        if not self.recipe.subjects:
            edits = [replace(edit, subject="", aliases=()) for edit in edits]
        handle = super().apply(lm, edits)
        if self.recipe.always_on:
            route, name = lm.routes[-1], self.adapter(lm)
            lm.routes[-1] = lambda queries: [replace(p, adapter=name) for p in route(queries)]
        return handle
