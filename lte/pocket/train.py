"""Train the pocket model: its own small loop, because what matters is every token a second on two cores.

Muon for the matrices, AdamW for the rest; bf16 autocast; logits only where there is loss. Run it through
`python -m lte.pocket`, which sets the allocator.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lte.config import Config
from lte.pocket.corpus import Corpus, Span
from lte.pocket.facts import Fact

log = logging.getLogger(__name__)


class Stage(Config):
    """Steps on one mixture of documents; later stages start where the one before ended."""

    steps: int = Field(gt=0)
    reading: float = Field(0.5, ge=0, le=1)
    text: float = Field(0.08, ge=0, le=1)
    repeats: float = Field(0.0, ge=0, le=1)
    known: float = Field(0.25, ge=0, le=1)
    verbatim: float = Field(0.3, ge=0, le=1)
    profiles: float = Field(0.0, ge=0, le=1)
    bystanders: float = Field(0.0, ge=0, le=1)
    question_weight: float = Field(0.25, ge=0)
    max_statements: int = Field(5, gt=0)
    lr: float = 3e-3
    lr_end: float | None = None  # a straight line from lr to here; None keeps lr


class PocketConfig(Config):
    """How the pocket model is built."""

    facts: int = Field(6600, gt=0)
    per_relation: int = Field(300, gt=0)
    vocab_size: int = Field(8192, gt=300)
    hidden: int = 256
    layers: int = 8
    rows: int = Field(32, gt=0)  # documents a step
    length: int = Field(136, gt=8)  # tokens a document
    warmup: int = 100
    everywhere: float = 0.15  # weight of all other tokens, on a fifth of the rows: keeps it a language model
    seed: int = 0
    save_steps: int = 150
    stages: tuple[Stage, ...] = (Stage(steps=4000),)


@dataclass(frozen=True)
class Batch:
    """ids (rows, length + 1) and the weight of each token in the loss, same shape."""

    ids: Tensor
    weights: Tensor


def batches(
    documents: Iterator[Sequence[Span]],
    tokenizer: PreTrainedTokenizerFast,
    config: PocketConfig,
    rng: random.Random,
) -> Iterator[Batch]:
    """Documents as batches, each cut or padded to `length`; pads carry no loss and, behind the text, need no mask."""
    core = tokenizer.backend_tokenizer
    bos, pad = int(tokenizer.bos_token_id or 0), int(tokenizer.pad_token_id or 0)
    while True:
        chosen = [next(documents) for _ in range(config.rows)]
        encoded = iter(core.encode_batch([s.text for d in chosen for s in d], add_special_tokens=False))
        ids = torch.full((config.rows, config.length + 1), pad)
        weights = torch.zeros(config.rows, config.length + 1)
        for i, document in enumerate(chosen):
            floor = config.everywhere if rng.random() < 0.2 else 0.0
            row, weight = [bos], [0.0]
            for span in document:
                tokens = next(encoded).ids
                row += tokens
                weight += [max(span.weight, floor)] * len(tokens)
            n = min(len(row), config.length + 1)
            ids[i, :n] = torch.tensor(row[:n])
            weights[i, :n] = torch.tensor(weight[:n])
        yield Batch(ids, weights)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """The weighted mean cross-entropy of the next token; logits are computed only where the weight is not zero."""
    device = model.device
    ids, weights = batch.ids.to(device), batch.weights.to(device)[:, 1:].reshape(-1)
    chosen = weights.nonzero().squeeze(1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[chosen])
    losses = F.cross_entropy(logits.float(), ids[:, 1:].reshape(-1)[chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights[chosen].sum()


def optimizers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon over the matrices of the blocks, AdamW over embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def learning_rate(config: PocketConfig, step: int) -> float:
    """The rate at `step`, counted over all stages; the first `warmup` steps rise to it."""
    begin = 0
    for stage in config.stages:
        if step < begin + stage.steps:
            break
        begin += stage.steps
    part = min(1.0, (step - begin) / stage.steps)
    rate = stage.lr + part * ((stage.lr if stage.lr_end is None else stage.lr_end) - stage.lr)
    return rate * min(1.0, (step + 1) / config.warmup)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    config: PocketConfig,
    folder: Path,
    progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
) -> None:
    """Train in place through all stages; a checkpoint in `folder` is taken up where it stands.

    progress(step, total, loss) is called after every step. Losses go to `folder/train.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opts = optimizers(model, config.stages[0].lr)
    total = sum(s.steps for s in config.stages)
    done = _resume(folder, model, opts)
    begin = 0
    for stage in config.stages:
        end = begin + stage.steps
        if done < end:
            mixture = stage.model_dump(exclude={"steps", "lr", "lr_end"})
            rng = random.Random(f"{config.seed}/{begin}/{done}")
            stream = batches(Corpus(facts, **mixture).documents(rng), tokenizer, config, rng)
            for step in range(max(begin, done), end):
                loss = _step(model, opts, next(stream), learning_rate(config, step))
                progress(step + 1, total, loss)
                if (step + 1) % 20 == 0:
                    _note(folder, {"step": step + 1, "loss": round(loss, 4), "time": round(time.time(), 1)})
                if (step + 1) % config.save_steps == 0 or step + 1 == total:
                    _save(folder, model, opts, step + 1)
            done = end
        begin = end


def _step(model: LlamaForCausalLM, opts: Sequence[torch.optim.Optimizer], batch: Batch, lr: float) -> float:
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = min(lr, 2e-3) if isinstance(opt, torch.optim.AdamW) else lr
    loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
        opt.zero_grad(set_to_none=True)
    return loss.item()


def _note(folder: Path, row: dict[str, float]) -> None:
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _save(folder: Path, model: LlamaForCausalLM, opts: Sequence[torch.optim.Optimizer], step: int) -> None:
    part = folder / "checkpoint.part"
    torch.save({"m": model.state_dict(), "o": [o.state_dict() for o in opts], "step": step}, part)
    part.replace(folder / "checkpoint.pt")  # a kill while writing leaves the checkpoint before


def _resume(folder: Path, model: LlamaForCausalLM, opts: Sequence[torch.optim.Optimizer]) -> int:
    file = folder / "checkpoint.pt"
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["m"])
    for opt, saved in zip(opts, state["o"], strict=True):
        opt.load_state_dict(saved)
    log.info("taking up %s at step %d", file, state["step"])
    return int(state["step"])
