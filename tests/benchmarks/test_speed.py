"""How long things take: `make bench`. In the suite each runs once, as a test that it works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lte.config import shipped
from lte.editors import editor
from lte.edits import Edit, read_cases
from lte.memory import EditMemory, MemoryConfig
from lte.models import LM, load_model
from lte.pocket import home

EDITS = 10_000


class Stub:
    """Random unit vectors, a text always the same one: what is timed is the memory, not an encoder."""

    id, dim = "stub", 384

    def encode(self, texts: list[str]) -> np.ndarray:
        """One row a text."""
        rows = [np.random.default_rng(abs(hash(t))).standard_normal(self.dim, dtype=np.float32) for t in texts]
        return np.stack([r / np.linalg.norm(r) for r in rows])


@pytest.fixture(scope="module")
def memory() -> EditMemory:
    held = EditMemory.open(config=MemoryConfig(mention_threshold=-1), encoder=Stub())  # random vectors are far apart
    held.add_many([Edit(f"The mother tongue of Person{i} is", "English", f"Person{i}") for i in range(EDITS)])
    return held


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_model("pocket", device="cpu")


def test_recall_among_ten_thousand_edits(benchmark: Callable, memory: EditMemory):
    [first, *_] = benchmark(memory.recall, "What is the mother tongue of Person77?")
    assert first.edit.subject == "Person77"


def test_write_of_one_edit(benchmark: Callable, tmp_path: Path):
    numbers = iter(range(10**9))
    with EditMemory.open(tmp_path / "memory.db", encoder=Stub()) as held:
        made = benchmark(lambda: held.add(Edit(f"The capital of Land{next(numbers)} is", "Lima")))
        assert held.get(str(made.id)) == made


def test_answers_of_the_pocket_model(benchmark: Callable, lm: LM):
    cases = read_cases(home() / "cases.jsonl")[:64]
    answers = benchmark(lm.answer, [c.edit.prompt for c in cases])
    assert sum(a == c.edit.target_true for a, c in zip(answers, cases, strict=True)) >= 0.95 * len(cases)


@pytest.mark.parametrize("name", ["ft_m", "rome"])
def test_one_edit_into_the_weights(benchmark: Callable, lm: LM, name: str):
    method = editor(name, shipped(f"editors/pocket/{name}.yaml"))
    [case] = read_cases(home() / "cases.jsonl")[:1]
    method.apply(lm, [case.edit]).undo()  # statistics and prefixes are taken once

    asked = [case.edit.prompt], [case.edit.target_new]
    [before] = lm.score(*asked)

    def write() -> float:
        with method.apply(lm, [case.edit]):
            return lm.score(*asked)[0].logprob

    assert benchmark(write) > before.logprob
