"""What a run will take, told before it starts: lengths, steps, arithmetic, and the memory of each GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lte.align.dataset import Row
from lte.align.memory import estimate, plan, shape_of
from lte.align.rows import tokenised
from lte.align.settings import AlignConfig
from lte.models import LM

SIZES = (1, 2, 4, 8, 16)  # numbers of GPUs that the memory is told of


def forecast(lm: LM, rows: list[Row], settings: AlignConfig) -> dict[str, Any]:
    """Row lengths, steps and arithmetic, and GB on each GPU: trained by one process, and under the DeepSpeed preset."""
    t = settings.train
    made, report = tokenised(lm.tokenizer, rows, t)
    shape = shape_of(lm.model.config, t)
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    memory = {"one process": estimate(shape, t).gigabytes()}
    if settings.deepspeed:
        preset = json.loads(Path(settings.deepspeed).read_text(encoding="utf-8"))
        for gpus in sorted({ranks, *SIZES}):
            memory[f"{Path(settings.deepspeed).stem} on {gpus}"] = estimate(shape, t, gpus, preset).gigabytes()
    return {
        "lengths": report,
        "trained_parameters": shape.trained,
        "plan": plan(shape, t, [len(row["input_ids"]) for row in made], ranks),
        "gigabytes_a_gpu": memory,
    }
