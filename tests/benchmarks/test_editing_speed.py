"""Edits a second: values sought many at once from cached activations, against one at a time with nothing cached.

In the suite both find the same values. To measure, in turns, so that whatever else the machine does falls on both:

    cd tests/benchmarks && PYTHONPATH=../.. python test_editing_speed.py --model pocket -o results/editing-cpu.json

`--model llama3.2-1b` and `--model llama3-8b --device cuda` take random weights of those shapes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from bench_kit import (
    PREFIXES,
    SHAPES,
    about,
    compared,
    device,
    in_turns,
    made_up,
    made_up_texts,
    peak_bytes,
    random_model,
    write,
)
from torch import Tensor

from lte.config import load, shipped
from lte.editors import batch, located, values
from lte.editors.activations import last_seen
from lte.editors.contexts import Row
from lte.editors.located import LocatedConfig, Ready, changes_of_values
from lte.editors.memit import Memit, MemitConfig
from lte.edits import Edit, read_cases
from lte.models import LM, Trace, load_model
from lte.pocket import home

Search = Callable[[LM, int, Sequence[Edit], Ready, LocatedConfig, int], Tensor]  # what `changes_of_values` is


@dataclass(frozen=True)
class Whole:
    """In the place of `Seen`: rows of which nothing is kept but what the MLP gives at the subject, (rows, 1, d)."""

    rows: Sequence[Row]
    outputs: Tensor

    def only(self, rows: Sequence[int]) -> Whole:
        """The same for some of the rows."""
        return Whole([self.rows[i] for i in rows], self.outputs[list(rows)])


def whole(lm: LM, layer: int, rows: Sequence[Row]) -> Whole:
    """`look_at_subjects`, but nothing is kept that would spare a later forward anything."""
    _, outputs = last_seen(lm, lm.mlp_out_module(layer), [row.ids[: row.subject + 1] for row in rows])
    return Whole(rows, outputs[:, None])


def logits_of_whole(lm: LM, layer: int, seen: Whole, change: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """`logits_from`, but every token goes through every block again."""
    ids, mask = lm.pad([row.ids[: row.places[-1] + 1] for row in seen.rows])
    each = torch.arange(len(seen.rows), device=ids.device)
    subjects = torch.tensor([row.subject for row in seen.rows], device=ids.device)
    row = torch.tensor([i for i, r in enumerate(seen.rows) for _ in r.places], device=ids.device)
    at = torch.tensor([t for r in seen.rows for t in r.places], device=ids.device)

    def changed(out: Tensor) -> Tensor:
        return out.index_put((each, subjects), change(None, out[each, subjects][:, None])[:, 0])

    with Trace(lm.mlp_out_module(layer), change=changed), lm.logits_at(lambda hidden: hidden[row, at][None]):
        logits: Tensor = lm.model(ids, attention_mask=mask, use_cache=False).logits[0]
    return logits


def one_at_a_time(
    lm: LM, layer: int, edits: Sequence[Edit], ready: Ready, config: LocatedConfig, batch_size: int = 1
) -> Tensor:
    """`changes_of_values` as the field seeks them: the same code for one edit after the other, nothing cached."""
    with patch.object(located, "look_at_subjects", whole), patch.object(values, "logits_from", logits_of_whole):
        return torch.cat([changes_of_values(lm, layer, [edit], ready, config, 1) for edit in edits])


WAYS: dict[str, Search] = {"one_at_a_time": one_at_a_time, "ours": changes_of_values}


def written(lm: LM, memit: Memit, edits: Sequence[Edit], size: int, search: Search) -> Tensor:
    """Write the edits into the model, `size` at once, each batch undone before the next; their values' changes."""
    found: list[Tensor] = []

    def kept(*arguments: Any) -> Tensor:
        found.append(search(*arguments))
        return found[-1]

    with patch.object(batch, "changes_of_values", kept):
        for start in range(0, len(edits), size):
            memit.apply(lm, edits[start : start + size]).undo()
    return torch.cat(found)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖ / ‖b‖ of each edit's δ."""
    return torch.linalg.vector_norm(a - b, dim=1) / torch.linalg.vector_norm(b, dim=1)


