"""Tokens of real content a second in alignment: against every row filled up to 2048 tokens, as LTE was published.

In the suite: a few rows of a small random model. To measure, one thread, in turns, so that whatever else the machine
does falls on all:

    cd tests/benchmarks && PYTHONPATH=../.. python test_align_throughput.py -o results/align-throughput-cpu.json

or, the pocket model alone and one after the other: pytest --benchmark-enable --benchmark-only -k align_throughput

`--shape llama3-8b --device cuda --method lora` (or full) takes random weights of that shape, and batches, accumulation
and checkpointing of the ready config. Then the share of the GPU's peak that the model's own arithmetic takes is told as
well: wanted are 45% in bfloat16 on one H200. There `full` has weights, gradients and Adam's states in bfloat16, 64 GB
(in float32, 144 GB with the copies of autocast): good to measure by, not to train well by.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from align_ways import PUBLISHED, WAYS, made_up_rows, measure, settings_of, train
from bench_kit import SHAPES, about, device, random_model, write

from lte.align.rows import Tokens, tokenised
from lte.align.settings import AlignConfig, TrainSettings
from lte.config import load, shipped
from lte.models import LM, load_model
from lte.pocket import home

pytest.importorskip("trl", reason="alignment needs the extra: pip install 'lte[align]'")
PEAKS = {  # operations a second in dense bfloat16, by NVIDIA's data sheets and the names that its driver gives
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}


# --- the suite's part -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_align_throughput(benchmark: Any, tiny_lm: LM, way: str) -> None:
    """Each way trains on the content of all rows, in as many computed tokens as its batches have."""
    measured = benchmark.enabled
    lm = pocket() if measured else tiny_lm
    rows = made_up_rows(32 if measured else 4, 100, 400, lm.model.config.vocab_size)
    t = TrainSettings(batch_size=2, warmup_steps=0, bf16=measured, lora={"r": 4})
    t = settings_of(way, t, [len(row["input_ids"]) for row in rows])
    steps = len(rows) // 2 if way != "packed" else 1
    found = benchmark.pedantic(train, (lm, rows, t, steps, 0))
    benchmark.extra_info.update(found)
    whole = sum(len(row["input_ids"]) for row in rows)
    if way == "packed":
        assert found["content"] == found["computed"] <= t.max_length
    else:
        computed = {"published": PUBLISHED * len(rows), "padding-free": whole}.get(way, found["computed"])
        assert found["content"] == whole <= found["computed"] == computed < 2 * t.max_length * len(rows)
    assert len(found["losses"]) == steps and 0 < found["learned"] < found["content"] / 6 and found["seconds"] > 0


def test_ways_of_batching_learn_the_same(tokenizer: Any) -> None:
    """The loss of a step is that of its rows, with or without padding."""
    from tiny_models import tiny_model

    losses = {}
    for way in ("published", "longest", "padding-free"):
        lm = LM.of(tiny_model("llama", tokenizer), tokenizer)
        rows = made_up_rows(2, 50, 100, len(tokenizer))
        t = TrainSettings(batch_size=2, warmup_steps=0, bf16=False, method="full", learning_rate=1e-3)
        losses[way] = train(lm, rows, settings_of(way, t, [len(r["input_ids"]) for r in rows]), 2, 0)["losses"]
    assert losses["published"] == pytest.approx(losses["longest"], abs=1e-4)
    assert losses["padding-free"] == pytest.approx(losses["longest"], abs=1e-4)
    assert losses["longest"][0] != pytest.approx(losses["longest"][1], abs=1e-3)


@pytest.mark.parametrize("method,batch", [("lora", 8), ("full", 4)])
def test_a_model_of_a_shape_is_measured(tmp_path: Path, method: str, batch: int) -> None:
    """The command for a GPU, in small: figures of every way that was asked, and its share of a peak."""
    output = tmp_path / "found.json"
    command = ["--shape", "tiny", "--method", method, "--ways", "longest", "packed", "--steps", "1", "--warm", "0"]
    main([*command, "--accumulation", "2", "--average", "40", "--peak-tflops", "0.01", "-o", str(output)])
    found = json.loads(output.read_text())
    [part] = found["alignment"]
    assert set(part["ways"]) == {"longest", "packed"} and part["settings"]["gradient_checkpointing"] is True
    assert part["settings"]["batch_size"] == batch and part["lengths"]["rows"] == 2 * batch
    for each in part["ways"].values():
        assert 0 < each["model_flop_utilisation"] < each["hardware_flop_utilisation"] < 1
        assert each["estimated_gigabytes"] > 0 and each["content_share"] <= 1


# --- the measurement --------------------------------------------------------------------------------------------------


def pocket() -> LM:
    """The pocket model; rows of 2048 tokens are longer than it was trained on, which takes no other time."""
    lm = load_model("pocket", device="cpu")
    lm.model.config.max_position_embeddings = PUBLISHED
    return lm


def pocket_rows(count: int, folder: Path) -> list[Tokens]:
    """Rows of the pocket model's own dataset, as `lte align data` builds it, but for near misses."""
    from lte.align.data import DataConfig, base_of, build_data, read_rows

    overrides = [f"items={count // 4}", "rates.near_miss=0", f"cache={folder / 'answers'}"]
    overrides += [f"sources.facts.path={home() / 'align.jsonl'}"]
    overrides += [f"held_out.evaluation.path={home() / 'cases.jsonl'}"]
    config = load(DataConfig, shipped("align/data/pocket.yaml"), overrides)
    lm = load_model("pocket", device="cpu")
    build_data(config, folder / "data", lambda: base_of(lm, config.max_new_tokens), None, lambda *_: None)
    rows = list(read_rows(folder / "data"))
    random.Random(0).shuffle(rows)
    made, _ = tokenised(lm.tokenizer, rows[:count], TrainSettings(max_length=config.max_length))
    return made


