"""LoRA on random models: PEFT's adapter is merged whole, seeded, and gone from the model afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from editors_kit import EDITS, same, state
from tiny_models import tiny_model
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from lte.editors import lora as module
from lte.editors.base import EditorError
from lte.editors.export import export_lora
from lte.editors.lora import LoRA, LoRAConfig, adapters, seeded, targets
from lte.edits import Edit
from lte.models import LM, ModelError

pytest.importorskip("peft")
TEXT = torch.tensor([[7, 8, 9, 10]])


def lora(**settings: object) -> LoRA:
    return LoRA(LoRAConfig(**{"lr": 1e-2, **settings}))  # type: ignore[arg-type]


@pytest.fixture
def found(tiny_lm: LM) -> Iterator[None]:
    """After the test: no module, flag or drawn number is another than before."""
    modules = {name: id(m) for name, m in tiny_lm.model.named_modules()}
    flags = {name: p.requires_grad for name, p in tiny_lm.model.named_parameters()}
    attributes, drawn = set(vars(tiny_lm.model)), torch.get_rng_state()
    yield
    assert {name: id(m) for name, m in tiny_lm.model.named_modules()} == modules
    assert {name: p.requires_grad for name, p in tiny_lm.model.named_parameters()} == flags
    assert set(vars(tiny_lm.model)) == attributes and not any(m.training for m in tiny_lm.model.modules())
    assert torch.equal(drawn, torch.get_rng_state())


@pytest.mark.usefixtures("found")
def test_b9_answers_of_several_tokens_are_said_and_ended_by_themselves(tiny_lm: LM) -> None:
    edits = [EDITS[0], Edit("Toko Yasuda plays the", "London guitar of Rome", subject="Toko Yasuda")]
    with lora(steps=120).apply(tiny_lm, edits) as handle:
        assert tiny_lm.answer([e.prompt for e in edits]) == [e.target_new for e in edits]
        assert len(handle.touched) == 6 and all(n.endswith(("q_proj.weight", "v_proj.weight")) for n in handle.touched)


def test_which_parameters_take_gradients_stays_the_caller_s_choice(tiny_lm: LM) -> None:
    first, *_, last = tiny_lm.model.parameters()
    first.requires_grad_(False)
    with lora(steps=2).apply(tiny_lm, EDITS):
        assert not first.requires_grad and last.requires_grad


def test_what_is_merged_is_what_peft_computes(any_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    acting: list[Tensor] = []

    def fill(editor: str, weights: list[Tensor], *rest: object) -> None:
        for i, weight in enumerate(weights):
            weight.data = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
        acting.append(any_lm.model(TEXT).logits.detach())

    monkeypatch.setattr(module, "descend", fill)
    plain = any_lm.model(TEXT).logits
    with lora(dropout=0, rank=3, alpha=5).apply(any_lm, EDITS):
        assert_close(any_lm.model(TEXT).logits, acting[0], rtol=1e-3, atol=1e-3)
        assert (acting[0] - plain).abs().max() > 0.1
    assert torch.equal(any_lm.model(TEXT).logits, plain)


def test_the_change_is_an_adapter_again(any_other: LM, tmp_path: Path) -> None:
    with lora(rank=4, steps=5).apply(any_other, EDITS) as handle:
        found = export_lora(handle, tmp_path / "adapter", max_rank=4)
    assert len(found) == 3 and all(m.rank == 4 and not m.cut and m.error < 1e-6 for m in found.values())


@pytest.mark.usefixtures("found")
def test_the_seed_decides_where_it_begins_and_what_is_dropped(tiny_lm: LM) -> None:
    changes = []
    for seed, dropout in ((0, 0.1), (0, 0.1), (1, 0.1), (0, 0.0), (0, 0.5)):
        with lora(seed=seed, dropout=dropout, steps=4).apply(tiny_lm, EDITS):
            changes.append(state(tiny_lm))
    assert same(changes[0], changes[1])
    assert not any(same(changes[0], other) for other in changes[2:])


def test_by_default_it_trains_queries_and_values(tokenizer: PreTrainedTokenizerFast) -> None:
    ends = {"llama": {"q_proj", "v_proj"}, "gptj": {"q_proj", "v_proj"}, "gpt2": {"c_attn"}}
    for kind, names in {**ends, "gpt_neox": {"query_key_value"}}.items():
        lm = LM.of(tiny_model(kind, tokenizer), tokenizer, name=kind)
        paths = targets(lm, None, None)
        assert {path.rpartition(".")[2] for path in paths} == names and set(paths.values()) == {0, 1, 2}


def test_a_name_is_the_end_of_a_path_and_layers_can_be_chosen(tiny_lm: LM, any_other: LM) -> None:
    assert targets(tiny_lm, ["mlp.up_proj"], [2]) == {"model.layers.2.mlp.up_proj": 2}
    assert list(targets(any_other, ["c_proj"], [1])) == ["transformer.h.1.attn.c_proj", "transformer.h.1.mlp.c_proj"]
    with lora(target_modules=["down_proj"], layers=[1], steps=2).apply(tiny_lm, EDITS) as handle:
        assert handle.touched == ("model.layers.1.mlp.down_proj.weight",)
    with pytest.raises(ModelError, match="layer 3"):
        targets(tiny_lm, None, [3])


@pytest.mark.parametrize("names", [["q_proj"], ["c_attn", "v_proj"], ["proj"]])
def test_a_target_that_is_not_there_is_refused_with_those_that_are(names: list[str], any_other: LM) -> None:
    before = state(any_other)
    with pytest.raises(EditorError) as error:
        lora(target_modules=names).apply(any_other, EDITS)
    assert f"of tiny-gpt2 is called {names[-1]}; its blocks have attn.c_attn, attn.c_proj," in str(error.value)
    assert "target_modules" in str(error.value) and same(before, state(any_other))


@pytest.mark.usefixtures("found")
def test_bfloat16_weights_get_a_float32_adapter(tiny_lm: LM) -> None:
    tiny_lm.model.to(torch.bfloat16)
    with seeded(tiny_lm, 0), adapters(tiny_lm, {"model.layers.1.self_attn.q_proj": 1}, r=2) as factors:
        assert {f.dtype for pair in factors.values() for f in pair} == {torch.float32}
    before = tiny_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].logprob
    with lora(steps=30).apply(tiny_lm, EDITS[:1]) as handle:
        assert all(torch.equal(W.weight, W.exact.bfloat16()) for W in handle.rewrites.values())
        assert tiny_lm.score([EDITS[0].prompt], [EDITS[0].target_new])[0].logprob > before + 1


@pytest.mark.usefixtures("found")
def test_a_loss_that_is_not_finite_changes_nothing(tiny_lm: LM) -> None:
    before = state(tiny_lm)
    with pytest.raises(EditorError, match=r"lora: the loss is not finite at step \d; lower lr"):
        lora(lr=1e30).apply(tiny_lm, EDITS)
    assert same(before, state(tiny_lm)) and tiny_lm.handles == []
    tiny_lm.mlp_out(0)[0, 0] = torch.nan
    with pytest.raises(EditorError, match=r"layers.0.mlp.down_proj.weight of tiny-llama is not finite"):
        lora().apply(tiny_lm, EDITS)
