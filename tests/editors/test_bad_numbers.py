"""What editors of weights do with statistics, weights and values that are not as they should be, and with twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input_kit import CLOZE, after, likelier, made, of_located, of_weights, refused
from editors_kit import CLOZES, EDITS, same
from tiny_models import tiny_model

from lte.editors import located
from lte.edits import Edit
from lte.models import LM

RANK_ONE = ["Rome"]  # a text of few tokens: fewer than a key has dimensions


@pytest.fixture(autouse=True)
def plain(tiny_lm: LM) -> None:
    """Asked in plain text: what ends in the subject can be steered even at random weights."""
    tiny_lm.chat = False


def other_model(lm: LM) -> LM:
    """Another model under the same name, of the same shape."""
    return LM.of(tiny_model("llama", lm.tokenizer, seed=5), lm.tokenizer, name=lm.name, chat=False)


@of_located
def test_statistics_of_another_model_are_never_taken(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    other = other_model(tiny_lm)
    after(made(name, other, tmp_path / "shared"), other, *EDITS)
    shared = after(made(name, tiny_lm, tmp_path / "shared"), tiny_lm, *EDITS)
    assert same(shared, after(made(name, tiny_lm, tmp_path / "own"), tiny_lm, *EDITS))


@of_located
def test_one_editor_serves_two_models_each_by_its_own_statistics(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    other = other_model(tiny_lm)
    editor = made(name, tiny_lm, tmp_path)
    after(editor, tiny_lm, CLOZE)
    assert same(after(editor, other, CLOZE), after(made(name, other, tmp_path), other, CLOZE))


@of_located
def test_a_singular_second_moment_is_ridged(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    settings = {"kl_weight": 0, "prefixes": 0}
    editor: Any = made(name, tiny_lm, tmp_path, **settings)
    editor.texts = RANK_ONE
    assert likelier(editor, tiny_lm, CLOZE)
    assert all(w.isfinite().all() for w in after(editor, tiny_lm, *EDITS, CLOZE).values())


@of_located
def test_a_second_moment_of_nothing_is_refused(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    for block in tiny_lm.blocks:
        block.mlp.gate_proj.weight.data.zero_()  # every key is 0
    refused(made(name, tiny_lm, tmp_path), tiny_lm, EDITS, "second moment.* is zero or not finite; take the statistics")


@of_located
def test_without_texts_it_says_which_to_name(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    editor: Any = made(name, tiny_lm, tmp_path)
    editor.texts = None
    refused(editor, tiny_lm, EDITS, "statistics.text.*name a .txt file")


@of_weights
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_weights_that_are_not_finite_are_refused(name: str, broken: int, tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.blocks[broken].self_attn.o_proj.weight.data[3, 4] = torch.nan
    refused(made(name, tiny_lm, tmp_path), tiny_lm, EDITS, "not finite.*load")


@of_located
def test_a_value_that_is_not_finite_is_refused(
    name: str, tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = located.value_changes

    def spoilt(*args: Any) -> torch.Tensor:
        found = search(*args)
        found[-1, 2] = torch.nan
        return found

    monkeypatch.setattr(located, "value_changes", spoilt)
    refused(made(name, tiny_lm, tmp_path), tiny_lm, EDITS, "not finite.*lower")


@of_weights
def test_a_search_that_runs_away_is_refused(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.half()  # whose largest number is 65504
    settings = {"v_lr": 1e6, "clamp": 1e6, "lr": 1e6, "norm": None, "weight": 1e-9, "l2": 1e-9}
    refused(made(name, tiny_lm, tmp_path, **settings), tiny_lm, CLOZES, "lower")


@of_weights
def test_of_edits_with_one_prompt_the_last_counts(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    """A batch is as if its edits were made in turn, and so it is where they contradict each other."""
    first = Edit(CLOZE.prompt, "France", subject=CLOZE.subject)
    settings = {"prefixes": 0, "kl_weight": 0, "v_steps": 25, "steps": 25, "norm": None, "clamp": 20, "weight": 1e-3}
    editor = made(name, tiny_lm, tmp_path, **settings)
    with editor.apply(tiny_lm, [first, CLOZE]):
        a, b = tiny_lm.score([CLOZE.prompt] * 2, [first.target_new, CLOZE.target_new])
    assert b.logprob > a.logprob
    with editor.apply(tiny_lm, [CLOZE, first]):
        a, b = tiny_lm.score([CLOZE.prompt] * 2, [first.target_new, CLOZE.target_new])
    assert a.logprob > b.logprob
