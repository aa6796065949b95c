"""Parts are found by looking at the model, for every architecture, whatever its name."""

from __future__ import annotations

import copy

import pytest
import torch
from model_kit import tiny_llama
from tiny_tokenizers import gpt2_like
from torch import nn
from torch.testing import assert_close
from transformers import Gemma2Config, Gemma2ForCausalLM, MixtralConfig, MixtralForCausalLM, OPTConfig, OPTForCausalLM

from lte.models import LM, Layout, ModelError, Trace, resolve_layout
from lte.models.layout import features

EXPECTED = {
    "llama": ("model.layers.{}", "mlp.down_proj"),
    "mistral": ("model.layers.{}", "mlp.down_proj"),
    "qwen2": ("model.layers.{}", "mlp.down_proj"),
    "qwen3": ("model.layers.{}", "mlp.down_proj"),
    "gemma": ("model.layers.{}", "mlp.down_proj"),
    "gpt2": ("transformer.h.{}", "mlp.c_proj"),
    "gptj": ("transformer.h.{}", "mlp.fc_out"),
    "gpt_neox": ("gpt_neox.layers.{}", "mlp.dense_4h_to_h"),
}


def test_every_architecture_is_understood(any_lm: LM) -> None:
    block, projection = EXPECTED[any_lm.name]
    assert any_lm.layout == Layout(block, f"{block}.{projection}")
    assert len(any_lm.blocks) == 3 and any_lm.hidden_size == 32


def test_b20_the_weight_is_out_by_in_and_maps_key_to_value(any_lm: LM) -> None:
    module, weight = any_lm.mlp_out_module(1), any_lm.mlp_out(1)
    assert tuple(weight.shape) == tuple(reversed(features(module) or ()))
    with torch.no_grad(), Trace(module) as seen:
        any_lm.model(torch.tensor([[1, 9, 12]]))
    bias = 0 if module.bias is None else module.bias
    assert_close(seen.input @ weight.t() + bias, seen.output, rtol=1e-4, atol=1e-5)


def test_b20_writing_through_the_weight_changes_the_model_and_back(any_lm: LM) -> None:
    ids = torch.tensor([[1, 9, 12]])
    with torch.no_grad():
        before, kept = any_lm.model(ids).logits, any_lm.mlp_out(2).clone()
        any_lm.mlp_out(2).add_(1.0)
        assert not torch.equal(any_lm.model(ids).logits, before)
        any_lm.mlp_out(2).copy_(kept)
        assert torch.equal(any_lm.model(ids).logits, before)


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_named(tiny_lm: LM, layer: int) -> None:
    with pytest.raises(ModelError, match="layers 0 to 2"):
        tiny_lm.mlp_out(layer)


def test_b20_a_name_decides_nothing(any_lm: LM) -> None:
    class Renamed(type(any_lm.model)):  # type: ignore[misc]
        pass

    model = copy.deepcopy(any_lm.model)
    model.__class__ = Renamed
    model.config.name_or_path = model.config.model_type = "another-llama-2-qwen-gpt"
    assert resolve_layout(model) == any_lm.layout


def test_other_families_are_understood() -> None:
    tokenizer = gpt2_like()
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    opt = OPTForCausalLM(OPTConfig(**shape, ffn_dim=48, word_embed_proj_dim=32, pad_token_id=0))
    gemma = Gemma2ForCausalLM(Gemma2Config(**shape, intermediate_size=48, num_key_value_heads=2, head_dim=8))
    assert resolve_layout(opt).mlp_out == "model.decoder.layers.{}.fc2"
    assert resolve_layout(gemma).mlp_out == "model.layers.{}.mlp.down_proj"


def test_an_ambiguous_projection_says_what_to_type() -> None:
    model = tiny_llama(gpt2_like())
    model.model.layers[0].mlp.twin = nn.Linear(56, 32)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: expected one 56->32 .*twin.*layout: \{block: 'model\.lay"):
        resolve_layout(model)


def test_a_missing_projection_says_what_to_type() -> None:
    tokenizer = gpt2_like()
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    with pytest.raises(ModelError, match=r"found \[\]\. Name the paths in the config, e\.g\. layout: .*mlp_out: "):
        resolve_layout(MixtralForCausalLM(config))


def test_paths_may_be_typed_by_hand() -> None:
    tokenizer = gpt2_like()
    model = tiny_llama(tokenizer)
    model.model.layers[0].mlp.twin = nn.Linear(56, 32)
    layout = Layout("model.layers.{}", "model.layers.{}.mlp.down_proj")
    assert LM.of(model, tokenizer, layout).mlp_out(1) is not None


@pytest.mark.parametrize(
    ("block", "mlp_out", "message"),
    [
        ("model.layer.{}", "model.layers.{}.mlp.down_proj", "no module 'model.layer.{}'"),
        ("model.layers.{}", "model.layers.{}.mlp.fc", "no module 'model.layers.{}.mlp.fc'"),
        ("model.layers.{}", "model.layers.{}.mlp", "LlamaMLP; name a linear projection"),
    ],
)
def test_a_path_typed_wrong_is_named(block: str, mlp_out: str, message: str) -> None:
    tokenizer = gpt2_like()
    with pytest.raises(ModelError) as error:
        LM.of(tiny_llama(tokenizer), tokenizer, Layout(block, mlp_out))
    assert message in str(error.value)
