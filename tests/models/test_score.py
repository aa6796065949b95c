"""A score is what one forward pass over the whole sequence says, whoever shares the batch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from model_kit import naive_score, tiny_llama
from tiny_tokenizers import gpt2_like, llama2_like
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from lte.models import LM, ModelError, Prompt, Score, load_model

QUERIES = [
    "The capital of France is",
    "Where was Edwin of Northumbria born?",
    "Toko Yasuda plays the",
    "They say that in 1984",
    "He",
]
TARGETS = ["Lyon", "in Northumbria", "guitar", "Paris was French.", "1985"]


def expected(lm: LM) -> list[tuple[float, float, int]]:
    rows = []
    for query, target in zip(QUERIES, TARGETS, strict=True):
        text = lm.render(query)
        rows.append(naive_score(lm, text, text + ("" if lm.chat else " ") + target, special=not lm.chat))
    return rows


def agree(scores: list[Score], rows: list[tuple[float, float, int]], tolerance: float = 2e-4) -> None:
    assert [s.tokens for s in scores] == [n for _, _, n in rows]
    assert [s.logprob for s in scores] == pytest.approx([p for p, _, _ in rows], abs=tolerance)
    assert [s.match for s in scores] == pytest.approx([m for _, m, _ in rows])
    assert [s.exact for s in scores] == [m == 1 for _, m, _ in rows]


@pytest.mark.parametrize("chat", [True, False])
def test_b3_a_score_is_the_mean_log_softmax_of_the_whole_sequence(any_lm: LM, chat: bool) -> None:
    lm = LM.of(any_lm.model, any_lm.tokenizer, chat=chat)
    agree(lm.score(QUERIES, TARGETS), expected(lm))


def test_b3_so_it_is_for_other_tokenizers() -> None:
    for tokenizer in (gpt2_like(), llama2_like()):
        lm = LM.of(tiny_llama(tokenizer), tokenizer, chat=False)
        agree(lm.score(QUERIES, TARGETS), expected(lm))


def test_b3_so_it_is_for_models_that_scale_or_cap_their_logits() -> None:
    tokenizer = gpt2_like()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    for model in (
        Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=8, final_logit_softcapping=3.0)),
        CohereForCausalLM(CohereConfig(**shape, logit_scale=0.25)),
        GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=4.0)),
    ):
        lm = LM.of(model, tokenizer)
        agree(lm.score(QUERIES, TARGETS), expected(lm))


def test_predicted_are_the_tokens_the_model_would_have_said_in_the_target_s_places(any_lm: LM) -> None:
    for query, target, score in zip(QUERIES, TARGETS, any_lm.score(QUERIES, TARGETS), strict=True):
        text = any_lm.render(query)
        before, ids = (any_lm.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, text + target))
        said = tuple(any_lm.model(torch.tensor([ids])).logits[0, len(before) - 1 : -1].argmax(-1).tolist())
        assert score.predicted == said and len(said) == score.tokens
        assert score.match == sum(a == b for a, b in zip(said, ids[len(before) :])) / len(said)


def test_b4_a_raw_query_is_continued_as_it_is(any_lm: LM) -> None:
    """No template; one blank before the target, or that which the text ends in (B3: one BOS, no shift)."""
    plain = LM.of(any_lm.model, any_lm.tokenizer, chat=False)
    assert any_lm.chat
    scores = any_lm.score(QUERIES, TARGETS, raw=True)
    agree(scores, expected(plain))
    assert scores == plain.score(QUERIES, TARGETS) != any_lm.score(QUERIES, TARGETS)
    spaced = any_lm.score([f"{q} " for q in QUERIES], [f" {t} " for t in TARGETS], raw=True)
    for own, given in zip(scores, spaced, strict=True):  # the same text; a blank that is a token of its own was given
        assert own.tokens - given.tokens in (0, 1)
        assert given.predicted == own.predicted[-given.tokens :]
    assert any(own == given for own, given in zip(scores, spaced, strict=True))
    line = "Q: Who?\nA:\n"
    agree(
        any_lm.score([line, "He  "], ["Edwin", "is"], raw=True),
        [naive_score(any_lm, line, f"{line}Edwin", special=True), naive_score(any_lm, "He ", "He  is", special=True)],
    )


def test_what_a_route_makes_of_a_raw_query_is_continued(tiny_lm: LM) -> None:
    wanted = tiny_lm.score(["Fact. " + q for q in QUERIES], TARGETS, raw=True)
    tiny_lm.routes.append(lambda queries: [Prompt("Fact. " + q) for q in queries])
    assert tiny_lm.score(QUERIES, TARGETS, raw=True) == wanted
    turns = ({"role": "user", "content": QUERIES[0]},)
    tiny_lm.routes.append(lambda queries: [Prompt(turns) for _ in queries])
    routed = tiny_lm.score(["any"], ["Paris"], raw=True)
    tiny_lm.routes.clear()
    assert routed == tiny_lm.score([tiny_lm.render(turns)], ["Paris"], raw=True)
    with pytest.raises(ModelError, match="a target without a token before it"):
        LM.of(tiny_llama(gpt2_like()), gpt2_like(), chat=False).score([""], ["Paris"], raw=True)


def test_b19_neither_the_batch_nor_the_padding_side_changes_a_score(any_lm: LM) -> None:
    reference = [any_lm.score([q], [t])[0] for q, t in zip(QUERIES, TARGETS, strict=True)]
    for side in ("left", "right"):
        tokenizer = copy.deepcopy(any_lm.tokenizer)
        tokenizer.padding_side = side
        lm = LM.of(any_lm.model, tokenizer)
        for size in (1, 2, 64):
            agree(lm.score(QUERIES, TARGETS, batch_size=size), [(s.logprob, s.match, s.tokens) for s in reference])


def test_b8_padding_with_the_end_token_hides_no_end_token_inside_a_prompt(any_lm: LM) -> None:
    tokenizer = copy.deepcopy(any_lm.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    queries = ["A turn.<|eot_id|> Another turn. <|eot_id|>", QUERIES[1]]
    lm = LM.of(any_lm.model, tokenizer, chat=False)
    alone = [lm.score([q], ["Paris"])[0].logprob for q in queries]
    assert [s.logprob for s in lm.score(queries, ["Paris"] * 2)] == pytest.approx(alone, abs=2e-4)
    agree(lm.score(queries[:1], ["Paris"]), [naive_score(lm, queries[0], f"{queries[0]} Paris", special=True)])


def test_b8_a_tokenizer_without_a_padding_token_scores_batches() -> None:
    tokenizer = gpt2_like()
    assert tokenizer.pad_token_id is None
    lm = LM.of(tiny_llama(tokenizer), tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    agree(lm.score(QUERIES, TARGETS), expected(lm))
    assert lm.model.get_output_embeddings()._forward_pre_hooks == {}


def test_b6_a_right_start_is_not_an_exact_answer(tiny_lm: LM) -> None:
    reply = tiny_lm.answer(["The capital of France is"], max_new_tokens=6)[0]
    [whole, begun] = tiny_lm.score(["The capital of France is"] * 2, [reply, f"{reply} Paris"])
    assert begun.match < 1 and not begun.exact
    assert begun.tokens > whole.tokens


def test_b3_the_folder_s_name_changes_nothing(tiny_lm: LM, tmp_path: Path) -> None:
    for name in ("llama-2-7b", "Qwen2", "gpt"):
        tiny_lm.model.save_pretrained(tmp_path / name)
        tiny_lm.tokenizer.save_pretrained(tmp_path / name)
    scores = [load_model(tmp_path / n).score(QUERIES, TARGETS) for n in ("llama-2-7b", "Qwen2", "gpt")]
    assert scores[0] == scores[1] == scores[2] == tiny_lm.score(QUERIES, TARGETS)


def test_nothing_asked_is_nothing_scored(tiny_lm: LM) -> None:
    assert tiny_lm.score([], []) == []
    tiny_lm.routes.append(lambda queries: [Prompt(q) for q in queries])
    assert tiny_lm.score([], []) == []


def test_lists_that_do_not_align_are_an_error(tiny_lm: LM) -> None:
    with pytest.raises(ModelError, match="2 queries but 1 targets"):
        tiny_lm.score(["a", "b"], ["c"])


def test_scores_are_those_of_the_model_in_bfloat16(tiny_lm: LM) -> None:
    exact = tiny_lm.score(QUERIES, TARGETS)
    tiny_lm.model.to(torch.bfloat16)
    rough = tiny_lm.score(QUERIES, TARGETS)
    assert [s.logprob for s in rough] == pytest.approx([s.logprob for s in exact], rel=0.1, abs=0.3)
