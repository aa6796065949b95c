"""Settings of an evaluation, and the room's one error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from lte.config import Config

Scoring = Literal["generated", "teacher_forced", "preference", "fluency"]
Protocol = Annotated[str, StringConstraints(pattern=r"^(single|batch:([1-9]\d*|all))$")]


class EvaluateError(ValueError):
    """Something that cannot be evaluated or reported; the message says what came, what was wanted, and the remedy."""


class EvaluateConfig(Config):
    """What is asked, of which model, under which editors.

    benchmark        a name of `lte.evaluate.benchmarks.BENCHMARKS`
    path             the benchmark's file; the pocket cases need none
    editors          names; "none" is the unedited model, a row like any other
    editor_settings  per editor: the path of a YAML file, or the settings themselves; left out: the editor's defaults
    protocol         "single" (one edit in force at a time), "batch:N" (N at once), "batch:all"
    scorings         which answers are computed: each gives its own columns
    fluency_tokens   length of the texts that "fluency" asks for
    """

    model: str = "pocket"
    benchmark: str = "pocket"
    path: Path | None = None
    editors: tuple[str, ...] = ("none", "lte", "ice", "ft", "rome")
    editor_settings: dict[str, Path | dict[str, Any]] = Field(default_factory=dict)
    protocol: Protocol = "batch:all"
    limit: int | None = Field(None, gt=0)
    shuffle: bool = False
    seed: int = 0
    scorings: tuple[Scoring, ...] = ("generated", "teacher_forced", "preference")
    max_new_tokens: int = Field(32, gt=0)
    fluency_tokens: int = Field(100, gt=0)
    batch_size: int = Field(64, gt=0)
    resamples: int = Field(1000, gt=0)
    output: Path = Path("runs/evaluate")

    def size(self, cases: int) -> int:
        """How many edits are in force at once."""
        _, _, n = self.protocol.partition(":")
        return 1 if not n else cases if n == "all" else int(n)