STOPS: dict[str, dict[str, Any]] = {
    "never": {"stop_loss": 0.0},
    "loss": {"stop": "loss", "stop_loss": 3.0},
    "argmax": {"stop": "argmax"},
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("layer", [0, 1])  # at the last, nothing behind the subject reads it
def test_values_do_not_depend_on_how_they_are_sought(tiny_lm: LM, layer: int, stop: str) -> None:
    tiny_lm.chat = False
    edits, ready = made_up(6), Ready({}, PREFIXES[:2], 0.0)
    config = MemitConfig(v_steps=12, v_lr=0.3, v_decay=1e-3, clamp=20, **STOPS[stop])
    forwards = []
    with patch.object(tiny_lm.model, "forward", wraps=tiny_lm.model.forward) as model:
        found = [one_at_a_time(tiny_lm, layer, edits, ready, config)]
        forwards.append(model.call_count)
        for at_once in (1, 4, 6):
            model.reset_mock()
            found.append(changes_of_values(tiny_lm, layer, edits, ready, config, at_once))
            forwards.append(model.call_count)
    assert all(float(apart(x, found[0]).max()) <= 1e-4 for x in found[1:])
    assert forwards[0] == forwards[1] > forwards[2] > forwards[3]  # the same steps, more of them in one forward
    assert found[0].norm(dim=1).min() > 0


def test_editing_is_measured(tiny_lm: LM, tmp_path: Path) -> None:
    memit = prepared(tiny_lm, MemitConfig(layers=(1,), v_steps=3, weight=1.0), tmp_path)
    figures = measure(tiny_lm, memit, made_up(5), size=4, alone=2, rounds=1)
    assert figures["edits"] == {"one_at_a_time": 2, "ours": 5} and figures["apart"]["largest"] <= 1e-4
    assert not tiny_lm.handles


# --- the measurement ------------------------------------------------------------------------------------------------


def settings_of(model: str, at_once: int) -> MemitConfig:
    """MEMIT's settings as they are shipped for the model; the tiny one takes the pocket model's."""
    named = "pocket" if model == "tiny" else model
    return load(MemitConfig, shipped(f"editors/{named}/memit.yaml"), [f"batch_size={at_once}"])


def prepared(lm: LM, config: MemitConfig, cache: Path) -> Memit:
    """The editor, its statistics taken of few tokens: how good C is takes no time."""
    few = config.statistics.model_copy(update={"tokens": 2000, "cache": cache})
    memit = Memit(config.model_copy(update={"statistics": few}), list(made_up_texts(2000)))
    with patch.object(located, "sampled_prefixes", lambda lm, count, length, seed: PREFIXES[:count]):
        memit.prepare(lm)
    return memit


def measure(lm: LM, memit: Memit, edits: Sequence[Edit], size: int, alone: int, rounds: int) -> dict[str, Any]:
    """Edits a second of both ways, values and the change to the matrix; of the slow one, of the first `alone` edits."""
    counts = {"one_at_a_time": min(alone, len(edits)), "ours": len(edits)}
    ways = {n: partial(written, lm, memit, edits[: counts[n]], min(size, counts[n]), WAYS[n]) for n in WAYS}
    given, took = in_turns(ways, rounds)
    differences = apart(given["ours"][: counts["one_at_a_time"]], given["one_at_a_time"])
    return {
        "batch": size,
        "values_at_once": min(size, memit.config.batch_size),
        "edits": counts,
        "apart": {"largest": float(differences.max()), "median": float(differences.median())},
        **compared(took, counts),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="Edits a second, against one at a time with nothing cached.")
    parser.add_argument("--model", choices=["pocket", *SHAPES], default="pocket")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--ones", type=int, default=16, help="edits written one by one where the batch is 1")
    parser.add_argument("--alone", type=int, default=64, help="edits at most for the way without cache")
    parser.add_argument("--at-once", type=int, help="edits whose values are sought in one forward; 16, on CUDA 64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    on = device(asked.device)
    torch.set_num_threads(asked.threads)
    if asked.model == "pocket":
        lm = load_model("pocket", device=asked.device)
        edits = [case.edit for case in read_cases(home() / "align.jsonl")]
    else:
        lm = random_model(asked.model, asked.device, torch.float32 if on.type == "cpu" else torch.bfloat16, chat=False)
        edits = made_up(max(asked.batches + [asked.ones]))
    at_once = asked.at_once or (16 if on.type == "cpu" else 64)  # more than a processor's cache holds is no faster
    config = settings_of(asked.model, at_once)
    with tempfile.TemporaryDirectory() as cache:
        memit = prepared(lm, config, Path(cache))
        warm = edits[: min(at_once, *asked.batches, 4)]
        measure(lm, memit, warm, len(warm), 1, 1)
        rows = [
            measure(lm, memit, edits[: max(n, asked.ones if n == 1 else n)], n, asked.alone, asked.rounds)
            for n in asked.batches
        ]
    found = {
        **about(__file__, arguments),
        "how": "both ways in turn in one process, medians of the rounds; values and the change to the matrix, not the "
        "statistics, which are taken once",
        "model": lm.name,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": asked.threads,
        "layer": memit.layers(lm)[-1],
        "contexts": 1 + config.prefixes,
        "steps_at_most": config.v_steps,
        "peak_bytes": peak_bytes(on),
        "editing": rows,
    }
    write(asked.output, found)


if __name__ == "__main__":
    main()
