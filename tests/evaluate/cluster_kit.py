"""An editor that stops, breaks or dies where a test wants it to, and the files of a run without the times in them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lte.config import Config
from lte.editors import editor
from lte.editors.base import Handle
from lte.edits import Edit
from lte.evaluate.results import read_results
from lte.models import LM

CLOCK = {"date", "timestamp", "total_evaluation_time_seconds", "git_hash"}
COSTS = ("seconds_per_edit", "seconds_per_answer", "peak_bytes")


class ActedConfig(Config):
    """The settings of an acted editor."""

    folder: Path
    driver: int = 0  # the process that it can be made in; 0: any
    deadly: bool = False  # its process dies with the first edit
    stubborn: bool = False  # it leaves the model changed


class Acted:
    """Fine-tunes, and acts on what lies in its folder."""

    name = "acted"

    def __init__(self, config: ActedConfig) -> None:
        self.config, self.applied = config, 0
        self.inner = editor("ft_m", {"layer": 1, "steps": 3, "lr": 0.01})

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        if self.config.deadly:
            os._exit(1)
        self.applied += 1
        if (self.config.folder / "doomed").exists():
            self.act(self.config.folder)
        if self.config.stubborn:
            next(lm.model.parameters()).data += 1
        return self.inner.apply(lm, edits)

    def act(self, folder: Path) -> None:
        """On the doomed node, stop before the third edit and say so; on others, wait until that has come to pass."""
        import ray

        if ray.get_runtime_context().get_node_id() != (folder / "doomed").read_text():
            while not (folder / "stopped").exists():
                time.sleep(0.02)
        elif self.applied == 3:
            (folder / "stopped").touch()
            time.sleep(600)


def make(name: str, settings: Any) -> Any:
    """The editor of that name."""
    config = ActedConfig(**settings)
    if config.driver not in (0, os.getpid()):
        raise ValueError(f"{name}: cannot be made out here")
    return Acted(config)


def files(folder: Path) -> dict[str, Any]:
    """Every file that a finished run leaves to read, without the times and the paths in it."""
    found = read_results(folder).data
    told = {k: v for k, v in found.items() if k not in CLOCK}
    told["config"] = {k: v for k, v in told["config"].items() if k not in ("output", "cache")}
    told["results"] = {
        task: {k: v for k, v in figures.items() if not k.startswith(COSTS)}
        for task, figures in found["results"].items()
    }
    samples = {p.name.rpartition("_")[0]: p.read_bytes() for p in sorted(folder.glob("samples_*.jsonl"))}
    return {"results": told, **samples}
