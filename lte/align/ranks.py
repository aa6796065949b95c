"""One process among several: what it must find before it starts, and what it notices of the others' end."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lte.align.adapter import require
from lte.align.dataset import AlignError

log = logging.getLogger(__name__)
LAUNCHER = "deepspeed.launcher.launch"  # the module that starts the ranks of a node; `deepspeed` runs it


def refuse_misuse(preset: str | None) -> None:
    """Raise `AlignError` for a DeepSpeed preset that cannot be read, and for a process without a GPU of its own."""
    import torch

    gpus, rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available() and rank >= gpus:
        raise AlignError(
            f"process {rank + 1} of this node has no GPU: {gpus} can be seen. Start one process a GPU: deepspeed "
            f"--num_gpus {gpus} launch/align.sh CONFIG"
        )
    if preset is None:
        return
    require("deepspeed", "a preset under `deepspeed`", "deepspeed")
    try:
        found = json.loads(Path(preset).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AlignError(
            f"deepspeed: {preset} cannot be read ({error}); ready ones are zero2.json, zero3.json and "
            "zero3-offload.json in configs/deepspeed"
        ) from error
    if not isinstance(found, dict):
        raise AlignError(f"deepspeed: {preset}: wanted a mapping of DeepSpeed's settings, found {found!r:.60}")


def on_one_gpu(arguments: Any) -> Any:
    """The trainer's arguments, held to one GPU where no launcher started a process for each.

    transformers would divide each batch among all GPUs within one process, and `batch_size` would mean another size.
    """
    if arguments.n_gpu > 1:
        log.warning(
            "one process trains on one of %d GPUs; for all of them: deepspeed launch/align.sh CONFIG", arguments.n_gpu
        )
        arguments._n_gpu = 1
    return arguments


class Launcher:
    """The DeepSpeed launcher that this process runs under, if it does.

    SIGTERM ends the program `deepspeed` without a word to the ranks, which would go on, unseen, on all GPUs.
    """

    def __init__(self) -> None:
        self._above = _above()

    def gone(self) -> bool:
        """Whether it has ended while this process goes on."""
        return self._above is not None and _above() != self._above


def _above() -> tuple[int, int] | None:
    """Ids of the process that starts the ranks and of `deepspeed` above it; 0 for the latter where there is none."""
    if "LOCAL_RANK" not in os.environ or find_spec("psutil") is None:
        return None
    import psutil

    try:
        parent = psutil.Process().parent()
        if parent is None or LAUNCHER not in parent.cmdline():
            return None
        first = parent.parent()
        return parent.pid, first.pid if first and any("deepspeed" in part for part in first.cmdline()) else 0
    except psutil.Error:
        return None


@contextmanager
def lost_ranks_told(work: Path) -> Iterator[None]:
    """Within: an error of the connection to the other ranks is an `AlignError` that says what to do."""
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, DistError) and not any(name in str(error).lower() for name in ("gloo", "nccl")):
            raise
        raise AlignError(
            f"another rank has ended: {str(error).splitlines()[0]} See its own error, above or in its node's log. The "
            f"checkpoints in {work} stand; the same command goes on from the last one"
        ) from error
