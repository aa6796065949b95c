"""Alignment runs as processes of their own, one or two ranks, which do not outlive the test that started them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lte.align.callbacks import read

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
PATIENCE = 500  # seconds, on a machine that has much else to do
NEEDED = {"deepspeed", "c++", "ninja"}  # DeepSpeed builds its operator for the CPU when it first runs there


def missing() -> set[str]:
    """The programs of `NEEDED` that are not there."""
    return {name for name in NEEDED if shutil.which(name, path=PATH) is None}


class Run:
    """One alignment run: the last process that was started for it, what it says, and what it leaves."""

    def __init__(self, config: Path, output: Path) -> None:
        self.config, self.output = config, output
        self.work, self.log = Path(f"{output}.work"), Path(f"{output}.log")
        self.process: subprocess.Popen[bytes] | None = None

    def one(self, *more: str) -> Run:
        """Start it in one process, with the rows of two ranks in each step."""
        return self._start(
            sys.executable, "-u", "launch/align.sh", str(self.config), "--set", "train.batch_size=16", *more
        )

    def two(self, preset: str, *more: str) -> Run:
        """Start it on two ranks under a DeepSpeed preset, by the line that the README gives."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        line = ("--num_gpus", "2", "--master_addr", "127.0.0.1", "--master_port", port, "launch/align.sh")
        return self._start(
            "deepspeed", *line, str(self.config), "--set", f"deepspeed=configs/deepspeed/{preset}.json", *more
        )

    def _start(self, *command: str) -> Run:
        env = {**os.environ, "PATH": PATH, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
               "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
        program = shutil.which(command[0], path=PATH) or command[0]
        line = [program, *command[1:], "--set", f"output={self.output}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
        return self

    def ends(self, status: int = 0) -> Run:
        """Wait for the end, and for this status."""
        assert self.process and self.process.wait(PATIENCE) == status, self.said[-6000:]
        return self

    def fails(self) -> int:
        """Wait for the end; its status, which is not 0."""
        assert self.process and self.process.wait(PATIENCE) != 0, self.said[-6000:]
        return self.process.returncode

    def until(self, done: Callable[[], object], running: bool = True) -> Run:
        """Wait for something; an end before it, where the run is to be `running`, is a failure."""
        end = time.monotonic() + PATIENCE
        while not done():
            ended = running and self.process is not None and self.process.poll() is not None
            assert not ended and time.monotonic() < end, self.said[-6000:]
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """kill -9 of the process and of all that it has started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def said(self) -> str:
        """What the last start has written."""
        return self.log.read_text(errors="replace")

    @property
    def ranks(self) -> list[int]:
        """The ranks' process ids, as the launcher tells them."""
        return [int(pid) for pid in re.findall(r"process (\d+) spawned", self.said)]

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each step so far, as the local log has it."""
        return {line["step"]: line["loss"] for line in read(self.work / "log.jsonl") if "loss" in line}

    @property
    def checkpoints(self) -> set[str]:
        """The names of those in the work folder."""
        return {path.name for path in self.work.glob("checkpoint-*")}


@contextmanager
def ended(run: Run) -> Iterator[Run]:
    """Within: a run at work. After: nothing of it is."""
    try:
        yield run
    finally:
        run.kill()


def alive(pid: int) -> bool:
    """Whether a process is there, and not merely not yet asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
