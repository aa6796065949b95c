"""Where the subject and the answer of an edit stand in what the model is asked."""

from __future__ import annotations

import pytest
import torch
from editors_kit import EDITS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lte.editors.base import EditorError
from lte.editors.contexts import Row, answer_loss, answer_rows, drift_rows, sampled_prefixes, turn_end
from lte.edits import Edit
from lte.models import LM

words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=8)


@pytest.fixture(params=[True, False], ids=["chat", "plain"])
def either_lm(request: pytest.FixtureRequest, tiny_lm: LM) -> LM:
    """The same model, asked through its chat template or not."""
    tiny_lm.chat = request.param
    return tiny_lm


def spoken(lm: LM, ids: list[int]) -> str:
    return str(lm.tokenizer.decode(ids)).strip()


def test_rows_are_what_the_evaluator_scores(either_lm: LM) -> None:
    [row] = answer_rows(either_lm, EDITS[1:])
    [encoded], [span] = either_lm.with_targets([either_lm.render(EDITS[1].prompt)], [EDITS[1].target_new])
    assert row.ids == encoded.ids and row.answer == span
    assert row.ids.count(either_lm.tokenizer.bos_token_id) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words, words, words)
def test_b4_b5_answer_and_subject_are_found_whatever_they_hold(
    either_lm: LM, before: str, subject: str, answer: str
) -> None:
    edit = Edit(f"{before} {{}} {subject}'s is", answer, subject=subject)
    for row in answer_rows(either_lm, [edit], ["A {prefix}", "Another"]):
        assert spoken(either_lm, row.ids[slice(*row.answer)]).endswith(edit.target_new)
        read = either_lm.tokenizer.decode(row.ids[: row.subject + 1])
        last = either_lm.tokenizer.decode([row.ids[row.subject]])
        assert edit.subject in read[-len(last) - len(edit.subject) :]  # it ends within that token


def test_b5_of_two_mentions_the_last_counts(either_lm: LM) -> None:
    edit = Edit("Rome, they say of Rome, is in", "France", subject="Rome")
    [row] = answer_rows(either_lm, [edit])
    assert spoken(either_lm, row.ids[: row.subject + 1]).endswith("Rome, they say of Rome")


def test_the_template_is_not_searched_for_the_subject(tiny_lm: LM) -> None:
    edit = Edit("The user of Paris is", "Rome", subject="user")
    [row] = answer_rows(tiny_lm, [edit])
    assert spoken(tiny_lm, row.ids[: row.subject + 1]).endswith("The user")


def test_prefixes_stand_in_the_users_turn(tiny_lm: LM) -> None:
    bare, prefixed = answer_rows(tiny_lm, EDITS[:1], ["Because it rained"])
    asked = tiny_lm.tokenizer.decode(prefixed.ids)
    assert "<|end_header_id|>" in asked.split("Because")[0] and f"Because it rained. {EDITS[0].prompt}" in asked
    assert prefixed.ids[slice(*prefixed.answer)] == bare.ids[slice(*bare.answer)]


def test_drift_is_watched_at_the_subject(either_lm: LM) -> None:
    [row] = drift_rows(either_lm, EDITS[:1])
    assert not row.asks and row.places == [row.subject]
    assert spoken(either_lm, row.ids[: row.subject + 1]).endswith("Danielle Darrieux")


def test_the_end_of_the_turn_is_the_templates(tiny_lm: LM) -> None:
    assert turn_end(tiny_lm) == "<|eot_id|>"
    [row] = answer_rows(tiny_lm, EDITS[:1], subject=False, end=True)
    *answer, end = row.ids[slice(*row.answer)]
    assert end == tiny_lm.tokenizer.eos_token_id and spoken(tiny_lm, answer) == "English"
    tiny_lm.chat = False
    assert turn_end(tiny_lm) == ""


def test_b9_no_special_token_is_learnt_but_the_end_of_the_turn(either_lm: LM) -> None:
    for row in answer_rows(either_lm, EDITS, subject=False, end=True):
        learnt = row.ids[slice(*row.answer)]
        special = [t for t in learnt if t in either_lm.tokenizer.all_special_ids]
        assert special == ([either_lm.tokenizer.eos_token_id] if either_lm.chat else [])
        assert row.places == [t - 1 for t in range(*row.answer)]  # each token where it is predicted, none at one place


def test_a_subject_that_the_prompt_lacks_is_refused(tiny_lm: LM) -> None:
    with pytest.raises(EditorError, match="does not hold the subject 'Paris'"):
        answer_rows(tiny_lm, [Edit("The capital of France is", "Rome", subject="Paris")])


def test_the_loss_is_that_of_the_answer_tokens() -> None:
    rows = [Row([0, 3, 1, 2], 0, (2, 4)), Row([0, 2], 1, (1, 2))]
    logits = torch.randn(3, 5)
    nll, hits = answer_loss(rows, logits)
    p = logits.log_softmax(-1)
    torch.testing.assert_close(nll, torch.stack([-(p[0, 1] + p[1, 2]) / 2, -p[2, 2]]))
    assert hits.tolist() == [bool(p[0].argmax() == 1 and p[1].argmax() == 2), bool(p[2].argmax() == 2)]


def test_prefixes_follow_the_seed(tiny_lm: LM) -> None:
    one = sampled_prefixes(tiny_lm, 4, 4, seed=0)
    torch.manual_seed(9)
    assert one == sampled_prefixes(tiny_lm, 4, 4, seed=0) != sampled_prefixes(tiny_lm, 4, 4, seed=1)
    assert [p.split()[0] for p in one] == ["The", "Therefore", "Because", "I"]


def test_spans_on_a_tokenizer_without_bos(tokenizer: PreTrainedTokenizerFast, tiny_lm: LM) -> None:
    tiny_lm.chat = False
    edit = Edit("Toko plays the", "guitar", subject="Toko")
    [row] = answer_rows(tiny_lm, [edit])
    assert row.subject >= 1  # behind BOS: a first-token subject still has something to look back on
