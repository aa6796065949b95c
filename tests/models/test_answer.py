"""Answers are greedy, in the order asked, to a natural stop, under the adapter that each prompt names."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from model_kit import logits, naive_greedy, tiny_llama, write_adapter
from tiny_tokenizers import gpt2_like
from transformers import GenerationConfig

from lte.models import LM, ModelError, Prompt

QUERIES = ["The capital of France is", "He", "Where was Edwin of Northumbria born? In Paris, London or Rome.", "Toko"]
STEPS = 7


def expected(lm: LM, queries: Sequence[str] = QUERIES) -> list[str]:
    rows = [naive_greedy(lm, lm.render(q), STEPS, special=not lm.chat) for q in queries]
    replies = [lm.tokenizer.decode(r, skip_special_tokens=True).strip() for r in rows]
    return replies if lm.chat else [r.partition("\n")[0].strip() for r in replies]


@pytest.mark.parametrize("chat", [True, False])
def test_b19_an_answer_is_greedy_whatever_the_padding_side_and_the_batch(any_lm: LM, chat: bool) -> None:
    """Left padding moves the positions of GPT-2's absolute embeddings unless they are counted from the mask."""
    wanted = expected(LM.of(any_lm.model, any_lm.tokenizer, chat=chat))
    for side in ("left", "right"):
        tokenizer = copy.deepcopy(any_lm.tokenizer)
        tokenizer.padding_side = side
        lm = LM.of(any_lm.model, tokenizer, chat=chat)
        for size in (1, 3):
            assert lm.answer(QUERIES, max_new_tokens=STEPS, batch_size=size) == wanted
    assert len(set(wanted)) > 1


def test_answers_come_in_the_order_asked(tiny_lm: LM) -> None:
    replies = dict(zip(QUERIES, tiny_lm.answer(QUERIES, max_new_tokens=STEPS), strict=True))
    turned = QUERIES[::-1]
    assert tiny_lm.answer(turned, max_new_tokens=STEPS) == [replies[q] for q in turned]


def test_an_answer_stops_at_any_end_token(any_lm: LM) -> None:
    made = naive_greedy(any_lm, any_lm.render(QUERIES[0]), STEPS, special=False)
    at = next(i for i in range(1, len(made)) if made[i] not in made[:i])
    any_lm.model.generation_config.eos_token_id = [any_lm.tokenizer.eos_token_id, made[at]]
    wanted = any_lm.tokenizer.decode(made[:at], skip_special_tokens=True).strip()
    assert any_lm.answer(QUERIES[:1], max_new_tokens=STEPS) == [wanted]
    assert "".join(any_lm.stream(QUERIES[0], max_new_tokens=STEPS)).strip() == wanted


def test_a_plain_answer_is_one_line_and_reads_on_over_line_ends_before_it(tiny_lm: LM) -> None:
    lm = LM.of(tiny_lm.model, gpt2_like(), chat=False)
    script = [lm.tokenizer(t)["input_ids"] for t in ("\n", "\n", " French", ".", "\n", " known")]
    follow = {a[-1]: b[-1] for a, b in pairwise(script[1:])}
    line, first = script[0][-1], script[2][-1]
    seen: list[int] = []

    def speak(_: object, args: object, out: torch.Tensor) -> torch.Tensor:
        token = line if len(seen) < 2 else first if len(seen) == 2 else follow[seen[-1]]
        seen.append(token)
        out = out.clone()
        out[..., token] = 1e4
        return out

    hook = lm.model.get_output_embeddings().register_forward_hook(speak)
    assert lm.answer(["They say it is"], max_new_tokens=20) == ["French."]
    hook.remove()
    assert len(seen) < 20


def test_a_model_with_a_template_can_be_asked_in_plain_text(tiny_lm: LM) -> None:
    lm = LM.of(tiny_lm.model, tiny_lm.tokenizer, chat=False)
    assert lm.render("The capital is ") == "The capital is"
    assert lm.answer(["The capital is "], max_new_tokens=5) == lm.answer(["The capital is"], max_new_tokens=5)


def test_greedy_means_greedy_whatever_the_checkpoint_s_generation_config(tiny_lm: LM) -> None:
    wanted = tiny_lm.answer(QUERIES, max_new_tokens=STEPS)
    own = GenerationConfig(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0, no_repeat_ngram_size=1)
    tiny_lm.model.generation_config = own
    assert tiny_lm.answer(QUERIES, max_new_tokens=STEPS) == wanted
    assert tiny_lm.model.generation_config is own


def test_b7_an_abbreviation_is_neither_cut_nor_cleaned(tiny_lm: LM) -> None:
    from lte.models.decode import text_of

    for text in ("the U.S. , they say .", "it is n't 's"):
        ids = tiny_lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        tiny_lm.tokenizer.clean_up_tokenization_spaces = True
        assert text_of(tiny_lm, ids) == text
    tiny_lm.tokenizer.clean_up_tokenization_spaces = False


def test_b8_a_tokenizer_without_a_padding_token_answers_batches() -> None:
    tokenizer = gpt2_like()
    lm = LM.of(tiny_llama(tokenizer), tokenizer)
    assert lm.answer(QUERIES, max_new_tokens=STEPS) == expected(lm)


