"""What an LM says of itself: its weights' hash, its device, how it renders a query."""

from __future__ import annotations

import copy

import pytest
import torch
from model_kit import tiny_llama
from tiny_tokenizers import gpt2_like, llama2_like

from lte.models import LM, ModelError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hash_changes_with_any_bit_and_comes_back(any_lm: LM, dtype: torch.dtype) -> None:
    any_lm.model.to(dtype)
    digest = any_lm.weight_hash()
    assert digest == any_lm.weight_hash() and len(digest) == 64
    for parameter in any_lm.model.parameters():
        bits = parameter.data.reshape(-1)[-1:].view(torch.uint8)
        bits[0] ^= 1
        assert any_lm.weight_hash() != digest
        bits[0] ^= 1
    assert any_lm.weight_hash() == digest


def test_weights_are_known_again_in_another_dtype(tiny_lm: LM) -> None:
    before = tiny_lm.weight_hash()
    stored = {name: p.detach().bfloat16() for name, p in tiny_lm.model.named_parameters()}
    asked = tiny_lm.weight_hash(dtype=torch.bfloat16)
    assert asked == tiny_lm.weight_hash(stored) != before  # told as if they were loaded so
    assert tiny_lm.has_weights(before) and tiny_lm.has_weights(asked)
    with torch.no_grad():
        next(iter(tiny_lm.model.parameters())).view(-1)[0] += 1
    assert not tiny_lm.has_weights(before) and not tiny_lm.has_weights(asked)


def test_the_hash_tells_minus_zero_from_zero_and_one_dtype_from_another(tiny_lm: LM) -> None:
    tiny_lm.mlp_out(0).zero_()
    zero = tiny_lm.weight_hash()
    tiny_lm.mlp_out(0)[0, 0] = -0.0
    assert tiny_lm.weight_hash() != zero
    tiny_lm.mlp_out(0).zero_()
    assert tiny_lm.weight_hash() == zero
    tiny_lm.model.to(torch.bfloat16)
    assert tiny_lm.weight_hash() != zero


def test_the_hash_takes_parameters_of_any_shape(tiny_lm: LM) -> None:
    plain = tiny_lm.weight_hash()
    tiny_lm.model.register_parameter("scalar", torch.nn.Parameter(torch.tensor(1.0)))
    tiny_lm.model.register_parameter("turned", torch.nn.Parameter(torch.randn(3, 2).t()))
    tiny_lm.model.register_parameter("empty", torch.nn.Parameter(torch.empty(0)))
    assert tiny_lm.weight_hash() != plain


def test_asking_changes_no_bit(any_lm: LM) -> None:
    before = copy.deepcopy(any_lm.model.state_dict())
    any_lm.answer(["Who is he?"], max_new_tokens=3)
    any_lm.score(["Who is"], ["he"])
    list(any_lm.stream("Who?", max_new_tokens=3))
    assert all(torch.equal(before[n], w) for n, w in any_lm.model.state_dict().items())


def test_a_model_that_was_asked_can_still_be_trained(any_lm: LM) -> None:
    any_lm.answer(["Who is he?"], max_new_tokens=3)
    any_lm.score(["Who is"], ["he"])
    loss = any_lm.model(torch.tensor([[1, 9, 12]]), labels=torch.tensor([[1, 9, 12]])).loss
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in any_lm.model.parameters())


def test_tied_embeddings_are_one_parameter_and_one_device() -> None:
    tokenizer = gpt2_like()
    lm = LM.of(tiny_llama(tokenizer, tie_word_embeddings=True), tokenizer)
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight
    assert lm.device == torch.device("cpu") and len(lm.weight_hash()) == 64
    assert lm.score(["He is"], ["known"])[0].tokens > 0


def test_offloaded_weights_are_refused() -> None:
    tokenizer = gpt2_like()
    model = tiny_llama(tokenizer)
    model.model.layers[1].to("meta")
    with pytest.raises(ModelError, match="weights were offloaded; load the model whole"):
        LM.of(model, tokenizer, name="offloaded")


def test_b8_a_missing_padding_token_is_the_end_token() -> None:
    tokenizer = gpt2_like()
    lm = LM.of(tiny_llama(tokenizer), tokenizer)
    ids, mask = lm.pad([[5, 0, 7], [6]], side="left")
    assert ids.tolist() == [[5, 0, 7], [0, 0, 6]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    ids, mask = lm.pad([[5, 0, 7], [6]])
    assert ids.tolist() == [[5, 0, 7], [6, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_chat_is_rendered_by_the_template_with_the_answer_s_turn_open(tiny_lm: LM) -> None:
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    system, user, assistant = (head.format(role) for role in ("system", "user", "assistant"))
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who? "}]
    start = "<|begin_of_text|>"
    assert tiny_lm.render("Who?") == f"{start}{user}Who?<|eot_id|>{assistant}"
    assert tiny_lm.render(asked) == f"{start}{system}Be brief.<|eot_id|>{user}Who?<|eot_id|>{assistant}"


def test_without_a_template_messages_are_their_lines() -> None:
    tokenizer = gpt2_like()
    lm = LM.of(tiny_llama(tokenizer), tokenizer)
    assert lm.render("The capital is") == "The capital is"
    assert lm.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "He is "}]) == (
        "Be brief.\nHe is"
    )


def test_a_template_that_refuses_a_role_is_named() -> None:
    tokenizer = llama2_like()
    lm = LM.of(tiny_llama(tokenizer), tokenizer, name="inst")
    with pytest.raises(ModelError, match=r"inst: its chat template refuses the roles \['system', 'user'\]: no system"):
        lm.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])


def test_a_template_that_can_think_is_asked_not_to() -> None:
    tokenizer = llama2_like()
    tokenizer.chat_template = "{% if enable_thinking is false %}[plain]{% endif %}{{ messages[0]['content'] }}"
    assert LM.of(tiny_llama(tokenizer), tokenizer).render("Who?") == "[plain]Who?"


def test_the_context_is_the_model_s_own(any_lm: LM) -> None:
    assert any_lm.context == any_lm.model.config.max_position_embeddings
