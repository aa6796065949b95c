"""The second moment of a layer's keys as it is kept in a cache: under all that it depends on, and under no name."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """C of a layer, (d_k, d_k) in float64 on the CPU; of how many tokens, and in which file it is kept."""

    layer: int
    C: Tensor
    counted: int
    file: Path


def cache_home() -> Path:
    """The folder for what can be computed again: under XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lte" / "statistics"


def file_of(folder: Path | None, key: dict[str, Any]) -> Path:
    """Where C is kept: under everything it depends on, and under no name."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return (folder or cache_home()) / f"{digest}.safetensors"


def read(layer: int, file: Path) -> Moment | None:
    """What a cache file holds; `None` where there is none, or none that can be read."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as tensors:
            C: Tensor = tensors.get_tensor("C")
            counted = json.loads(tensors.metadata()["made"])["counted"]
        return Moment(layer, C, counted, file)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s: cannot be read (%s); measuring again", file, error)
        return None


def write(made: Moment, key: dict[str, Any]) -> None:
    """Keep C; a file appears whole or not at all, and a full disk costs only the next run's time."""
    part = made.file.with_suffix(f".{os.getpid()}.part")
    try:
        made.file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"C": made.C.contiguous()}, part, metadata={"made": json.dumps(key, sort_keys=True)})
        part.replace(made.file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        logger.warning("%s: cannot be written (%s); the next run measures again", made.file, error)
