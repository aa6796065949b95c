"""Alignment by several ways of batching, measured: what each run counts, and the figures that are made of it."""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, quantiles
from time import process_time
from typing import Any, NamedTuple

import torch
from bench_kit import now, peak_bytes
from transformers import PrinterCallback, TrainerCallback

from lte.align.memory import GB, Shape, estimate, flops, shape_of
from lte.align.rows import IGNORED, Tokens
from lte.align.settings import TrainSettings
from lte.align.trainer import arguments_of, trainer_of
from lte.models import LM

PUBLISHED = 2048  # tokens that LTE fills every row up to (FastChat/ft_train.sh of its code)
WAYS: dict[str, dict[str, Any]] = {
    "published": {"batching": "padded", "pad_to": PUBLISHED},
    "longest": {"batching": "padded", "pad_to": None},
    "padding-free": {"batching": "padding-free", "pad_to": None},
    "packed": {"batching": "packed", "pad_to": None},
}


class Batch(NamedTuple):
    """Tokens of one batch: of rows, of rows and padding together, and those that carry loss."""

    content: int
    computed: int
    learned: int


class Clock(TrainerCallback):
    """When the warm steps were over and when the last one was, and each step's loss."""

    def __init__(self, warm: int) -> None:
        self.warm, self.losses = warm, list[float]()
        self.begun = self.ended = (0.0, 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock."""
        if state.global_step == self.warm:
            self.begun = now(), process_time()
        self.ended = now(), process_time()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the loss."""
        self.losses += [logs["loss"]] if logs and "loss" in logs else []


def counted(collate: Callable[[list[Any]], dict[str, Any]], into: list[Batch]) -> Callable[[list[Any]], dict[str, Any]]:
    """`collate`, its batches counted."""

    def batch(rows: list[Any]) -> dict[str, Any]:
        made = collate(rows)
        ids, mask = made["input_ids"], made.get("attention_mask")
        content = ids.numel() if mask is None else int(mask.sum())
        into.append(Batch(content, ids.numel(), int((made["labels"] != IGNORED).sum())))
        return made

    return batch


def settings_of(way: str, t: TrainSettings, lengths: Sequence[int]) -> TrainSettings:
    """The run's settings in this way; a packed row holds as many tokens as a batch of rows has on average."""
    longest, a_batch = max(lengths), round(t.batch_size * mean(lengths))
    sizes = {"published": (t.batch_size, max(PUBLISHED, longest)), "packed": (1, max(a_batch, longest))}
    batch_size, most = sizes.get(way, (t.batch_size, longest))
    return t.model_copy(update={**WAYS[way], "batch_size": batch_size, "max_length": most, "log_steps": 1})


def train(lm: LM, rows: list[Tokens], t: TrainSettings, steps: int, warm: int) -> dict[str, Any]:
    """Train on the rows for `warm` steps and then `steps` that are timed; the figures of the latter."""
    batches: list[Batch] = []
    with tempfile.TemporaryDirectory() as work:
        arguments = arguments_of(t.model_copy(update={"max_steps": warm + steps}), Path(work), 0, None)
        arguments.save_strategy, arguments.disable_tqdm = "no", True
        trainer = trainer_of(lm, rows, t, arguments)
        trainer.data_collator = counted(trainer.data_collator, batches)
        trainer.remove_callback(PrinterCallback)
        clock = Clock(warm)
        trainer.add_callback(clock)
        if not warm:
            clock.begun = now(), process_time()
        trainer.train()
        trainer.accelerator.free_memory()
    done = batches[warm * t.accumulation : (warm + steps) * t.accumulation]
    content, computed, learned = (sum(numbers) for numbers in zip(*done))
    return {
        "seconds": clock.ended[0] - clock.begun[0],
        "processor_seconds": clock.ended[1] - clock.begun[1],
        "content": content,
        "computed": computed,
        "learned": learned,
        "losses": clock.losses,
    }


def made_up_rows(count: int, average: float, most: int, vocabulary: int) -> list[Tokens]:
    """Rows of random tokens, an eighth of each to be learned; their lengths log-normal (σ = 0.5), at most `most`."""
    chance, rows = random.Random(0), []
    for _ in range(count):
        size = min(most, max(16, round(average * chance.lognormvariate(-0.125, 0.5))))
        ids = [chance.randrange(vocabulary) for _ in range(size)]
        rows.append({"input_ids": ids, "labels": [IGNORED] * (size - size // 8) + ids[size - size // 8 :]})
    return rows


def measure(
    make: Callable[[], LM],
    rows: list[Tokens],
    t: TrainSettings,
    steps: int,
    warm: int,
    rounds: int,
    ways: Sequence[str] = tuple(WAYS),
    peak: float | None = None,
) -> dict[str, Any]:
    """Content tokens a second of each way, by the medians of the rounds, and what each gains over the published one.

    peak  the device's operations a second; without it no share of them is told
    """
    lengths = [len(row["input_ids"]) for row in rows]
    chosen = {way: settings_of(way, t, lengths) for way in ways}
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    held: dict[str, int] = {}
    for n in range(rounds):
        for way in sorted(ways, reverse=n % 2 == 1):  # who goes first changes from round to round
            lm = make()
            if on_gpu := lm.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            runs[way].append(train(lm, rows, chosen[way], steps, warm))
            held[way] = peak_bytes(lm.device) if on_gpu else 0
            config, half = lm.model.config, t.method == "full" and lm.dtype == torch.bfloat16
            del lm
            gc.collect()  # a trainer and its model hold each other
            if on_gpu:
                torch.cuda.empty_cache()
    shape = shape_of(config, t)
    found = {way: told(runs[way], chosen[way], shape, peak, half) for way in ways}
    for way, each in found.items():
        each |= {"peak_gigabytes": round(held[way] / GB, 3)} if held[way] else {}
        for of in ("seconds", "processor_seconds") if "published" in found else ():
            name = {"seconds": "times_faster", "processor_seconds": "times_less_work"}[of]
            each[name] = round(each["a_second"][of] / found["published"]["a_second"][of], 2)
    return {
        "settings": t.model_dump(mode="json", include={"method", "batch_size", "accumulation", "bf16", "attention",
                                                       "gradient_checkpointing", "lora"}),
        "lengths": {"rows": len(rows), "mean": round(mean(lengths), 1), "median": median(lengths),
                    "p95": round(quantiles(lengths, n=20, method="inclusive")[-1], 1), "longest": max(lengths)},
        "steps": steps, "warm_steps": warm, "rounds": rounds, "ways": found,
    }  # fmt: skip


def told(runs: list[dict[str, Any]], t: TrainSettings, shape: Shape, peak: float | None, half: bool) -> dict[str, Any]:
    """The figures of one way; `half`: what would be float32 in a full run, weights, gradients, states, was bfloat16."""
    memory = estimate(shape, t)
    states = memory.parameters + memory.gradients + memory.optimizer
    bytes_ = memory.total - half * (states / 2 + memory.buffers)
    of = ("seconds", "processor_seconds")
    speed = {name: median(run["content"] / run[name] for run in runs) for name in of}
    last = runs[-1]
    made: dict[str, Any] = {
        "a_second": {name: round(value, 1) for name, value in speed.items()},
        "content_share": round(last["content"] / last["computed"], 4),
        "learned_share": round(last["learned"] / last["content"], 4),
        "row_tokens": t.max_length,
        "first_loss": last["losses"][0],
        "estimated_gigabytes": round(bytes_ / GB, 3),
        **{name: [round(run[name], 4) for run in runs] for name in of},
    }
    if peak:  # PaLM (arXiv:2204.02311, appendix B): what checkpointing does again is the hardware's, not the model's
        for name, again in (("model", False), ("hardware", t.gradient_checkpointing)):
            needed = flops(shape, t.model_copy(update={"gradient_checkpointing": again}), 10**6, round(
                10**6 * last["learned"] / last["content"]))  # fmt: skip
            made[f"{name}_flop_utilisation"] = round(speed["seconds"] * needed / 10**6 / peak, 4)
    return made
