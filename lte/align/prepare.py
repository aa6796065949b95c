"""The dataset of a run, built before it: by the first rank; the others wait for the file that says it is whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lte.align.data import Base, DataConfig, base_of, build_data
from lte.align.data.build import identity
from lte.align.data.shards import FIGURES
from lte.align.settings import AlignConfig

log = logging.getLogger(__name__)
Encoder = Callable[[DataConfig], Any]  # what encodes texts for the near misses of a dataset, or None
Progress = Callable[
    [], AbstractContextManager[Callable[[str, int, int], None]]
]  # opens bars, as the data stage reports
LOOK = 2.0  # seconds between two looks of a waiting rank
BATCH = 64  # questions answered at once


def silent() -> AbstractContextManager[Callable[[str, int, int], None]]:
    """No bars."""
    return nullcontext(lambda what, done, of: None)


def prepared(settings: AlignConfig, device: str, encoder: Encoder, progress: Progress) -> str:
    """The folder of the run's dataset: the one that is named, or one in the work folder, built if it is not there.

    A dataset of other settings, or of files that have changed since, has another folder.
    """
    if settings.dataset:
        return settings.dataset
    config = settings.recipe()
    told = json.dumps(identity(config), sort_keys=True)
    folder = settings.checkpoints / f"data-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if int(os.environ.get("RANK", 0)):
        _await(folder / FIGURES)
    else:
        with progress() as report:  # closed before the trainer draws its own
            built = build_data(config, folder, lambda: _base(config, device), encoder(config), report)
        log.info("%s: %s rows, %s", folder, built["rows"], built["roles"])
        if built["missing"]:
            log.warning("%s: no source has an item for %s", folder, ", ".join(built["missing"]))
    return str(folder)


def _base(config: DataConfig, device: str) -> Base:
    from lte.models import load_model

    return base_of(load_model(config.model, device=device), config.max_new_tokens, BATCH)


def _await(path: Path) -> None:
    """Wait until a file is there. Should the first rank fail, the launcher ends the others."""
    waited = 0
    while not path.exists():
        if waited % 60 == 0:
            log.info("waiting for the first rank to build %s", path.parent)
        time.sleep(LOOK)
        waited += int(LOOK)
