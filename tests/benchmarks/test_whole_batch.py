"""One MEMIT batch of thousands of edits from a model that was never edited to the changed weights, statistics included.

In the suite: a few edits of a small random model. To measure, random weights of a real shape and edits made of words:

    cd tests/benchmarks && PYTHONPATH=../.. python test_whole_batch.py --shape llama3-8b --device cuda -o FILE
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bench_kit import (
    PREFIXES,
    SHAPES,
    about,
    device,
    made_up,
    made_up_texts,
    now,
    peak_bytes,
    random_model,
    write,
)
from torch import Tensor

from lte.config import load, shipped
from lte.editors import batch, located
from lte.editors.memit import Memit, MemitConfig
from lte.edits import Edit
from lte.models import LM


def measure(lm: LM, config: MemitConfig, edits: Sequence[Edit]) -> dict[str, Any]:
    """Seconds of each part of one batch, and what came of it; undone again.

    A random model never says an answer, so no search for a value ends early: real ones take less.
    """
    [layer] = config.layers or (0,)
    tokens = config.statistics.tokens or 10 * lm.mlp_out(layer).shape[1]
    memit = Memit(config, list(made_up_texts(tokens)))  # a word is a token or more
    seconds = {}
    begun = now()
    with patch.object(located, "sampled_prefixes", lambda lm, count, length, seed: PREFIXES[:count]):
        memit.prepare(lm)
    seconds["statistics"] = now() - begun
    search = batch.changes_of_values

    def timed(*arguments: Any) -> Tensor:
        started = now()
        found = search(*arguments)
        seconds["values"] = now() - started
        return found

    begun = now()
    with patch.object(batch, "changes_of_values", timed), memit.apply(lm, edits) as handle:
        seconds["keys, solve and write"] = now() - begun - seconds["values"]
        [W] = handle.rewrites.values()
        size = float(torch.linalg.matrix_norm(W.change) / torch.linalg.matrix_norm(W.before.double()))
    return {
        "edits": len(handle.edits),
        "layer": layer,
        "steps": config.v_steps,
        "contexts": 1 + config.prefixes,
        "values_at_once": config.batch_size,
        "statistics_tokens": tokens,
        "change_to_weight_norm": size,
        "seconds": {name: round(s, 3) for name, s in seconds.items()} | {"all": round(sum(seconds.values()), 3)},
        "edits_a_second": round(len(handle.edits) / sum(seconds.values()), 3),
    }


def test_a_whole_batch_is_measured(tiny_lm: LM, tmp_path: Path) -> None:
    config = MemitConfig(
        layers=(1,), v_steps=2, prefixes=1, batch_size=4, statistics={"cache": tmp_path, "tokens": 200}
    )
    before = tiny_lm.weight_hash()
    found = measure(tiny_lm, config, made_up(6))
    assert found["edits"] == 6 and 0 < found["change_to_weight_norm"] < 10
    assert set(found["seconds"]) == {"statistics", "values", "keys, solve and write", "all"}
    assert min(found["seconds"].values()) > 0
    assert list(tmp_path.iterdir()) and tiny_lm.weight_hash() == before


def test_word_lists_make_as_many_edits_as_the_study_has() -> None:
    edits = made_up(4096)
    assert len({e.subject for e in edits}) == 4096
    assert all(e.subject in e.prompt for e in edits)


# --- the measurement ------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="One MEMIT batch, statistics included, on a random model.")
    parser.add_argument("--shape", choices=SHAPES, default="llama3-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--edits", type=int, default=4096)
    parser.add_argument("--at-once", type=int, default=64, help="edits whose values are sought in one forward")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    on = device(asked.device)
    torch.set_num_threads(asked.threads)
    named = asked.shape if asked.shape != "tiny" else "llama3-8b"
    config = load(MemitConfig, shipped(f"editors/{named}/memit.yaml"), [f"batch_size={asked.at_once}"])
    lm = random_model(asked.shape, asked.device, chat=False)
    with tempfile.TemporaryDirectory() as cache:  # what is measured is the first time
        told: dict[str, Any] = {"cache": Path(cache)} | ({"tokens": None} if asked.shape == "tiny" else {})
        statistics = config.statistics.model_copy(update=told)
        found = measure(lm, config.model_copy(update={"statistics": statistics}), made_up(asked.edits))
    write(
        asked.output,
        {
            **about(__file__, arguments),
            "how": "random weights, edits and statistics text made of words; no search for a value ends early",
            "model": lm.name,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "peak_bytes": peak_bytes(on),
            **found,
        },
    )


if __name__ == "__main__":
    main()
