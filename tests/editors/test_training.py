"""What the training editors share, on random models: the trunk is kept and changes nothing, steps end when told."""

from __future__ import annotations

import pytest
import torch
from editors_kit import EDITS
from torch import Tensor
from torch.testing import assert_close

from lte.editors.activations import look
from lte.editors.base import EditorError
from lte.editors.contexts import answer_loss, answer_rows
from lte.editors.training import apart, descend, joined, losses_of, parts_of, together
from lte.edits import Edit
from lte.models import LM

SHORT = Edit("In Rome", "Lyon")


def target(at: Tensor, say: float = 1.0) -> object:
    """Losses of rows that each want the weight at `say`."""

    def losses(part: object) -> tuple[Tensor, Tensor]:
        loss = (at - say).square().sum().expand(len(part))  # type: ignore[arg-type]
        return loss, torch.ones(len(part), dtype=torch.bool)  # type: ignore[arg-type]

    return losses


@pytest.mark.parametrize("lowest", [0, 2])
def test_losses_from_the_kept_trunk_are_those_of_the_whole_model(lowest: int, any_lm: LM) -> None:
    rows = answer_rows(any_lm, [*EDITS, SHORT], subject=False, end=True)
    losses = losses_of(any_lm, lowest, rows, batch_size=2)
    for part in ([0, 1, 2], [2, 0], [1]):
        found, hits = losses(part)
        for i, loss, hit in zip(part, found, hits):
            logits = any_lm.model(torch.tensor([rows[i].ids])).logits[0, rows[i].places]
            wanted, said = answer_loss([rows[i]], logits)
            assert_close(loss, wanted[0], rtol=1e-4, atol=1e-4)
            assert hit == said[0]


def test_changes_of_several_layers_count_as_if_they_were_written(any_lm: LM) -> None:
    rows = answer_rows(any_lm, EDITS, subject=False)
    generator = torch.Generator().manual_seed(0)
    deltas = {i: 0.05 * torch.randn(any_lm.mlp_out(i).shape, generator=generator) for i in (1, 2)}
    plain = losses_of(any_lm, 1, rows, 8)([0, 1])[0]
    changed = losses_of(any_lm, 1, rows, 8, deltas)([0, 1])[0]
    for i, delta in deltas.items():
        any_lm.mlp_out(i).add_(delta)
    assert_close(losses_of(any_lm, 0, rows, 8)([0, 1])[0], changed, rtol=1e-4, atol=1e-4)
    assert (changed - plain).abs().min() > 1e-3


def test_rows_apart_and_joined_are_what_was_seen(tiny_lm: LM) -> None:
    rows = answer_rows(tiny_lm, [*EDITS, SHORT], subject=False)
    seen = look(tiny_lm, 1, [r.ids for r in rows], [r.places for r in rows])
    again = joined(apart(seen))
    mask = seen.forward["attention_mask"].bool()
    assert not mask.all()  # some row is padded
    assert again.places == seen.places and torch.equal(again.forward["attention_mask"], seen.forward["attention_mask"])
    assert torch.equal(again.forward["input_ids"][mask], seen.forward["input_ids"][mask])
    assert isinstance(again.below, Tensor) and isinstance(seen.below, Tensor)
    assert torch.equal(again.below[mask], seen.below[mask])
    assert [len(one.forward["input_ids"][0]) for one in apart(seen)] == mask.sum(1).tolist()


def test_a_step_of_several_forwards_has_the_gradient_of_all_its_rows() -> None:
    x = torch.tensor([1.0, 2.0, 6.0])
    ends = []
    for size in (3, 2, 1):
        at = torch.zeros(1, requires_grad=True)
        descend(
            "kind",
            [at],
            together(3, size, 5),
            lambda part, at=at: ((at - x[list(part)]).square(), torch.zeros(len(part), dtype=torch.bool)),  # type: ignore[misc]
            lr=0.1,
            stop_loss=0,
        )
        ends.append(at.detach())
    assert_close(ends[0], ends[1])
    assert_close(ends[0], ends[2])
    assert ends[0] > 0.4


def test_training_ends_when_every_row_is_done_and_the_box_holds() -> None:
    at = torch.zeros(1, requires_grad=True)
    asked: list[int] = []
    inner = target(at)

    def losses(part: object) -> tuple[Tensor, Tensor]:
        asked.append(1)
        return inner(part)  # type: ignore[no-any-return, operator]

    descend("kind", [at], together(2, 2, 500), losses, lr=0.1, stop_loss=1e-2)
    assert len(asked) < 100 and (at - 1).abs() < 0.1
    boxed = torch.zeros(1, requires_grad=True)
    descend("kind", [boxed], together(2, 2, 50), target(boxed), lr=0.1, stop_loss=1e-2, box=0.25)  # type: ignore[arg-type]
    assert boxed.item() == 0.25


def test_a_loss_that_is_not_finite_ends_it() -> None:
    at = torch.zeros(1, requires_grad=True)
    with pytest.raises(EditorError, match=r"kind: the loss is not finite at step 0; lower lr \(now 0.1\)"):
        descend("kind", [at], together(1, 1, 3), target(at, float("nan")), lr=0.1, stop_loss=0)  # type: ignore[arg-type]


def test_parts_hold_every_row_once() -> None:
    assert parts_of(range(5), 2) == [range(0, 2), range(2, 4), range(4, 5)]
    assert [list(map(list, step)) for epoch in together(3, 2, 2) for step in epoch] == [[[0, 1], [2]]] * 2
