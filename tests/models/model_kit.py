"""What the tests of models share: a model for a tokenizer, naive references, adapters of random numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lte.models import LM
from lte.models.decode import stop_ids
from lte.models.layout import features


def tiny_llama(tokenizer: PreTrainedTokenizerFast, seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """A random Llama of two layers for a tokenizer."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    return LlamaForCausalLM(
        LlamaConfig(**{**shape, **ends, "vocab_size": len(tokenizer), "initializer_range": 0.3, **settings})
    ).eval()


@torch.no_grad()
def logits(lm: LM, text: str = "The capital of France is") -> torch.Tensor:
    """Of every token of one text, alone in its batch."""
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    return lm.model(ids).logits[0]


@torch.no_grad()
def naive_greedy(lm: LM, text: str, steps: int, special: bool) -> list[int]:
    """One token at a time, the whole sequence anew each time: no batch, no padding, no cache."""
    ids = lm.tokenizer(text, add_special_tokens=special)["input_ids"]
    made: list[int] = []
    for _ in range(steps):
        token = int(lm.model(torch.tensor([ids + made])).logits[0, -1].argmax())
        if token in stop_ids(lm):
            break
        made.append(token)
    return made


@torch.no_grad()
def naive_score(lm: LM, text: str, full: str, special: bool) -> tuple[float, float, int]:
    """(mean log-probability, share of argmax hits, tokens) of what `full` adds to `text`, counting tokens of both."""
    before, ids = (lm.tokenizer(t, add_special_tokens=special)["input_ids"] for t in (text, full))
    assert ids[: len(before)] == before, "the reference needs a seam between two tokens"
    table = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    at = range(len(before), len(ids))
    chosen = [float(table[i - 1, ids[i]]) for i in at]
    hits = [int(table[i - 1].argmax()) == ids[i] for i in at]
    return sum(chosen) / len(chosen), sum(hits) / len(hits), len(chosen)


def linear_paths(lm: LM, depth: int = 2) -> list[str]:
    """Some linear maps in the blocks of a model."""
    prefix = lm.layout.block.format(0)
    return [n for n, m in lm.model.named_modules() if n.startswith(prefix) and features(m)][-depth:]


def write_adapter(folder: Path, lm: LM, seed: int = 0, rank: int = 2, **config: Any) -> Path:
    """A random LoRA adapter for some maps of the first block, strong enough to change answers."""
    noise = torch.Generator().manual_seed(seed)
    tensors = {}
    for path in linear_paths(lm):
        wide, out = features(lm.model.get_submodule(path)) or (0, 0)
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, wide, generator=noise)
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out, rank, generator=noise)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


class Parrot:
    """An LM that says given tokens, whatever it is asked; counts the steps it computed."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens: Iterable[int]) -> None:
        self.tokenizer, self.tokens, self.steps = tokenizer, list(tokens), 0
        self.device = torch.device("cpu")
        end = tokenizer.eos_token_id
        self._end = end[0] if isinstance(end, Sequence) else end

    @property
    def model(self) -> Any:
        says = self._says
        says.__dict__["generation_config"] = SimpleNamespace(eos_token_id=self._end)
        return says

    @property
    def _says(self) -> Any:
        def forward(step: torch.Tensor, past_key_values: Any = None, use_cache: bool = True) -> SimpleNamespace:
            token = self.tokens[self.steps] if self.steps < len(self.tokens) else self._end
            self.steps += 1
            row = torch.zeros(1, 1, len(self.tokenizer))
            row[0, 0, token] = 9.0
            return SimpleNamespace(logits=row, past_key_values=None)

        return forward

    def using(self, adapter: str | None) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def logits_at(self, pick: Any) -> Any:
        return self.using(None)