def test_nothing_asked_is_nothing_answered(tiny_lm: LM) -> None:
    assert tiny_lm.answer([]) == []
    tiny_lm.routes.append(lambda queries: [Prompt(q) for q in queries])
    assert tiny_lm.answer([]) == []


@pytest.fixture
def lm(tiny_lm: LM, tmp_path: Path) -> LM:
    """A model with two adapters, both off."""
    for seed, name in enumerate(("one", "two")):
        tiny_lm.load_adapter(write_adapter(tmp_path / name, tiny_lm, seed), name)
    return tiny_lm


def hooks(lm: LM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def test_each_prompt_of_a_batch_is_answered_under_its_own_adapter(lm: LM) -> None:
    adapters = [None, "one", "two", "one", None]
    queries = [QUERIES[0]] * 3 + QUERIES[2:]
    wanted, scores = [], []
    for query, adapter in zip(queries, adapters, strict=True):
        with lm.using(adapter):
            wanted += lm.answer([query], max_new_tokens=STEPS)
            scores += lm.score([query], ["Paris"])
    lm.routes.append(lambda asked: [Prompt(q, a) for q, a in zip(asked, adapters, strict=True)])
    assert lm.answer(queries, max_new_tokens=STEPS) == wanted and len(set(wanted[:3])) == 3
    together = lm.score(queries, ["Paris"] * 5)
    assert [s.logprob for s in together] == pytest.approx([s.logprob for s in scores], abs=1e-4)
    assert hooks(lm) == 0 and lm.on is None


def test_the_last_route_rewrites_the_query_and_the_template_is_put_around(lm: LM) -> None:
    lm.routes += [lambda qs: [Prompt("lost") for _ in qs], lambda qs: [Prompt(QUERIES[1], "one", ("7",)) for _ in qs]]
    got = lm.answer([QUERIES[0]], max_new_tokens=STEPS)
    assert lm.prompts(["any"]) == [Prompt(QUERIES[1], "one", ("7",))]
    lm.routes.clear()
    with lm.using("one"):
        assert lm.answer([QUERIES[1]], max_new_tokens=STEPS) == got


def test_a_route_may_answer_with_messages(lm: LM) -> None:
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"})
    lm.routes.append(lambda queries: [Prompt(turns) for _ in queries])
    text = lm.render(turns)
    wanted = lm.tokenizer.decode(naive_greedy(lm, text, STEPS, special=False), skip_special_tokens=True).strip()
    assert lm.answer(["any"], max_new_tokens=STEPS) == [wanted]


def test_a_route_that_loses_a_query_is_an_error(lm: LM) -> None:
    lm.routes.append(lambda queries: [Prompt(q) for q in queries[1:]])
    with pytest.raises(ModelError, match="1 prompts of 2 queries"):
        lm.answer(["a", "b"])


def test_off_is_the_model_as_it_was_loaded_to_the_bit(tiny_lm: LM, tmp_path: Path) -> None:
    before, digest = logits(tiny_lm), tiny_lm.weight_hash()
    tiny_lm.load_adapter(write_adapter(tmp_path, tiny_lm), "one")
    assert torch.equal(logits(tiny_lm), before)
    with tiny_lm.using("one"):
        assert not torch.equal(logits(tiny_lm), before)
        with tiny_lm.using(None):
            assert torch.equal(logits(tiny_lm), before)
        assert not torch.equal(logits(tiny_lm), before)
    assert torch.equal(logits(tiny_lm), before) and hooks(tiny_lm) == 0 and tiny_lm.weight_hash() == digest


def test_one_adapter_takes_the_place_of_another(lm: LM) -> None:
    with lm.using("two"):
        two = logits(lm)
    with lm.using("one"):
        one = logits(lm)
        with lm.using("two"):
            assert torch.equal(logits(lm), two)
        assert torch.equal(logits(lm), one)
    assert not torch.equal(one, two)


def test_the_hooks_are_gone_after_an_error(lm: LM) -> None:
    before = logits(lm)
    with pytest.raises(RuntimeError, match="inside"), lm.using("one"):
        raise RuntimeError("inside")
    assert hooks(lm) == 0 and torch.equal(logits(lm), before)
    lm.routes.append(lambda queries: [Prompt(q, "one") for q in queries])
    with pytest.raises(ModelError, match="an empty target"):
        lm.score(["a"], [""])
    lm.mlp_out_module(0).register_forward_pre_hook(lambda *_: 1 / 0)
    for ask in (lambda: lm.answer(["a"]), lambda: lm.score(["a"], ["b"])):
        with pytest.raises(ZeroDivisionError):
            ask()
        assert hooks(lm) == 1 and lm.on is None


def test_an_adapter_that_was_not_loaded_is_named(lm: LM) -> None:
    with pytest.raises(ModelError, match=r"no adapter 'three'; load_adapter was given \['one', 'two'\]"):
        lm.using("three").__enter__()
    lm.routes.append(lambda queries: [Prompt(q, "three") for q in queries])
    with pytest.raises(ModelError, match="no adapter 'three'"):
        lm.answer(["a"])
