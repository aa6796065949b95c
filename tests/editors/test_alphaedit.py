"""AlphaEdit on random models: what it remembers belongs to the edits in force, and undo forgets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from editors_kit import CLOZES, EDITS, ONE_KEY, make, same, state
from torch.testing import assert_close

from lte.editors.activations import last_seen
from lte.editors.base import remembered
from lte.editors.contexts import answer_rows
from lte.editors.located import keys_of, mean_keys
from lte.edits import Edit
from lte.models import LM

remembering = pytest.mark.parametrize(
    "name, settings", [("alphaedit", {}), ("memit", {"remember": True})], ids=["alphaedit", "memit"]
)


def in_turn(made: Any, lm: LM, edits: list[Edit], joined: bool) -> dict[str, torch.Tensor]:
    """The state after one edit on top of the other, undone again."""
    handles = []
    for edit in edits:
        handles.append(made.apply(lm, [edit]))
        if joined and len(handles) == 2:
            handles[0].join(handles.pop())
    after = state(lm)
    for handle in reversed(handles):
        handle.undo()
    return after


@remembering
def test_undo_forgets_and_a_rerun_is_the_same_to_the_bit(
    name: str, settings: dict[str, Any], tiny_lm: LM, tmp_path: Path
) -> None:
    made, edits = make(name, tiny_lm, tmp_path, **settings), [*EDITS, CLOZES[0]]
    first = in_turn(made, tiny_lm, edits, joined=False)
    assert remembered(tiny_lm, (made, 1)) is None
    assert same(first, in_turn(made, tiny_lm, edits, joined=False))
    joined = in_turn(made, tiny_lm, edits, joined=True)
    for n in first:
        assert_close(first[n], joined[n], rtol=1e-5, atol=1e-7)
    assert same(joined, in_turn(made, tiny_lm, edits, joined=True))


@remembering
def test_b12_what_is_remembered_is_one_editors_and_one_models(
    name: str, settings: dict[str, Any], tiny_lm: LM, any_other: LM, tmp_path: Path
) -> None:
    made = make(name, tiny_lm, tmp_path, **settings)
    alone = in_turn(made, tiny_lm, EDITS, joined=False)
    first = made.apply(tiny_lm, EDITS[:1])
    with make(name, any_other, tmp_path, **settings).apply(any_other, CLOZES), made.apply(any_other, CLOZES):
        other = make(name, tiny_lm, tmp_path, **settings)
        assert remembered(tiny_lm, (other, 1)) is None and remembered(tiny_lm, (made, 1)) is not None
        with made.apply(tiny_lm, EDITS[1:]):
            assert same(alone, state(tiny_lm))
        with other.apply(tiny_lm, EDITS[1:]):
            assert not same(alone, state(tiny_lm))  # it knows nothing of the first edit
    first.undo()


@remembering
def test_a_joined_handle_keeps_one_sum(name: str, settings: dict[str, Any], tiny_lm: LM, tmp_path: Path) -> None:
    made = make(name, tiny_lm, tmp_path, **settings)
    edits = [*EDITS, CLOZES[0]]
    whole = made.apply(tiny_lm, edits[:1])
    for edit in edits[1:]:
        newer = made.apply(tiny_lm, [edit])
        apart = remembered(tiny_lm, (made, 2))
        whole.join(newer)
        assert not newer.kept and whole.plain
        assert apart is not None and torch.equal(whole.kept[(made, 2)], apart)
    assert set(whole.kept) == {(made, 1), (made, 2)}
    ready = made.prepare(tiny_lm)
    C, contexts = ready.factors[1], 1 + len(ready.prefixes)
    K = mean_keys(keys_of(tiny_lm, 1, answer_rows(tiny_lm, edits, ready.prefixes), contexts)).T
    S = C.white(K) @ C.white(K).T  # the lowest layer's keys stay what they were
    assert float((whole.kept[(made, 1)] - S).norm() / S.norm()) < 1e-3
    whole.undo()
    assert not whole.kept


@remembering
def test_later_edits_leave_the_values_of_earlier_ones(
    name: str, settings: dict[str, Any], tiny_lm: LM, tmp_path: Path
) -> None:
    moved = []
    for forgetful in (False, True):
        made = (
            make(name, tiny_lm, tmp_path, layers=[1], prefixes=0, l2=1e-4, nullspace={"share": 0.9}, **settings)
            if (name == "alphaedit")
            else make(name, tiny_lm, tmp_path, layers=[1], prefixes=0, weight=0.05, **settings)
        )
        row = answer_rows(tiny_lm, EDITS[:1])[0]
        with made.apply(tiny_lm, EDITS[:1]) as handle:
            if forgetful:
                handle.kept.clear()
            _, before = last_seen(tiny_lm, tiny_lm.mlp_out_module(1), [row.ids[: row.subject + 1]])
            with made.apply(tiny_lm, CLOZES):
                _, after = last_seen(tiny_lm, tiny_lm.mlp_out_module(1), [row.ids[: row.subject + 1]])
        moved.append(float((after - before).norm() / before.norm()))
    assert moved[0] < moved[1] / 2


def test_the_answers_become_likelier(any_lm: LM, tmp_path: Path) -> None:
    any_lm.chat = False  # the subject ends the prompt: on a random model little else can be steered
    settings = {"prefixes": 0, "v_steps": 25, "kl_weight": 0, "clamp": 20, "l2": 1e-4, "nullspace": {"share": 0.5}}
    made = make("alphaedit", any_lm, tmp_path, **settings)
    asked = [e.prompt for e in CLOZES], [e.target_new for e in CLOZES]
    before = [s.logprob for s in any_lm.score(*asked)]
    with made.apply(any_lm, CLOZES) as handle:
        assert all(s.logprob > b + 1 for s, b in zip(any_lm.score(*asked), before, strict=True))
        assert handle.touched == tuple(f"{any_lm.layout.mlp_out.format(n)}.weight" for n in (1, 2))
    assert [s.logprob for s in any_lm.score(*asked)] == before


def test_the_change_lies_in_the_null_space(tiny_lm: LM, tmp_path: Path) -> None:
    made: Any = make("alphaedit", tiny_lm, tmp_path, frobenius_cap=1e-2, norm_anchor=1.5, keep_bos=True, stop="argmax")
    space, bos = made.prepare(tiny_lm).factors[1], [tiny_lm.tokenizer.bos_token_id]
    key = last_seen(tiny_lm, tiny_lm.mlp_out_module(1), [bos])[0][0]
    with made.apply(tiny_lm, EDITS) as first, made.apply(tiny_lm, CLOZES) as second:
        for handle in (first, second):
            change = handle.rewrites[handle.touched[0]].change
            free = change @ space.basis @ space.basis.T
            assert float((change - free).norm() / change.norm()) < 1e-9
            assert float((change @ key).norm() / (change.norm() * key.norm())) < 1e-9
            weight = handle.rewrites[handle.touched[0]].before
            assert float(change.norm() / weight.norm()) <= 1.0001e-2


@remembering
def test_b21_of_edits_with_one_key_a_compromise_is_made(
    name: str, settings: dict[str, Any], tiny_lm: LM, tmp_path: Path
) -> None:
    made, W = make(name, tiny_lm, tmp_path, layers=[1], prefixes=0, **settings), tiny_lm.mlp_out(1).double()
    row = answer_rows(tiny_lm, ONE_KEY[:1])[0]
    key = last_seen(tiny_lm, tiny_lm.mlp_out_module(1), [row.ids[: row.subject + 1]])[0][0]
    gains = []
    for edits in ([ONE_KEY[0]], [ONE_KEY[1]], ONE_KEY):
        with made.apply(tiny_lm, edits):
            gains.append((tiny_lm.mlp_out(1).double() - W) @ key)
    mean = (gains[0] + gains[1]) / 2
    assert float(gains[2] @ mean / (gains[2].norm() * mean.norm())) > 0.999


def test_of_edits_with_one_prompt_the_last_counts(tiny_lm: LM, tmp_path: Path) -> None:
    made = make("alphaedit", tiny_lm, tmp_path)
    later = Edit(EDITS[0].prompt, "French", subject=EDITS[0].subject)
    with made.apply(tiny_lm, [later, EDITS[1]]) as handle:
        alone, kept = state(tiny_lm), handle.kept[(made, 1)].clone()
    with made.apply(tiny_lm, [EDITS[0], EDITS[1], later]) as handle:
        assert same(alone, state(tiny_lm)) and torch.equal(kept, handle.kept[(made, 1)])
