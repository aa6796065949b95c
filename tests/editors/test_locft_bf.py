"""LocFT-BF on random models: epochs of shuffled mini-batches over one layer or several."""

from __future__ import annotations

import pytest
import torch
from editors_kit import EDITS, same, state
from pydantic import ValidationError

from lte.editors.base import EditorError
from lte.editors.locft_bf import LocFT, LocFTConfig
from lte.edits import Edit
from lte.models import LM

MORE = [*EDITS, Edit("The capital of France is", "Lyon in London guitar"), Edit("Edwin was born in", "Rome")]


def locft(**settings: object) -> LocFT:
    return LocFT(LocFTConfig(**{"layers": [2], "lr": 5e-2, "epochs": 60, "batch_size": 2, **settings}))  # type: ignore[arg-type]


def test_an_epoch_holds_every_edit_once_in_an_order_of_its_own() -> None:
    epochs = list(locft(epochs=4, batch_size=3).epochs(8))
    assert [[[len(part) for part in step] for step in epoch] for epoch in epochs] == [[[3], [3], [2]]] * 4
    orders = [[i for step in epoch for part in step for i in part] for epoch in epochs]
    assert all(sorted(order) == list(range(8)) for order in orders) and len(set(map(tuple, orders))) == 4
    assert epochs == list(locft(epochs=4, batch_size=3).epochs(8))
    assert epochs != list(locft(epochs=4, batch_size=3, seed=1).epochs(8))


@pytest.mark.parametrize("layers", [[2], [1, 2]])
def test_b9_answers_of_several_tokens_are_said_and_ended_by_themselves(layers: list[int], tiny_lm: LM) -> None:
    with locft(layers=layers, lr=0.05 / len(layers)).apply(tiny_lm, MORE) as handle:
        assert tiny_lm.answer([e.prompt for e in MORE]) == [e.target_new for e in MORE]
        assert handle.touched == tuple(f"{tiny_lm.layout.mlp_out.format(i)}.weight" for i in layers) and handle.plain


def test_the_seed_decides_the_order_and_with_it_the_change(tiny_lm: LM) -> None:
    changes = []
    for seed in (0, 0, 1):
        with locft(epochs=3, seed=seed).apply(tiny_lm, MORE):
            changes.append(tiny_lm.mlp_out(2).clone())
    assert torch.equal(changes[0], changes[1]) and not torch.equal(changes[0], changes[2])


def test_it_ends_with_the_epoch_that_finds_all_edits_done(tiny_lm: LM) -> None:
    changes = []
    for epochs in (60, 80):
        with locft(epochs=epochs, stop_loss=0.5).apply(tiny_lm, MORE):
            changes.append(tiny_lm.mlp_out(2).clone())
    with locft(epochs=2, stop_loss=0.5).apply(tiny_lm, MORE):
        changes.append(tiny_lm.mlp_out(2).clone())
    assert torch.equal(changes[0], changes[1]) and not torch.equal(changes[0], changes[2])


def test_bfloat16_weights_learn_in_float32(tiny_lm: LM) -> None:
    tiny_lm.model.to(torch.bfloat16)
    with locft().apply(tiny_lm, MORE) as handle:
        [W] = handle.rewrites.values()
        assert W.weight.dtype == torch.bfloat16 and torch.equal(W.weight, W.exact.bfloat16())
        assert all(s.exact for s in tiny_lm.score([e.prompt for e in MORE], [e.target_new for e in MORE]))


def test_a_loss_that_is_not_finite_changes_nothing(tiny_lm: LM) -> None:
    before = state(tiny_lm)
    with pytest.raises(EditorError, match=r"locft_bf: the loss is not finite at step \d"):
        locft(layers=[1, 2], lr=1e36).apply(tiny_lm, MORE)
    assert same(before, state(tiny_lm)) and tiny_lm.handles == []


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1], [-1]])
def test_layers_stand_in_rising_order(layers: list[int]) -> None:
    with pytest.raises(ValidationError, match="rising order"):
        locft(layers=layers)
