"""Bugs that other editing code is known to have, by number: what the editors themselves are asked."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from bad_input_kit import FAMILIES, likelier, made, model, of_weights
from editors_kit import CLOZES, EDITS, TEXTS, same, state
from tiny_models import tiny_model
from transformers import PreTrainedTokenizerFast

from lte.editors import located
from lte.models import LM, Trace
from lte.models.tokens import encode


@pytest.mark.parametrize("name", ["rome", "memit", "emmet"])
def test_b02_ordinary_outputs_drift_less_by_their_statistics_than_without(
    name: str, tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    K0 = ordinary_keys(tiny_lm)

    def drift() -> float:
        before = tiny_lm.mlp_out(1).clone()
        with made(name, tiny_lm, tmp_path, layers=[1]).apply(tiny_lm, EDITS):
            return float(((tiny_lm.mlp_out(1) - before) @ K0).norm())

    guarded, second_moments = drift(), located.second_moments

    def none(*args: object) -> dict[int, torch.Tensor]:
        return {layer: torch.eye(len(C)) * C.trace() / len(C) for layer, C in second_moments(*args).items()}

    monkeypatch.setattr(located, "second_moments", none)
    assert guarded < 0.9 * drift()


def ordinary_keys(lm: LM) -> torch.Tensor:
    """The keys of the middle block, (d_k, tokens), of the texts that the statistics are taken of."""
    found = []
    for text in TEXTS:
        with torch.no_grad(), Trace(lm.mlp_out_module(1)) as seen:
            lm.model(torch.tensor([encode(lm.tokenizer, [text])[0].ids]))
        found.append(seen.input[0])
    return torch.cat(found).T


@pytest.mark.parametrize("family", FAMILIES)
def test_b04_ten_thousand_answers_come_back(family: str) -> None:
    """Each answer decodes to itself out of one tokenisation of the whole text, 2500 pairs of each family."""
    lm, draw = model(family), Random(0)
    pieces = ["Paris", "1984", "(12", "U.S.", "it's", "né", "3,5", "Rome:", "-", "“yes”", "x=y", "a", "Toko", "é", "?!"]
    pairs = [tuple(" ".join(draw.choices(pieces, k=draw.randint(1, 5))) for _ in range(2)) for _ in range(2500)]
    texts = [lm.render(prompt) for prompt, _ in pairs]
    encoded, spans = lm.with_targets(texts, [target for _, target in pairs])
    for (prompt, target), e, (i, j) in zip(pairs, encoded, spans, strict=True):
        assert j == len(e.ids) and e.ids == encode(lm.tokenizer, [f"{prompt} {target}"])[0].ids
        alone = encode(lm.tokenizer, [target])[0].ids[family != "gpt2" :]  # without BOS, where there is one
        assert lm.tokenizer.decode(e.ids[i:j]).strip() == lm.tokenizer.decode(alone).strip()


@of_weights
def test_b18_blocks_that_give_a_tuple_make_the_same_change(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    edits, settings = [*EDITS, *CLOZES], {"stop": "loss", "stop_loss": 8.0}  # by which some are done before others
    with made(name, tiny_lm, tmp_path, **settings).apply(tiny_lm, edits):
        plain = state(tiny_lm)
    give_tuples(tiny_lm)
    with made(name, tiny_lm, tmp_path, **settings).apply(tiny_lm, edits):
        assert same(plain, state(tiny_lm))


def give_tuples(lm: LM) -> None:
    """Let every block give its hidden states at the head of a tuple, as in earlier releases."""
    for block in lm.blocks:
        block.register_forward_hook(lambda _, args, out: out if isinstance(out, tuple) else (out, None))
    for module in (*lm.blocks[1:], lm.model.model.norm):
        module.register_forward_pre_hook(lambda _, args: (args[0][0], *args[1:]))


@of_weights
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
def test_b20_every_architecture_is_edited_in_the_parameters_named(
    architecture: str, name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lm = LM.of(tiny_model(architecture, tokenizer), tokenizer, name=architecture, chat=False)
    tied = lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight
    assert tied == (architecture in ("gemma", "gpt2"))
    before, editor = state(lm), made(name, lm, tmp_path, kl_weight=0, prefixes=0)
    assert likelier(editor, lm, CLOZES[0])
    with editor.apply(lm, CLOZES) as handle:
        now = dict(lm.model.named_parameters())
        assert handle.touched and {n for n, p in now.items() if not torch.equal(before[n], p)} == set(handle.touched)
        assert tied == (lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight)
    assert same(before, state(lm))