def of_a_shape(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A random model of a real one's shape, trained as its ready config says."""
    name = f"llama3-8b{'-full' * (asked.method == 'full')}" if asked.shape in ("llama3-8b", "tiny") else asked.shape
    t = load(AlignConfig, shipped(f"align/{name}.yaml")).train
    changed = {"method": asked.method, "attention": asked.attention, "accumulation": asked.accumulation}
    t = t.model_copy(update={k: v for k, v in changed.items() if v is not None})
    dtype = torch.bfloat16 if asked.device != "cpu" else torch.float32
    peak = asked.peak_tflops * 1e12 if asked.peak_tflops else None
    if asked.device != "cpu" and peak is None:
        peak = PEAKS.get(torch.cuda.get_device_name())
        if peak is None:
            raise SystemExit(f"{torch.cuda.get_device_name()}: its peak is not known here; give --peak-tflops, in bf16")
    make = partial(random_model, asked.shape, asked.device, dtype)
    count = t.batch_size * t.accumulation * (asked.warm + asked.steps)
    rows = made_up_rows(count, asked.average, t.max_length, SHAPES[asked.shape]["vocab_size"])
    found = measure(make, rows, t, asked.steps, asked.warm, asked.rounds, asked.ways, peak)
    return [{"model": f"random {asked.shape} shape", "rows": f"random tokens, {asked.average} a row", "peak": peak,
             "weights": str(dtype).removeprefix("torch."), **found}]  # fmt: skip


def of_the_pocket(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The pocket model on rows of its own dataset, which are short, and on random ones as long as LTE's are."""
    t = load(AlignConfig, shipped("align/pocket.yaml"), [f"data.from={shipped('align/data/pocket.yaml')}"]).train
    t = t.model_copy(update={"batch_size": asked.batch_size, "method": asked.method})
    count = t.batch_size * (asked.warm + asked.steps)
    with tempfile.TemporaryDirectory() as folder:
        own = pocket_rows(count, Path(folder))
    kinds = {
        "its own dataset, built from data/pocket/align.jsonl without near misses": own,
        f"random tokens, {asked.average} a row, as LTE's are": made_up_rows(count, asked.average, PUBLISHED, 8192),
    }
    return [
        {"model": "pocket, its context set to 2048", "rows": kind,
         **measure(pocket, rows, t, asked.steps, asked.warm, asked.rounds, asked.ways)}
        for kind, rows in kinds.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="Tokens of real content that alignment trains on in a second.")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape; left out: the pocket model")
    parser.add_argument("--device", default="cpu", help="for --shape")
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch-size", type=int, default=4, help="rows of the pocket model's batches")
    parser.add_argument("--accumulation", type=int, help="batches a step for --shape; left out: its ready config's")
    parser.add_argument("--attention", help="for --shape, as transformers names it: sdpa, flash_attention_2")
    parser.add_argument("--average", type=int, default=400, help="tokens of a random row")
    parser.add_argument("--steps", type=int, default=3, help="that are timed")
    parser.add_argument("--warm", type=int, default=1, help="steps before them")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peak-tflops", type=float, help="of the device in bfloat16, where it is not known here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    device(asked.device)
    torch.set_num_threads(asked.threads)
    found = of_a_shape(asked) if asked.shape else of_the_pocket(asked)
    write(
        asked.output,
        {
            **about(__file__, arguments),
            "how": "ways in turn in one process, medians of the rounds; content: tokens of rows, padding left out; "
            "where other work shares the processor, its own seconds are what can be compared",
            "threads": asked.threads,
            "alignment": found,
        },
    )


if __name__ == "__main__":
    main()
