"""What happens beside the steps: a log that survives a kill, a stop on SIGTERM, the best weights kept."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback

from lte.align.ranks import Launcher
from lte.align.settings import WatchSettings
from lte.align.watch import Watch

log = logging.getLogger(__name__)
BEST = "best.json"  # in the folder of the best weights: the step, and what was measured there


class Journal(TrainerCallback):
    """Every logged step as one line of JSON, written at once; on resumption, lines of steps done again go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines of the steps that the run goes on from."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in read(self.path) if line["step"] <= state.global_step and "train_runtime" not in line]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append what the trainer logs."""
        if state.is_world_process_zero and logs:
            line = {"step": state.global_step, **({"epoch": state.epoch} if state.epoch is not None else {}), **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a last line that a kill has cut is passed over."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class Stop(TrainerCallback):
    """SIGTERM, or the launcher's end, ends the run at the end of the step, with a checkpoint; `asked` tells so."""

    def __init__(self) -> None:
        self.asked, self._launcher = False, Launcher()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within: SIGTERM is heard. After: it means what it meant before."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may listen
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and stop, all ranks at the same step: a rank alone would wait for the others for ever."""
        self.asked |= self._launcher.gone()
        if args.world_size > 1:
            self.asked = _any(self.asked, args.device)
        if self.asked and state.global_step < state.max_steps:
            log.info("asked to stop: saving at step %d", state.global_step)
            control.should_save = control.should_training_stop = True
        return control


class Keeper(TrainerCallback):
    """Measures every so many steps and at the last, logs it, and keeps the weights of the best score."""

    def __init__(self, trainer: Any, watch: Watch, settings: WatchSettings, folder: Path) -> None:
        self._trainer, self._watch, self._settings, self.folder = trainer, watch, settings, folder
        self.best: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the best of the steps that the run goes on from; one of later steps, done again, is none."""
        self._watch.engine = getattr(self._trainer, "deepspeed", None)
        file = self.folder / BEST
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.best = found if found.get("step", state.global_step + 1) <= state.global_step else {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, and save what is better than all before."""
        if state.global_step % self._settings.every and state.global_step != state.max_steps:
            return
        measured = self._watch.measure()
        if args.world_size > 1:
            measured = _first(measured)
        self.last = {"step": state.global_step, **measured}
        due = control.should_log  # the trainer takes it for done with any line, and the step's loss would be lost
        Trainer.log(self._trainer, {f"watch_{name}": value for name, value in measured.items()})
        control.should_log = due
        if self._settings.keep_best and measured["score"] > self.best.get("score", -1):
            self.best = self.last
            (self.folder / BEST).unlink(missing_ok=True)  # until the new weights are whole, there is no best
            self._trainer.save_model(str(self.folder))
            if state.is_world_process_zero:
                (self.folder / BEST).write_text(json.dumps(self.best) + "\n", encoding="utf-8")


def _any(flag: bool, device: Any) -> bool:
    """Whether any rank says so."""
    import torch
    from torch import distributed

    said = torch.tensor(int(flag), device=device)
    distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return bool(said.item())


def _first(value: dict[str, float]) -> dict[str, float]:
    """What the first rank says: figures that differ in the last bit would have some ranks save and others not."""
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]
