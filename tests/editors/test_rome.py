"""ROME on random models: it stores the pair, at one key, with a real covariance, and harms nothing it should not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from editors_kit import EDITS, TEXTS, make, same, state
from torch.testing import assert_close

from lte.editors import located
from lte.editors import rome as room
from lte.editors.base import EditorError
from lte.editors.rome import Rome, RomeConfig
from lte.editors.statistics import StatisticsConfig, second_moments
from lte.edits import Edit
from lte.models import LM

CLOZE = Edit("Where was Edwin of Northumbria", "London", subject="Edwin of Northumbria")


def rome(cache: Path, texts: list[str] = TEXTS, **settings: object) -> Rome:
    chosen = {"layer": 1, "prefixes": 2, "prefix_length": 3, "v_steps": 6, **settings}
    return Rome(RomeConfig(**chosen, statistics=StatisticsConfig(cache=cache)), texts)  # type: ignore[arg-type]


def test_the_answer_becomes_likelier(any_lm: LM, tmp_path: Path) -> None:
    any_lm.chat = False  # the subject ends the prompt: on a random model little else can be steered
    made = rome(tmp_path, layer=2, prefixes=0, v_steps=25, kl_weight=0, clamp=20)
    before = any_lm.score([CLOZE.prompt], [CLOZE.target_new])[0].logprob
    with made.apply(any_lm, [CLOZE]) as handle:
        assert any_lm.score([CLOZE.prompt], [CLOZE.target_new])[0].logprob > before + 1
        assert [tuple(any_lm.model.get_parameter(n).shape) for n in handle.touched]
    assert any_lm.score([CLOZE.prompt], [CLOZE.target_new])[0].logprob == before


def test_b1_the_pair_is_stored_at_the_key_it_was_computed_for(any_lm: LM, tmp_path: Path) -> None:
    made = rome(tmp_path)
    W = any_lm.mlp_out(1).double()
    key, bare, delta = made.pair(any_lm, EDITS[0], 1, made.prepare(any_lm))
    v = W @ bare + delta
    with made.apply(any_lm, EDITS[:1]):
        assert (any_lm.mlp_out(1).double() @ key - v).norm() / v.norm() < 1e-5


def test_b1_subjects_that_open_the_prompt_change_the_weight_no_more_than_others(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.chat = False
    made = rome(tmp_path, v_lr=0.1)  # steps of one size, so that only the key decides
    before = tiny_lm.mlp_out(1).clone()
    for name in ("Toko", "Edwin", "Danielle Darrieux", "Rome", "I", "2", "Ω"):
        with made.apply(tiny_lm, [Edit(f"{name} was born in", "Paris", subject=name)]):
            assert (tiny_lm.mlp_out(1) - before).norm() / before.norm() < 3


def test_the_original_key_is_the_papers_mismatch(tiny_lm: LM, tmp_path: Path) -> None:
    W = tiny_lm.mlp_out(1).double()
    made = rome(tmp_path, key="original")
    _, bare, delta = made.pair(tiny_lm, EDITS[0], 1, made.prepare(tiny_lm))
    with made.apply(tiny_lm, EDITS[:1]):
        assert_close(tiny_lm.mlp_out(1).double() @ bare, W @ bare + delta, rtol=1e-4, atol=1e-4)


def test_b2_the_covariance_protects_ordinary_keys(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    C = second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path), TEXTS)[1]

    def drift() -> torch.Tensor:
        before = tiny_lm.mlp_out(1).clone()
        with rome(tmp_path).apply(tiny_lm, EDITS[:1]):
            change = (tiny_lm.mlp_out(1) - before).double()
        return (change @ C @ change.T).trace()

    guarded = drift()
    monkeypatch.setattr(located, "second_moments", lambda lm, layers, *_: {n: torch.eye(len(C)) for n in layers})
    assert guarded < drift()


def test_b2_there_is_no_rome_without_statistics(tiny_lm: LM) -> None:
    before = state(tiny_lm)
    with pytest.raises(EditorError, match=r"statistics\.text"):
        Rome(RomeConfig(layer=1)).apply(tiny_lm, EDITS)
    assert same(before, state(tiny_lm))


def test_later_edits_see_the_weights_the_earlier_left(tiny_lm: LM, tmp_path: Path) -> None:
    made = rome(tmp_path)
    with made.apply(tiny_lm, EDITS):
        at_once = state(tiny_lm)
    with made.apply(tiny_lm, EDITS[:1]), made.apply(tiny_lm, EDITS[1:]):
        in_turn = state(tiny_lm)
    for name, weight in at_once.items():
        assert_close(weight, in_turn[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit("The capital of France is", "Rome", subject="Paris"), "does not hold the subject 'Paris'"),
        (Edit("The capital of France is", "Rome"), "names no subject"),
    ],
)
def test_an_edit_without_its_subject_changes_nothing(tiny_lm: LM, tmp_path: Path, edit: Edit, said: str) -> None:
    before = state(tiny_lm)
    with pytest.raises(EditorError, match=said):
        make("rome", tiny_lm, tmp_path).apply(tiny_lm, [EDITS[0], edit])
    assert same(before, state(tiny_lm)) and tiny_lm.handles == []


def test_an_edit_that_fails_takes_back_those_before_it(
    tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    solve = room.rank_one_update

    def fails_at_the_second(*args: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise EditorError("the second fails")
        return solve(*args)

    monkeypatch.setattr(room, "rank_one_update", fails_at_the_second)
    before = state(tiny_lm)
    with pytest.raises(EditorError, match="the second fails"):
        rome(tmp_path).apply(tiny_lm, EDITS)
    assert len(calls) == 2 and same(before, state(tiny_lm))


def test_the_statistics_of_an_edited_model_are_warned_of(
    tiny_lm: LM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = rome(tmp_path)
    made.prepare(tiny_lm)
    with make("ft_m", tiny_lm, tmp_path).apply(tiny_lm, EDITS):
        made.apply(tiny_lm, EDITS[:1]).undo()
        assert "edited already" not in caplog.text  # it was prepared before
        rome(tmp_path).apply(tiny_lm, EDITS[:1]).undo()
        assert "edited already" in caplog.text


def test_bfloat16_weights_are_edited_and_restored(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.to(torch.bfloat16)
    before = state(tiny_lm)
    with rome(tmp_path).apply(tiny_lm, EDITS):
        now = state(tiny_lm)
        assert not same(before, now) and all(w.dtype == torch.bfloat16 for w in now.values())
    assert same(before, state(tiny_lm))
