"""UltraEdit: its closed form on random matrices, its keys and gradients on random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from editors_kit import CLOZES, EDITS, make, same, state
from torch import Tensor, nn
from torch.testing import assert_close

from lte.config import ConfigError
from lte.editors import editor
from lte.editors.base import EditorError, remembered
from lte.editors.contexts import answer_loss, answer_rows
from lte.editors.ultraedit import EPS, UltraEdit, keys_and_gradients, normalised, sums, ultra_update
from lte.edits import Edit
from lte.models import LM, Trace
from lte.models.layout import features

OUT, IN = 5, 12


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 4, 30])  # tokens: fewer and more than the matrix has inputs
def test_the_change_is_the_papers(n: int) -> None:
    torch.manual_seed(n)
    W, H, G, earlier, lr = random(OUT, IN), random(n, IN), random(n, OUT), random(6, IN + OUT), 0.1
    z = torch.cat([torch.cat([H, G], 1), earlier])
    hat = ((z - z.mean(0)) / (z.std(0) + EPS))[:n]
    V = torch.stack([-lr * hat[i, :IN].square().sum() * hat[i, IN:] for i in range(n)])
    paper = torch.linalg.solve(H.T @ H + torch.eye(IN, dtype=torch.float64), H.T @ V)
    known = sums(z[:n]) + sums(z[n:])
    assert_close(ultra_update(W, H, G, known, lr), paper.T, rtol=1e-9, atol=1e-11)


def test_sums_of_batches_are_the_sums_of_all() -> None:
    torch.manual_seed(0)
    x = 1e3 + 1e-3 * random(40, 7)  # far from zero, little spread
    known = sums(x[:1]) + sums(x[1:30]) + sums(x[30:])
    assert_close(normalised(x, known), (x - x.mean(0)) / (x.std(0) + EPS), rtol=1e-3, atol=1e-3)
    assert_close(normalised(-x[:1], sums(-x[:1])), -torch.ones(1, 7, dtype=torch.float64))


def test_a_feature_that_never_changes_asks_for_nothing() -> None:
    torch.manual_seed(0)
    H, G = random(9, IN), random(9, OUT)
    G[:, 2] = 0.5
    delta = ultra_update(random(OUT, IN), H, G, sums(torch.cat([H, G], 1)), 0.1)
    assert float(delta[2].abs().max()) < 1e-6 < 1e-2 < float(delta[1].abs().max())


def test_keys_and_gradients_are_seen_where_answers_are_predicted(any_lm: LM) -> None:
    rows = answer_rows(any_lm, EDITS, subject=False)
    paths = UltraEdit().paths(any_lm)
    pairs = keys_and_gradients(any_lm, paths, rows, batch_size=2)
    again = keys_and_gradients(any_lm, paths, rows, batch_size=1)  # no edit depends on those beside it
    for path, pair in pairs.items():
        assert all(float((a - b).norm() / b.norm()) < 1e-4 for a, b in zip(again[path], pair, strict=True))
    with Trace(any_lm.model.get_submodule(paths[-1])) as trace, torch.no_grad():
        any_lm.model(torch.tensor([rows[1].ids]))
    assert_close(
        pairs[paths[-1]][0][-len(rows[1].places) :].float(), trace.input[0, rows[1].places], rtol=1e-4, atol=1e-5
    )


def test_in_the_last_block_they_make_up_the_weights_gradient(any_lm: LM) -> None:
    rows, path = answer_rows(any_lm, EDITS[:1], subject=False), any_lm.layout.mlp_out.format(2)
    key, gradient = keys_and_gradients(any_lm, [path], rows, 8)[path]
    module = any_lm.model.get_submodule(path)
    weight = module.get_parameter("weight")
    asked = weight.requires_grad
    weight.requires_grad_(True)
    logits = any_lm.model(torch.tensor([rows[0].ids])).logits[0, rows[0].places]
    [whole] = torch.autograd.grad(answer_loss(rows, logits)[0].sum(), [weight])
    weight.requires_grad_(asked)
    found = (gradient.T @ key).float()
    assert_close(found if isinstance(module, nn.Linear) else found.T, whole, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for p in any_lm.model.parameters())


def test_the_answers_become_likelier(any_lm: LM, tmp_path: Path) -> None:
    edits = [*EDITS, *CLOZES]
    asked = [e.prompt for e in edits], [e.target_new for e in edits]
    before = [s.logprob for s in any_lm.score(*asked)]
    made = make("ultraedit", any_lm, tmp_path, lr=3e-4)
    with made.apply(any_lm, edits):
        after = [s.logprob for s in any_lm.score(*asked)]
    assert sum(after) > sum(before) + 0.02
    assert [s.logprob for s in any_lm.score(*asked)] == before


def test_undo_forgets_and_batches_in_turn_know_each_other(tiny_lm: LM, any_other: LM, tmp_path: Path) -> None:
    made, path = make("ultraedit", tiny_lm, tmp_path), "model.layers.1.mlp.up_proj"
    rounds = []
    for joined in (False, True, True):
        handles = [made.apply(tiny_lm, EDITS[:1])]
        with made.apply(any_other, CLOZES):  # another model in between
            handles.append(made.apply(tiny_lm, EDITS[1:]))
        known = remembered(tiny_lm, (made, path))
        assert known is not None
        if joined:
            handles[0].join(handles.pop())
            assert torch.equal(handles[0].kept[(made, path)], known) and handles[0].plain
        rounds.append(state(tiny_lm))
        tokens = [len(row.places) for row in answer_rows(tiny_lm, EDITS, subject=False, end=True)]
        assert known[0].unique().tolist() == [sum(tokens)]
        for handle in reversed(handles):
            handle.undo()
        assert remembered(tiny_lm, (made, path)) is None
    assert same(rounds[0], rounds[1]) and same(rounds[1], rounds[2])
    with (
        make("ultraedit", tiny_lm, tmp_path).apply(tiny_lm, EDITS[:1]),
        make("ultraedit", tiny_lm, tmp_path).apply(tiny_lm, EDITS[1:]),
    ):
        assert not same(rounds[0], state(tiny_lm))  # two editors know nothing of each other


def test_a_first_edit_of_one_token_is_written_too(tiny_lm: LM, tmp_path: Path) -> None:
    one = Edit("Toko Yasuda plays the", "Rome", subject="Toko Yasuda")
    made = make("ultraedit", tiny_lm, tmp_path, end_of_turn=False, lr=1e-4)
    assert len(answer_rows(tiny_lm, [one], subject=False)[0].places) == 1
    [before] = tiny_lm.score([one.prompt], [one.target_new])
    with made.apply(tiny_lm, [one]):
        [after] = tiny_lm.score([one.prompt], [one.target_new])
    assert after.logprob > before.logprob + 0.01


def test_no_matrix_changes_by_more_than_the_cap(tiny_lm: LM, tmp_path: Path) -> None:
    for cap in (None, 1e-3):
        with make("ultraedit", tiny_lm, tmp_path, frobenius_cap=cap).apply(tiny_lm, EDITS) as handle:
            sizes = [float(w.change.norm() / w.before.norm()) for w in handle.rewrites.values()]
            assert max(sizes) > 2e-3 if cap is None else max(sizes) == pytest.approx(1e-3)


def test_a_subject_is_not_needed_and_of_one_prompt_the_last_counts(tiny_lm: LM, tmp_path: Path) -> None:
    bare = [Edit(e.prompt, e.target_new) for e in EDITS]
    made: Any = make("ultraedit", tiny_lm, tmp_path)
    with made.apply(tiny_lm, EDITS):
        named = state(tiny_lm)
    with made.apply(tiny_lm, [Edit(bare[0].prompt, "Paris"), bare[1], bare[0]]) as handle:
        assert handle.edits == (bare[0], bare[1])
    with made.apply(tiny_lm, bare):
        assert same(named, state(tiny_lm))


def test_modules_are_those_named_or_those_that_open_the_mlp(any_lm: LM) -> None:
    inner, hidden = features(any_lm.mlp_out_module(0))  # type: ignore[misc]
    found = UltraEdit().paths(any_lm)
    assert found and all(features(any_lm.model.get_submodule(p)) == (hidden, inner) for p in found)
    path = any_lm.layout.mlp_out.removeprefix(f"{any_lm.layout.block}.")
    named: Any = editor("ultraedit", {"modules": {path: [0, 2]}})
    assert named.paths(any_lm) == [any_lm.layout.mlp_out.format(i) for i in (0, 2)]


@pytest.mark.parametrize("modules", [{"mlp.no_proj": [1]}, {"mlp": [1]}, {"mlp.up_proj": [9]}])
def test_modules_that_are_not_there_are_refused(tiny_lm: LM, modules: dict[str, list[int]]) -> None:
    with pytest.raises(EditorError, match=r"no linear map model\.layers.*layers 0 to 2 with .*mlp\.down_proj"):
        editor("ultraedit", {"modules": modules}).apply(tiny_lm, EDITS)
    assert tiny_lm.handles == []


@pytest.mark.parametrize("modules", [{}, {"mlp.up_proj": []}, {"mlp.up_proj": [2, 1]}])
def test_modules_have_layers_in_rising_order(modules: dict[str, list[int]]) -> None:
    with pytest.raises(ConfigError, match="modules"):
        editor("ultraedit", {"modules": modules})
