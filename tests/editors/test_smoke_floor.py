"""B22: whatever is shipped for the pocket model edits it: no editor of weights is there by its name alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lte.editors import EDITORS, editor_from
from lte.edits import read_cases
from lte.models import LM, load_model
from lte.pocket import home

FOLDER = Path(__file__).parents[2] / "configs" / "editors" / "pocket"
IN_PROMPT = ("lte", "ice")
FLOOR = 7  # of ten edits at once; seen: 10 for those that train, 8 for rome


@pytest.fixture(scope="module")
def pocket() -> LM:
    """The bundled model."""
    return load_model("pocket", device="cpu")


@pytest.mark.parametrize("name", [n for n in EDITORS if n not in IN_PROMPT and (FOLDER / f"{n}.yaml").exists()])
def test_b22_ten_edits_are_said(name: str, pocket: LM) -> None:
    cases = random.Random(0).sample(read_cases(home() / "align.jsonl"), 10)
    prompts, wanted = [c.edit.prompt for c in cases], [c.edit.target_new for c in cases]

    def said() -> int:
        return sum(answer == target for answer, target in zip(pocket.answer(prompts), wanted, strict=True))

    assert said() == 0
    with editor_from(FOLDER / f"{name}.yaml").apply(pocket, [c.edit for c in cases]):
        assert said() >= FLOOR
    assert said() == 0
