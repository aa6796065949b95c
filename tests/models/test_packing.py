"""Packed, every text is still by itself: trees hold each text whole, and no answer or score knows its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_kit import write_adapter
from tiny_models import CONFIGS, tiny_model
from tiny_tokenizers import llama2_like
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lte.models import LM, Prompt, Score, packing
from lte.models.packing import batches, grow, packs, reach, tensors

PROMPTS = [
    "The capital of France is",
    "The capital of",
    "Where was Edwin of Northumbria born?",
    "He",
    "They say in 1984",
]
ENDINGS = ["Lyon", "Lyon or Paris", "in Northumbria", "1985", "Lyon"]
QUERIES = [p for p in PROMPTS for _ in ENDINGS]
TARGETS = ENDINGS * len(PROMPTS)
texts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), max_size=12)


# --- trees ----------------------------------------------------------------------------------------------------------


@given(texts, st.integers(1, 20), st.integers(0, 4), st.integers(1, 40))
def test_a_tree_spells_every_text_and_shows_each_node_its_own_text_alone(
    texts: list[list[int]], limit: int, reserve: int, room: int
) -> None:
    trees = grow(texts, limit, reserve, room)
    assert sorted(i for t in trees for i in t.paths) == list(range(len(texts)))
    for tree in trees:
        size = len(tree.ids)
        assert len(tree.paths) == 1 or (size <= limit and size + len(tree.paths) * reserve <= room)
        assert size == len(
            {tuple(texts[i][: n + 1]) for i in tree.paths for n in range(len(texts[i]))}
        )  # nothing twice
        [ids], [positions], [seen] = tensors([tree], pad=9)
        for i, path in tree.paths.items():
            assert ids[path].tolist() == texts[i]
            assert positions[path].tolist() == list(range(len(path)))
            for n, node in enumerate(path):
                assert seen[node].nonzero().flatten().tolist() == path[: n + 1]


def test_padding_sees_itself_and_nobody_sees_padding() -> None:
    long, short = grow([[1, 2, 3, 4]]), grow([[5]])
    ids, positions, seen = tensors([*long, *short], pad=9)
    assert ids.tolist() == [[1, 2, 3, 4], [5, 9, 9, 9]] and positions.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert torch.equal(seen[0], torch.ones(4, 4).tril().bool()) and torch.equal(seen[1], torch.eye(4).bool())


def test_a_batch_is_bounded_by_trees_tokens_and_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = grow([[n] * size for n, size in enumerate([3, 3, 3, 3, 5, 30])], limit=1)
    assert len(trees) == 6
    ones = [1] * 6
    assert list(batches(trees, 2, ones, 1)) == [[0, 1], [2, 3], [4, 5]]
    monkeypatch.setattr(packing, "TOKENS", 12)
    assert list(batches(trees, 9, ones, 1)) == [[0, 1, 2, 3], [4], [5]]  # the widest sets the width of all
    monkeypatch.setattr(packing, "LOGITS", 20)
    assert list(batches(trees, 9, [2, 2, 2, 2, 9, 1], 5)) == [[0, 1], [2, 3], [4], [5]]
    assert list(batches([], 2, [], 1)) == []


# --- who is asked packed --------------------------------------------------------------------------------------------


@pytest.fixture
def tokens_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens, padding included, went through a model's embeddings at each forward pass."""
    seen: list[int] = []
    forward = nn.Embedding.forward

    def counting(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids.numel())
        return forward(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", counting)
    yield seen


def both_ways(lm: LM, queries: list[str] = QUERIES, targets: list[str] = TARGETS) -> tuple[list[Score], list[Score]]:
    """Scores from one call, and each from a call of its own, in a row of its own."""
    together, packed = lm.score(queries, targets), lm.packed
    lm.packed = False
    alone = [s for q, t in zip(queries, targets, strict=True) for s in lm.score([q], [t])]
    lm.packed = packed
    return together, alone


def close(some: list[Score], other: list[Score], tolerance: float = 1e-5) -> None:
    assert [s.logprob for s in some] == pytest.approx([s.logprob for s in other], abs=tolerance)
    assert [(s.match, s.exact, s.tokens, s.predicted) for s in some] == [
        (s.match, s.exact, s.tokens, s.predicted) for s in other
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_a_packed_score_is_the_score_of_a_row_of_its_own(any_lm: LM, chat: bool) -> None:
    lm = LM.of(any_lm.model, any_lm.tokenizer, chat=chat)
    close(*both_ways(lm))
    assert lm.packed is True


@pytest.mark.parametrize("chat", [True, False])
def test_a_packed_answer_is_that_of_each_prompt_alone(any_lm: LM, chat: bool) -> None:
    lm = LM.of(any_lm.model, any_lm.tokenizer, chat=chat)
    prompts = [*PROMPTS, PROMPTS[0], *(f"{p} He was born in {y}" for p in PROMPTS for y in (1984, 1985))]
    for steps in (1, 7):
        together = lm.answer(prompts, max_new_tokens=steps)
        lm.packed = False
        assert [a for p in prompts for a in lm.answer([p], max_new_tokens=steps)] == together
        lm.packed = None
    assert len(set(together)) > 3


def test_answers_of_unlike_lengths_end_each_at_its_own_end(
    tiny_lm: LM, monkeypatch: pytest.MonkeyPatch, tokens_seen: list[int]
) -> None:
    """Ends made frequent: texts leave a tree, and trees leave the batch, at different steps."""
    ends = set(range(0, len(tiny_lm.tokenizer), 6))
    monkeypatch.setattr("lte.models.greedy.stop_ids", lambda lm: sorted(ends))
    prompts = [f"{p} {n}" for p in PROMPTS for n in range(9)]
    together = tiny_lm.answer(prompts, max_new_tokens=12)
    steps = tokens_seen[-12:]
    assert steps == sorted(steps, reverse=True) and steps[-1] < steps[0] / 4
    tiny_lm.packed = False
    assert [a for p in prompts for a in tiny_lm.answer([p], max_new_tokens=12)] == together
    assert "" in together and len({len(tiny_lm.tokenizer(a)["input_ids"]) for a in together}) > 4


def test_no_steps_are_no_answer(tiny_lm: LM) -> None:
    assert tiny_lm.answer(PROMPTS, max_new_tokens=0) == [""] * len(PROMPTS)


def test_what_is_shared_is_computed_once(tiny_lm: LM, tokens_seen: list[int]) -> None:
    tiny_lm.score(PROMPTS, ENDINGS)  # the model is tried out
    tokens_seen.clear()
    tiny_lm.score([PROMPTS[0]] * 4, ["Lyon", "Paris", "Rome", "London"])
    packed = sum(tokens_seen)
    rows, _ = tiny_lm.with_targets([tiny_lm.render(PROMPTS[0])] * 4, ["Lyon", "Paris", "Rome", "London"])
    assert packed == len({tuple(r.ids[: n + 1]) for r in rows for n in range(len(r.ids) - 1)})
    assert packed < sum(len(r.ids) for r in rows) / 2


def test_the_same_call_gives_the_same_bits_and_so_does_another_order(tiny_lm: LM) -> None:
    first = tiny_lm.score(QUERIES, TARGETS)
    assert tiny_lm.score(QUERIES, TARGETS) == first
    assert tiny_lm.score(QUERIES[::-1], TARGETS[::-1]) == first[::-1]


def test_adapters_and_routes_are_packed_each_under_its_own(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.load_adapter(write_adapter(tmp_path, tiny_lm), "one")
    with tiny_lm.using("one"):
        close(*both_ways(tiny_lm))
        adapted = tiny_lm.score(QUERIES, TARGETS)
        assert packs(tiny_lm)
    base = tiny_lm.score(QUERIES, TARGETS)
    assert adapted != base
    on = [None if n % 3 else "one" for n in range(len(QUERIES))]
    tiny_lm.routes.append(lambda queries: [Prompt(q, a) for q, a in zip(queries, on, strict=True)])
    mixed = tiny_lm.score(QUERIES, TARGETS)
    close(mixed, [adapted[n] if a else base[n] for n, a in enumerate(on)])


@pytest.mark.parametrize("size", [(1, 10**9, 2**26), (64, 40, 2**26), (64, 1024, 1000)])
def test_no_bound_on_a_batch_changes_a_score(
    tiny_lm: LM, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int]
) -> None:
    wanted = tiny_lm.score(QUERIES, TARGETS)
    rows, tokens, logits = size
    monkeypatch.setattr(packing, "TOKENS", tokens)
    monkeypatch.setattr(packing, "LOGITS", logits)
    monkeypatch.setattr("lte.models.scoring.ROW", 30)
    close(tiny_lm.score(QUERIES, TARGETS, batch_size=rows), wanted)


def foreign(kind: str, vocabulary: int) -> PreTrainedModel:
    """Models of which packed texts cannot be asked: positions from the mask, a running state, attention in windows."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 5, "vocab_size": vocabulary, "initializer_range": 0.3}
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(**ends, hidden_size=32, n_layer=2, n_head=4)).eval()
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(**ends, hidden_size=32, num_hidden_layers=2)).eval()
    if kind == "gpt_neo":
        local = {"attention_types": [[["global", "local"], 1]], "window_size": 6, "max_position_embeddings": 512}
        return GPTNeoForCausalLM(GPTNeoConfig(**ends, **local, hidden_size=32, num_layers=2, num_heads=4)).eval()
    shape = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    windows = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
    return Gemma3ForCausalLM(Gemma3TextConfig(**ends, **shape, **windows, num_key_value_heads=2, head_dim=8)).eval()


@pytest.mark.parametrize("kind", ["bloom", "mamba", "gpt_neo", "gemma3"])
def test_a_model_that_cannot_be_asked_packed_is_asked_row_by_row(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = LM.of(foreign(kind, len(tokenizer)), tokenizer)
    close(*both_ways(lm))
    assert lm.packed is (False if kind in ("bloom", "mamba") else None)  # for windows, the texts decide
    assert lm.answer(PROMPTS, max_new_tokens=5) == [a for p in PROMPTS for a in lm.answer([p], max_new_tokens=5)]


def test_within_its_window_a_model_is_asked_packed(tokenizer: PreTrainedTokenizerFast) -> None:
    lm = LM.of(foreign("gemma3", len(tokenizer)), tokenizer, chat=False)
    assert reach(lm) == 9
    close(*both_ways(lm, ["He", "He", "Who"], ["is", "was", "is"]))
    assert lm.packed is True


class Deaf(LlamaForCausalLM):
    """Takes every argument and heeds not all of them."""

    ignores = ""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        told = kwargs.get(self.ignores)
        if told is not None and (told.ndim == 4 or self.ignores != "attention_mask"):
            kwargs[self.ignores] = None
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("ignores", ["attention_mask", "position_ids"])
def test_a_model_that_only_seems_to_listen_is_found_out(tokenizer: PreTrainedTokenizerFast, ignores: str) -> None:
    lm = LM.of(Deaf(tiny_model("llama", tokenizer).config).eval(), tokenizer)
    lm.model.ignores = ignores
    close(*both_ways(lm))
    assert lm.packed is False


@pytest.mark.parametrize("chat", [True, False])
def test_a_model_that_holds_a_triangle_of_its_context_has_rows_within_it(chat: bool) -> None:
    tokenizer = llama2_like()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(tokenizer), "initializer_range": 0.3}
    model = GPTNeoForCausalLM(GPTNeoConfig(**shape, **ends, max_position_embeddings=60)).eval()
    lm = LM.of(model, tokenizer, chat=chat)
    close(*both_ways(lm))
    assert lm.packed is True and reach(lm) == 60
    together = lm.answer(PROMPTS, max_new_tokens=7)
    assert together == [a for p in PROMPTS for a in lm.answer([p], max_new_tokens=7)]
    assert lm.packed is True


def test_who_listens_to_the_model_s_rows_hears_one_text_in_each(tiny_lm: LM) -> None:
    wanted = tiny_lm.score(QUERIES, TARGETS)
    assert packs(tiny_lm)
    rows = []
    hook = tiny_lm.mlp_out_module(1).register_forward_hook(lambda module, args, out: rows.append(len(out)))
    close(tiny_lm.score(QUERIES, TARGETS), wanted)
    hook.remove()
    assert rows == [len(QUERIES)]
    assert packs(tiny_lm)


class Beside(nn.Module):
    """A module that stands where another stood."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.inner(hidden)


def test_a_module_put_in_another_s_place_sees_one_text_a_row(tiny_lm: LM) -> None:
    wanted = tiny_lm.score(QUERIES, TARGETS)
    own = tiny_lm.blocks[1].mlp
    tiny_lm.blocks[1].mlp = Beside(own)
    assert not packs(tiny_lm)
    close(tiny_lm.score(QUERIES, TARGETS), wanted)
    tiny_lm.blocks[1].mlp = own
    assert packs(tiny_lm)


def test_a_model_in_bfloat16_is_asked_packed(tokenizer: PreTrainedTokenizerFast) -> None:
    for architecture in CONFIGS:
        lm = LM.of(tiny_model(architecture, tokenizer).to(torch.bfloat16), tokenizer)
        close_enough, alone = both_ways(lm)
        assert lm.packed is True
        assert [s.logprob for s in close_enough] == pytest.approx([s.logprob for s in alone], abs=0.25)
