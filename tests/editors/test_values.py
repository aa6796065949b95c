"""The value search: its loss, its gradient, its batches, its stops."""

from __future__ import annotations

import pytest
import torch
from editors_kit import CLOZES, EDITS
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lte.editors import values
from lte.editors.activations import logits_from, look
from lte.editors.base import EditorError
from lte.editors.contexts import Row, answer_loss, answer_rows, drift_rows
from lte.editors.values import ValueConfig, look_at_subjects, value_changes
from lte.edits import Edit
from lte.models import LM

PREFIXES = ["The capital", "Because it is so, they say"]
CLOZE = Edit("Where was Edwin", "Rome", subject="Edwin")


def rows_of(lm: LM, *edits: Edit) -> list[Row]:
    return answer_rows(lm, edits, PREFIXES) + drift_rows(lm, edits)


def changes(lm: LM, layer: int, edits: list[Edit], config: ValueConfig) -> torch.Tensor:
    rows = rows_of(lm, *edits)
    return value_changes(lm, layer, rows, look_at_subjects(lm, layer, rows), config)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_from_the_subject_on_is_the_same_as_the_whole(any_lm: LM, layer: int) -> None:  # B18, B19, B20
    rows = rows_of(any_lm, *EDITS)
    ids, places = [r.ids for r in rows], [r.places for r in rows]
    delta = torch.randn(any_lm.hidden_size)
    subjects = torch.tensor([r.subject for r in rows])

    def whole(key: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.index_put((torch.arange(len(rows)), subjects), delta, accumulate=True)

    def from_subject(key: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return torch.cat([out[:, :1] + delta, out[:, 1:]], 1)

    a = logits_from(any_lm, layer, look(any_lm, layer, ids, places), whole)
    seen = look(any_lm, layer, ids, places, subjects.tolist())
    b = logits_from(any_lm, layer, seen, from_subject)
    assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert torch.equal(b, logits_from(any_lm, layer, seen, from_subject))  # the cache is branched, not grown
    some = [3, 0, 5]
    part = torch.cat([b.split([len(p) for p in places])[i] for i in some])
    assert_close(logits_from(any_lm, layer, seen.only(some), from_subject), part, rtol=1e-3, atol=1e-3)


def test_unchanged_it_is_what_the_model_says(any_lm: LM) -> None:
    rows = rows_of(any_lm, EDITS[0])
    seen = look_at_subjects(any_lm, 1, rows)
    parts = logits_from(any_lm, 1, seen, lambda key, out: out).split([len(r.places) for r in rows])
    for row, logits in zip(rows, parts):
        assert_close(any_lm.model(torch.tensor([row.ids])).logits[0, row.places], logits, rtol=1e-3, atol=1e-3)


def test_b18_the_gradient_is_that_of_finite_differences(tiny_lm: LM) -> None:
    tiny_lm.model.double()
    rows = rows_of(tiny_lm, EDITS[0])
    seen = look_at_subjects(tiny_lm, 1, rows)

    def loss(delta: torch.Tensor) -> torch.Tensor:
        logits = values._logits(tiny_lm, 1, [0] * len(rows), seen, delta)
        return values._loss(rows, range(len(rows)), logits, {}, [0], ValueConfig(kl_weight=0))[0].sum()

    delta = torch.zeros(1, tiny_lm.hidden_size, dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(loss(delta), [delta])
    step = torch.zeros_like(delta)
    for i in (0, 7, 31):
        step.zero_()
        step[0, i] = 0.02
        with torch.no_grad():
            slope = (loss(delta + step) - loss(delta - step)) / 0.04  # the loss itself is taken in float32
        assert_close(gradient[0, i].float(), slope, rtol=0.05, atol=1e-3)


LONG = Edit("I think, because it is so, that in the capital of France", "a guitar", subject="France")


@pytest.mark.parametrize("stop", ["none", "loss", "argmax"])
def test_edits_in_a_batch_are_as_if_alone(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch, stop: str) -> None:
    tiny_lm.chat = False
    edits = [LONG, *CLOZES, CLOZE]
    settings = {"none": {"stop_loss": 0.0}, "loss": {"stop": "loss", "stop_loss": 3.0}, "argmax": {"stop": "argmax"}}
    config = ValueConfig(v_steps=30, v_lr=0.5, clamp=20, **settings[stop])  # type: ignore[arg-type]
    sizes: list[int] = []
    forward = values.logits_from
    monkeypatch.setattr(values, "logits_from", lambda *a: (sizes.append(len(a[2].inputs)), forward(*a))[1])
    together = changes(tiny_lm, 2, edits, config)
    if stop == "none":
        assert sizes == [16] * 30  # three contexts and a drift row each
    else:
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2  # they stopped at different steps
    for i, edit in enumerate(edits):
        alone = changes(tiny_lm, 2, [edit], config)[0]
        assert float((together[i] - alone).norm()) <= 1e-4 * float(alone.norm())


def test_an_edit_that_is_done_leaves_the_batch(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_lm.chat = False
    sizes: list[int] = []
    forward = values.logits_from

    def counted(lm: LM, layer: int, seen: object, change: object) -> torch.Tensor:
        sizes.append(len(seen.inputs))  # type: ignore[attr-defined]
        return forward(lm, layer, seen, change)  # type: ignore[arg-type]

    monkeypatch.setattr(values, "logits_from", counted)
    said = tiny_lm.answer(["Where was Edwin"], max_new_tokens=1)[0]
    config = ValueConfig(v_steps=4, v_lr=0.01, kl_weight=0, stop_loss=50.0)
    known = Edit("Where was Edwin", said or "Rome", subject="Edwin")
    rows = answer_rows(tiny_lm, [known, EDITS[0]])
    delta = value_changes(tiny_lm, 1, rows, look_at_subjects(tiny_lm, 1, rows), config)
    assert sizes == [2, 1, 1, 1]
    assert not delta[0].any() and delta[1].any()  # stopped before the first step; the last forward takes none


def test_a_search_stops_by_argmax_by_loss_or_by_both(tiny_lm: LM) -> None:
    tiny_lm.chat = False
    rows = answer_rows(tiny_lm, [CLOZE])
    seen = look_at_subjects(tiny_lm, 2, rows)

    def found(**settings: object) -> tuple[float, bool]:
        chosen = {"v_steps": 60, "v_lr": 0.5, "clamp": 20, "kl_weight": 0, "v_decay": 0, **settings}
        delta = value_changes(tiny_lm, 2, rows, seen, ValueConfig(**chosen))  # type: ignore[arg-type]
        loss, hit = answer_loss(rows, values._logits(tiny_lm, 2, [0], seen, delta))
        return loss.item(), bool(hit)

    first = found(v_steps=1)
    early, late = found(stop="argmax"), found(stop="both", stop_loss=1.0)
    assert not first[1] and early[1] and late[1]
    assert late[0] < 1.0 < early[0] < first[0]
    low, hit = found(stop="loss", stop_loss=first[0] - 0.5)
    assert early[0] < low < first[0] - 0.5 and not hit  # less likely than another token still


def test_delta_is_clamped(tiny_lm: LM) -> None:
    rows = rows_of(tiny_lm, EDITS[0])
    seen = look_at_subjects(tiny_lm, 1, rows)
    [delta] = value_changes(tiny_lm, 1, rows, seen, ValueConfig(v_steps=4, v_lr=5.0, clamp=0.3))
    assert delta.norm() <= 0.3 * seen.outputs[0, 0].norm() * (1 + 1e-5)


def test_delta_is_clamped_by_the_block_where_that_is_asked(tiny_lm: LM) -> None:
    rows = rows_of(tiny_lm, EDITS[0])
    seen = look_at_subjects(tiny_lm, 1, rows)
    stream = torch.full((1, tiny_lm.hidden_size), 7.0)
    config = ValueConfig(v_steps=4, v_lr=50.0, clamp=0.3)
    [delta] = value_changes(tiny_lm, 1, rows, seen, config, stream)
    assert float(delta.norm()) == pytest.approx(0.3 * float(stream.norm()), rel=1e-4)


@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_an_anchored_value_keeps_its_direction(seed: int, norm: float) -> None:
    g = torch.Generator().manual_seed(seed)
    first, delta = (torch.randn(3, 8, generator=g, dtype=torch.float64) for _ in range(2))
    v, anchored = first + delta, first + values.anchored(first, delta, norm)
    assert_close(anchored.norm(dim=1), torch.full((3,), norm, dtype=torch.float64))
    assert_close(anchored / norm, v / v.norm(dim=1, keepdim=True))


def test_the_value_makes_the_model_say_the_answer(tiny_lm: LM) -> None:
    tiny_lm.chat = False  # the subject ends the prompt: what stands there is what is said next
    edit = Edit("Where was Edwin", "guitar", subject="Edwin")
    rows = answer_rows(tiny_lm, [edit])
    seen = look_at_subjects(tiny_lm, 2, rows)
    [delta] = value_changes(tiny_lm, 2, rows, seen, ValueConfig(v_steps=60, v_lr=0.5, clamp=20, kl_weight=0))
    logits = values._logits(tiny_lm, 2, [0], seen, delta[None])
    assert logits.argmax(-1).tolist() == rows[0].ids[slice(*rows[0].answer)]


def test_kl_keeps_what_the_subject_is(tiny_lm: LM) -> None:
    def drift(weight: float) -> float:
        rows = rows_of(tiny_lm, EDITS[0])
        seen = look_at_subjects(tiny_lm, 1, rows)
        config = ValueConfig(v_steps=12, v_lr=0.3, kl_weight=weight)
        delta = value_changes(tiny_lm, 1, rows, seen, config).detach()
        seen, n = seen.only([len(rows) - 1]), 1
        before = values._logits(tiny_lm, 1, [0] * n, seen, 0 * delta).detach().log_softmax(-1)
        after = values._logits(tiny_lm, 1, [0] * n, seen, delta).detach().log_softmax(-1)
        return float((before.exp() * (before - after)).sum())

    assert drift(10.0) < drift(0.0)


def test_a_search_that_diverges_says_so(tiny_lm: LM) -> None:
    tiny_lm.mlp_out(2).fill_(1e38)  # finite, but not what it is multiplied with
    with pytest.raises(EditorError, match="diverged at step 0; lower v_lr"):
        changes(tiny_lm, 1, EDITS[:1], ValueConfig())
    tiny_lm.mlp_out(2).fill_(torch.nan)
    with pytest.raises(EditorError, match=r"layers\.2\.mlp\.down_proj\.weight of tiny-llama is not finite"):
        changes(tiny_lm, 1, EDITS[:1], ValueConfig())
