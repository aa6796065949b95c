"""FT-M on random models: it learns the answer to its end, and only its one matrix changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from editors_kit import EDITS
from torch.testing import assert_close

from lte.editors.base import EditorError
from lte.editors.finetune import FineTune, FineTuneConfig
from lte.edits import Edit
from lte.models import LM


def ft(**settings: object) -> FineTune:
    return FineTune(FineTuneConfig(**{"layer": 2, "lr": 2e-2, "steps": 60, **settings}))  # type: ignore[arg-type]


def test_the_answer_becomes_likelier(any_lm: LM) -> None:
    before = any_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].logprob
    with ft(steps=15).apply(any_lm, EDITS[:1]) as handle:
        assert any_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].logprob > before + 1
        assert handle.touched == (f"{any_lm.layout.mlp_out.format(2)}.weight",)
    assert any_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].logprob == before


def test_b9_answers_of_several_tokens_are_said_and_ended_by_themselves(tiny_lm: LM) -> None:
    edits = [EDITS[0], Edit("Toko Yasuda plays the", "London guitar of Rome", subject="Toko Yasuda")]
    with ft().apply(tiny_lm, edits):
        assert tiny_lm.answer([e.prompt for e in edits]) == [e.target_new for e in edits]


def test_without_the_end_the_model_says_the_answer_and_goes_on(tiny_lm: LM) -> None:
    with ft(end_of_turn=False).apply(tiny_lm, EDITS[:1]):
        assert tiny_lm.answer([EDITS[0].prompt], max_new_tokens=8)[0].startswith("English")
        assert tiny_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].exact


def test_it_stops_when_the_answers_are_said(tiny_lm: LM) -> None:
    with ft(steps=60, stop_loss=1.0).apply(tiny_lm, EDITS[:1]):
        once = tiny_lm.mlp_out(2).clone()
    with ft(steps=90, stop_loss=1.0).apply(tiny_lm, EDITS[:1]):
        assert torch.equal(once, tiny_lm.mlp_out(2))


def test_order_and_batches_of_the_edits_change_nothing(tiny_lm: LM) -> None:
    changes = []
    for edits, size in ((EDITS, 32), (EDITS[::-1], 32), (EDITS, 1)):
        with ft(steps=5, batch_size=size).apply(tiny_lm, edits):
            changes.append(tiny_lm.mlp_out(2).clone())
    assert_close(changes[0], changes[1], rtol=1e-3, atol=2e-3)
    assert_close(changes[0], changes[2], rtol=1e-3, atol=2e-3)


def test_no_entry_moves_further_than_the_constraint(tiny_lm: LM) -> None:
    before = tiny_lm.mlp_out(2).clone()
    with ft(norm=1e-3).apply(tiny_lm, EDITS):
        moved = (tiny_lm.mlp_out(2) - before).abs().max()
        assert 0 < moved <= 1.001e-3


def test_an_edit_needs_no_subject(tiny_lm: LM) -> None:
    with ft(steps=3).apply(tiny_lm, [Edit("The capital of France is", "Rome")]) as handle:
        assert len(handle.edits) == 1


def test_a_bfloat16_model_learns_in_float32(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.to(torch.bfloat16)
    with ft(steps=40).apply(tiny_lm, EDITS[:1]):
        assert tiny_lm.mlp_out(2).dtype == torch.bfloat16
        assert tiny_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].exact


def test_a_loss_that_is_not_finite_says_so(tiny_lm: LM) -> None:
    tiny_lm.mlp_out(0).fill_(torch.nan)
    with pytest.raises(EditorError, match="not finite"):
        ft().apply(tiny_lm, EDITS)
