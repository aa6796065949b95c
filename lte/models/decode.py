"""Greedy batches and single sampled streams, both to a natural stop."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from lte.models.lm import LM


@dataclass(frozen=True)
class Ending:
    """Why a stream ended, and the tokens it read and made."""

    finish: Literal["stop", "length"]
    prompt_tokens: int
    tokens: int


def stop_ids(lm: LM) -> list[int]:
    """Tokens that end an answer: those of the generation config, the tokenizer's own, and Llama-3's end of turn."""
    named = lm.model.generation_config.eos_token_id
    ids = set(named if isinstance(named, list) else [] if named is None else [named])
    if lm.tokenizer.eos_token_id is not None:
        ids.add(lm.tokenizer.eos_token_id)
    for token in ("<|eot_id|>", "<|im_end|>"):
        at = lm.tokenizer.convert_tokens_to_ids(token)
        if at is not None and at != lm.tokenizer.unk_token_id:
            ids.add(at)
    return sorted(ids)


@torch.inference_mode()
def decode_greedy(lm: LM, rows: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int) -> list[str]:
    """The greedy continuation of each row of tokens, stripped. A model without a chat template stops at a line's end."""
    replies = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # like lengths together: little padding
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, mask = lm.pad([rows[i] for i in chosen], side="left")
        made = lm.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=stop_ids(lm),
            pad_token_id=lm.tokenizer.pad_token_id,
            temperature=None,
            top_p=None,
            top_k=None,
            **({} if lm.chat else {"stop_strings": ["\n"], "tokenizer": lm.tokenizer}),
        )
        texts = lm.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            text = text.strip()
            replies[i] = text if lm.chat else text.partition("\n")[0].strip()
    return replies


@torch.inference_mode()
def sample(
    lm: LM,
    ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: Sequence[str],
) -> Generator[str, None, Ending]:
    """Pieces of text as they become certain; closing the iterator ends the computation, its return value is the end.

    A piece is held back while it ends in half a character or in what may become a stop string.
    """
    generator = torch.Generator(lm.device).manual_seed(seed) if seed is not None else None
    ends = set(stop_ids(lm))
    step = torch.tensor([list(ids)], device=lm.device)
    cache = None
    made: list[int] = []
    sent = 0
    finish: Literal["stop", "length"] = "length"
    for _ in range(max_new_tokens):
        out = lm.model(step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        token = _pick(out.logits[0, -1].float(), temperature, top_p, generator)
        if token in ends:
            finish = "stop"
            break
        made.append(token)
        step = torch.tensor([[token]], device=lm.device)
        text = lm.tokenizer.decode(made, skip_special_tokens=True)
        if cut := [at for s in stop if s and (at := text.find(s)) >= 0]:
            yield text[sent : min(cut)]
            return Ending("stop", len(ids), len(made))
        ready = len(text) - _held(text, stop)
        if ready > sent:
            yield text[sent:ready]
            sent = ready
    text = lm.tokenizer.decode(made, skip_special_tokens=True) if made else ""
    if len(text) > sent:
        yield text[sent:]
    return Ending(finish, len(ids), len(made))


def _held(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` are not certain yet."""
    if text.endswith("�"):
        return 1
    return max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)


def _pick(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, at = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(0, at, ordered)
    return int(torch.multinomial(probabilities, 1, generator=generator))
