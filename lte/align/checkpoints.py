"""The folder that a run goes on from: which checkpoint is whole, whose it is, and whether the next one fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lte.align.dataset import AlignError

RUN = "run.json"  # in the work folder: what its checkpoints were made with
KEPT = 2  # checkpoints on disk, and for a moment one more
FREE = {  # settings that a run may go on with after they were changed
    "max_steps", "save_steps", "log_steps", "trackers", "watch", "attention", "liger", "gradient_checkpointing",
}  # fmt: skip


def fingerprint(model: str, data: Any, seed: int, train: Mapping[str, Any], ranks: int, zero: bool) -> dict[str, Any]:
    """What a checkpoint stands on: with any other value, what it holds would not be this run's beginning."""
    chosen = {f"train.{name}": value for name, value in train.items() if name not in FREE}
    return {"model": model, "data": data, "seed": seed, "ranks": ranks, "deepspeed": zero, **chosen}


def pick(work: Path, resume: str, mine: Mapping[str, Any]) -> str | None:
    """The checkpoint to go on from: the last whole one (`auto`), the one named, or none.

    Raises `AlignError` for a folder that is not there, and for checkpoints of another run.
    """
    if resume == "none":
        return None
    if resume != "auto":
        if not Path(resume).is_dir():
            raise AlignError(f"--resume {resume}: no such checkpoint folder; use auto, none or a checkpoint-N folder")
        _refuse_others(Path(resume).resolve().parent, mine)
        return resume
    done = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    ranks = (_signed(work) or mine).get("ranks", 1)
    whole = [p for p in done if _whole(p, ranks)]  # a kill while saving leaves a part
    if not whole:
        return None
    _refuse_others(work, mine)
    return str(whole[-1])


def sign(work: Path, mine: Mapping[str, Any]) -> None:
    """Write down what the checkpoints of this folder are made with."""
    work.mkdir(parents=True, exist_ok=True)
    part = work / f"{RUN}.part"
    part.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")
    part.replace(work / RUN)  # at once: the other ranks may be reading it


def refuse_full_disk(work: Path, trained: int, weights: int) -> None:
    """Raise `AlignError` where the checkpoints that are kept at once would not fit.

    trained  numbers that move; a checkpoint has Adam's two states of each in float32, and under ZeRO a master copy
    weights  bytes of the weights that a checkpoint writes
    """
    wanted = (KEPT + 1) * (12 * trained + weights)
    there = next(p for p in (work.absolute(), *work.absolute().parents) if p.exists())
    if (free := shutil.disk_usage(there).free) < wanted:
        raise AlignError(
            f"{work}: {free / 1e9:.1f} GB are free, {KEPT + 1} checkpoints take up to {wanted / 1e9:.1f} GB; set "
            "`work` to a larger disk, or make room"
        )


def _whole(checkpoint: Path, ranks: int) -> bool:
    """Whether every rank has written its part: its random state is the last of it, and then the trainer's file."""
    if len(list(checkpoint.glob("rng_state*.pth"))) < ranks:
        return False
    try:
        return isinstance(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _signed(work: Path) -> dict[str, Any] | None:
    """What the checkpoints of this folder are made with; an earlier version wrote nothing down."""
    file = work / RUN
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _refuse_others(work: Path, mine: Mapping[str, Any]) -> None:
    if (theirs := _signed(work)) is None:
        return
    here = json.loads(json.dumps(mine))
    other = sorted(name for name in {*here, *theirs} if here.get(name) != theirs.get(name))
    if other:
        told = "; ".join(f"{name} was {theirs.get(name)!r} and is {here.get(name)!r}" for name in other[:4])
        raise AlignError(
            f"{work}: its checkpoints are of another run: {told}. Go on with the settings of that run, start over with "
            "--resume none, or name another `work` folder"
        )
