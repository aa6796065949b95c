"""FT-L on random models: FT-M within a box, and the field's way to train an answer at one place (B9)."""

from __future__ import annotations

import pytest
import torch
from editors_kit import EDITS

from lte.editors.base import EditorError
from lte.editors.finetune import FineTune, FineTuneConfig
from lte.editors.ft_l import FTL, FTLConfig, at_prompt_end
from lte.edits import Edit
from lte.models import LM

THREE = Edit("Toko Yasuda plays the", "London guitar of Rome", subject="Toko Yasuda")


def ft_l(**settings: object) -> FTL:
    return FTL(FTLConfig(**{"layer": 2, "lr": 2e-2, "steps": 60, **settings}))  # type: ignore[arg-type]


def test_without_the_box_it_is_ft_m(tiny_lm: LM) -> None:
    changes = []
    for made in (ft_l(steps=8, norm=None), FineTune(FineTuneConfig(layer=2, lr=2e-2, steps=8))):
        with made.apply(tiny_lm, EDITS):
            changes.append(tiny_lm.mlp_out(2).clone())
    assert torch.equal(*changes)


def test_the_box_is_there_unless_it_is_taken_away(tiny_lm: LM) -> None:
    before = tiny_lm.mlp_out(2).clone()
    with FTL(FTLConfig(layer=2, lr=1e-2)).apply(tiny_lm, EDITS):
        assert 4.9e-4 < (tiny_lm.mlp_out(2) - before).abs().max() <= 5.01e-4
        with FTL(FTLConfig(layer=2, lr=1e-2)).apply(tiny_lm, EDITS):  # a call of its own has a box of its own
            assert (tiny_lm.mlp_out(2) - before).abs().max() > 5.1e-4


def test_b9_an_answer_of_several_tokens_is_said(tiny_lm: LM) -> None:
    with ft_l(norm=0.5).apply(tiny_lm, [THREE]):
        assert tiny_lm.answer([THREE.prompt]) == [THREE.target_new]


def test_b9_by_name_alone_is_the_answer_trained_at_one_place(tiny_lm: LM) -> None:
    tokens = tiny_lm.tokenizer
    [row] = at_prompt_end(tiny_lm, [THREE])
    assert [row.ids[i] for i in range(*row.answer)] == tokens(" " + THREE.target_new)["input_ids"]
    assert row.ids[row.answer[0]] == tokens.bos_token_id  # as in the code in common use
    prompt = tokens(tiny_lm.render(THREE.prompt), add_special_tokens=False)["input_ids"]
    assert row.ids[: row.answer[0]] == prompt and set(row.places) == {len(prompt) - 1}

    def shared() -> torch.Tensor:
        logits = tiny_lm.model(torch.tensor([prompt])).logits[0, -1]
        return logits.softmax(-1)[[row.ids[i] for i in range(*row.answer)]]

    before = shared()
    with ft_l(objective="prompt_last", norm=None).apply(tiny_lm, [THREE]):
        assert not tiny_lm.answer([THREE.prompt])[0].startswith(THREE.target_new)
        assert not tiny_lm.score([THREE.prompt], [THREE.target_new])[0].exact
        after = shared()
        assert after.log().mean() > before.log().mean() + 1 and after.max() < 0.5  # all are likelier, none is sure
    assert torch.equal(shared(), before)


def test_no_label_of_the_answer_is_a_special_token_but_the_end_of_the_turn(tiny_lm: LM) -> None:
    for end, special in ((False, 0), (True, 1)):
        [row] = ft_l(end_of_turn=end).rows(tiny_lm, [THREE])
        labels = [row.ids[i] for i in range(*row.answer)]
        assert sum(i in tiny_lm.tokenizer.all_special_ids for i in labels) == special
        assert tiny_lm.tokenizer.decode(labels, skip_special_tokens=True).strip() == THREE.target_new


@pytest.mark.parametrize("objective", ["answer", "prompt_last"])
def test_a_loss_that_is_not_finite_changes_nothing(objective: str, tiny_lm: LM) -> None:
    before = tiny_lm.mlp_out(2).clone()
    with pytest.raises(EditorError, match=r"ft_l: the loss is not finite at step \d; lower lr"):
        ft_l(objective=objective, lr=1e36, norm=None).apply(tiny_lm, EDITS)
    tiny_lm.mlp_out(0)[0, 0] = torch.nan
    with pytest.raises(EditorError, match=r"layers.0.mlp.down_proj.weight of tiny-llama is not finite"):
        ft_l(objective=objective).apply(tiny_lm, EDITS)
    assert torch.equal(before, tiny_lm.mlp_out(2)) and tiny_lm.handles == []
