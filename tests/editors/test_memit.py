"""MEMIT on random models: the batch is spread over the layers, and what was to be reached is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from editors_kit import CLOZES, EDITS, ONE_KEY, TEXTS, make, same, state
from torch.testing import assert_close

from lte.config import ConfigError
from lte.editors import editor, located
from lte.editors.activations import last_seen
from lte.editors.base import EditorError
from lte.editors.contexts import answer_rows
from lte.editors.located import changes_of_values, keys_of, mean_keys, streams_of
from lte.editors.solve import Factor
from lte.edits import Edit
from lte.models import LM, ModelError
from lte.models.tokens import Encoded


def memit(lm: LM, cache: Path, **settings: object) -> Any:
    return make("memit", lm, cache, **{"layers": [1], **settings})


def test_the_answers_become_likelier(any_lm: LM, tmp_path: Path) -> None:
    any_lm.chat = False  # the subject ends the prompt: on a random model little else can be steered
    made = memit(any_lm, tmp_path, layers=[1, 2], prefixes=0, v_steps=25, kl_weight=0, clamp=20, weight=1e-3)
    asked = [e.prompt for e in CLOZES], [e.target_new for e in CLOZES]
    before = [s.logprob for s in any_lm.score(*asked)]
    with made.apply(any_lm, CLOZES) as handle:
        assert all(s.logprob > b + 1 for s, b in zip(any_lm.score(*asked), before, strict=True))
        assert handle.touched == tuple(f"{any_lm.layout.mlp_out.format(n)}.weight" for n in (1, 2))
    assert [s.logprob for s in any_lm.score(*asked)] == before


def test_the_layers_share_the_change_and_the_last_completes_it(any_lm: LM, tmp_path: Path) -> None:
    made = memit(any_lm, tmp_path, layers=[0, 1, 2], prefixes=0, weight=1e-9)
    ready, rows = made.prepare(any_lm), answer_rows(any_lm, EDITS)
    goal = changes_of_values(any_lm, 2, EDITS, ready, made.config, 32)
    before, K = streams_of(any_lm, 2, rows), keys_of(any_lm, 0, rows, 1)[:, 0]
    W = any_lm.mlp_out(0).double()
    with made.apply(any_lm, EDITS):
        gained = streams_of(any_lm, 2, rows) - before
        assert float((gained - goal).norm() / goal.norm()) < 1e-3
        first = K @ (any_lm.mlp_out(0).double() - W).T
        assert float((first - goal / 3).norm() / goal.norm()) < 1e-3


def test_one_layer_is_emmet_with_that_weight(tiny_lm: LM, tmp_path: Path) -> None:
    with memit(tiny_lm, tmp_path, weight=3.0).apply(tiny_lm, EDITS):
        one = state(tiny_lm)
    with make("emmet", tiny_lm, tmp_path, alpha=3.0).apply(tiny_lm, EDITS):
        assert same(one, state(tiny_lm))


def test_the_weight_holds_the_change_back(tiny_lm: LM, tmp_path: Path) -> None:
    W, sizes = tiny_lm.mlp_out(1).clone(), []
    for weight in (1e-3, 1.0, 1e3, 1e9):
        with memit(tiny_lm, tmp_path, weight=weight).apply(tiny_lm, EDITS):
            sizes.append(float((tiny_lm.mlp_out(1) - W).norm()))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[2] and sizes[3] < 1e-3 * sizes[0]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_order_and_batches_of_the_edits_change_nothing(tiny_lm: LM, tmp_path: Path, batch_size: int) -> None:
    edits = [*EDITS, CLOZES[0]]
    W, changes = tiny_lm.mlp_out(1).clone(), []
    for chosen, size in ((edits, 32), (edits[::-1], batch_size)):
        with memit(tiny_lm, tmp_path, batch_size=size).apply(tiny_lm, chosen):
            changes.append(tiny_lm.mlp_out(1) - W)
    assert float((changes[0] - changes[1]).norm() / changes[0].norm()) < 1e-3


@pytest.mark.parametrize("name", ["memit", "emmet"])
def test_b21_of_edits_with_one_prompt_the_last_counts(
    name: str, tiny_lm: LM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = Edit(f" {EDITS[0].prompt} ", "French", subject=EDITS[0].subject)
    with make(name, tiny_lm, tmp_path).apply(tiny_lm, [later, EDITS[1]]):
        alone = state(tiny_lm)
    assert "give way" not in caplog.text
    with make(name, tiny_lm, tmp_path).apply(tiny_lm, [EDITS[0], EDITS[1], later]) as handle:
        assert same(alone, state(tiny_lm)) and handle.edits == (later, EDITS[1])
    assert "1 give way to later ones" in caplog.text


def test_b21_of_edits_with_one_key_memit_makes_a_compromise(tiny_lm: LM, tmp_path: Path) -> None:
    made = memit(tiny_lm, tmp_path, prefixes=0, weight=1e-4)
    ready, rows = made.prepare(tiny_lm), answer_rows(tiny_lm, ONE_KEY)
    K = mean_keys(keys_of(tiny_lm, 1, rows, 1))
    assert torch.equal(K[0], K[1])  # to the bit, whatever rows stand beside them
    goal, W = changes_of_values(tiny_lm, 1, ONE_KEY, ready, made.config, 32), tiny_lm.mlp_out(1).double()
    with made.apply(tiny_lm, ONE_KEY):
        assert_close((tiny_lm.mlp_out(1).double() - W) @ K[0], goal.mean(0), rtol=1e-2, atol=1e-3)


def test_a_layer_that_fails_takes_back_those_before_it(
    tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, before, calls = memit(tiny_lm, tmp_path, layers=[0, 1, 2]), state(tiny_lm), []
    update = made.update

    def fails_at_the_second(layer: int, *rest: object) -> torch.Tensor:
        calls.append(layer)
        if layer == 1:
            raise EditorError("the second fails")
        return update(layer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(made, "update", fails_at_the_second)
    with pytest.raises(EditorError, match="the second fails"):
        made.apply(tiny_lm, EDITS)
    assert calls == [0, 1] and same(before, state(tiny_lm)) and tiny_lm.handles == []


@pytest.mark.parametrize("name", ["memit", "emmet", "rome"])
def test_the_key_of_bos_is_kept(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    bos = [tiny_lm.tokenizer.bos_token_id]
    before, moved = last_seen(tiny_lm, tiny_lm.blocks[-1], [bos])[1], []
    for keep in (False, True):
        with make(name, tiny_lm, tmp_path, keep_bos=keep).apply(tiny_lm, EDITS):
            moved.append(float((last_seen(tiny_lm, tiny_lm.blocks[-1], [bos])[1] - before).norm() / before.norm()))
    assert moved[1] < 1e-5 < moved[0]


def test_what_has_no_bos_cannot_keep_it(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(tiny_lm)
    monkeypatch.setattr(located, "encode", lambda *_: [Encoded([17], [(0, 1)])])
    with pytest.raises(EditorError, match="set keep_bos: false"):
        memit(tiny_lm, tmp_path, keep_bos=True).apply(tiny_lm, EDITS)
    assert same(before, state(tiny_lm))


@pytest.mark.parametrize("name", ["memit", "emmet", "rome"])
def test_no_matrix_changes_by_more_than_the_cap(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    W, sizes = {n: tiny_lm.mlp_out(n).clone() for n in (1, 2)}, {}
    for cap in (None, 1e-3):
        with make(name, tiny_lm, tmp_path, frobenius_cap=cap).apply(tiny_lm, EDITS[:1]):
            sizes[cap] = [float((tiny_lm.mlp_out(n) - W[n]).norm() / W[n].norm()) for n in W]
    assert max(sizes[None]) > 2e-3 and 0.9e-3 < max(sizes[1e-3]) < 1.01e-3


@pytest.mark.parametrize("name", ["emmet", "rome"])
def test_the_values_get_the_norm_they_are_anchored_to(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made: Any = make(name, tiny_lm, tmp_path, prefixes=0, norm_anchor=1.5)
    norm, rows = made.prepare(tiny_lm).norm, answer_rows(tiny_lm, EDITS[:1])
    texts = [located.encode(tiny_lm.tokenizer, [t])[0].ids for t in TEXTS]
    middle = [ids[: len(ids[:64]) // 2 + 1] for ids in texts]
    assert norm == pytest.approx(float(last_seen(tiny_lm, tiny_lm.mlp_out_module(1), middle)[1].norm(dim=1).mean()))
    free = make(name, tiny_lm, tmp_path, prefixes=0)
    directions = []
    for editor_, anchor in ((made, 1.5 * norm), (free, None)):
        with editor_.apply(tiny_lm, EDITS[:1]):
            v = last_seen(tiny_lm, tiny_lm.mlp_out_module(1), [rows[0].ids[: rows[0].subject + 1]])[1][0]
            assert anchor is None or float(v.norm()) == pytest.approx(anchor, rel=1e-4)
            directions.append(v / v.norm())
    assert_close(directions[0], directions[1], rtol=1e-3, atol=1e-4)


def test_the_anchor_is_the_unedited_models(tiny_lm: LM, tmp_path: Path) -> None:
    made = memit(tiny_lm, tmp_path, norm_anchor=1.0)
    before = made.prepare(tiny_lm).norm
    with make("ft_m", tiny_lm, tmp_path).apply(tiny_lm, EDITS):
        assert made.prepare(tiny_lm).norm == before


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1], [-1, 0]])
def test_layers_stand_in_rising_order(layers: list[int]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        editor("memit", {"layers": layers})


def test_a_layer_that_is_not_there_is_refused(tiny_lm: LM, tmp_path: Path) -> None:
    before = state(tiny_lm)
    with pytest.raises(ModelError, match="layer 9"):
        memit(tiny_lm, tmp_path, layers=[1, 9]).apply(tiny_lm, EDITS)
    assert same(before, state(tiny_lm)) and tiny_lm.handles == []


def test_bfloat16_weights_are_edited_and_restored(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.to(torch.bfloat16)
    before = state(tiny_lm)
    with memit(tiny_lm, tmp_path, layers=[1, 2]).apply(tiny_lm, EDITS):
        now = state(tiny_lm)
        assert not same(before, now) and all(w.dtype == torch.bfloat16 for w in now.values())
    assert same(before, state(tiny_lm))


def test_keys_weigh_the_bare_prompt_by_half(tiny_lm: LM, tmp_path: Path) -> None:
    prefixes = memit(tiny_lm, tmp_path).prepare(tiny_lm).prefixes
    keys = keys_of(tiny_lm, 1, answer_rows(tiny_lm, EDITS, prefixes), 3)
    assert keys.shape == (2, 3, tiny_lm.mlp_out(1).shape[1])
    assert_close(mean_keys(keys), 0.5 * keys[:, 0] + 0.25 * keys[:, 1] + 0.25 * keys[:, 2])
    assert_close(mean_keys(keys[:, :1]), keys[:, 0])


def test_c_is_factored_once(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, factor, calls = memit(tiny_lm, tmp_path, layers=[0, 2]), Factor.of, []
    monkeypatch.setattr(located.Factor, "of", lambda C: (calls.append(1), factor(C))[1])
    for _ in range(3):
        made.apply(tiny_lm, EDITS).undo()
    assert len(calls) == 2  # one for each layer
