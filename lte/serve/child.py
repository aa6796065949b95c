"""A vLLM of the server's own: started, kept running, and ended with the server."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from lte.models.load import POCKET, pocket_home
from lte.serve.config import ServeConfig
from lte.serve.errors import ServeError
from lte.serve.models import BASE

logger = logging.getLogger(__name__)
ADAPTER = "lte"  # what launch/vllm.sh has vLLM call it
LOOK = 0.5  # seconds between two looks at the process
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a restart: twice as long after each that did not last
LASTED = 60.0  # seconds after which a process counts as one that ran
END = 20.0  # seconds to end in peace
TAIL = 2000  # characters of the log that an error shows


class Child:
    """A process that is started again when it ends, until `stop`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command, self._environment, self._log = list(command), dict(environment), log
        self._stopping = threading.Event()
        self.restarts = 0
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, name="lte-child", daemon=True)

    @property
    def pid(self) -> int:
        """Of the process that runs now, which leads a group of its own."""
        return self._process.pid

    def wait(self, url: str, seconds: float) -> None:
        """Return once `url` answers 200, and keep the process running from then on; a `ServeError` if it never does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            code = self._process.poll()
            if code is not None:
                raise ServeError(f"vLLM ended with {code} before it was up; {self._log} says:\n{self._tail()}")
            try:
                if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                    self._keeper.start()
                    return
            except httpx.TransportError:
                pass
            time.sleep(LOOK)
        raise ServeError(f"vLLM is not up after {seconds:g} s (vllm.start_seconds); {self._log} says:\n{self._tail()}")

    def stop(self) -> None:
        """End it and what it started: first asked, then made to."""
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as out:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the server, which lets answers end first
            )

    def _keep(self) -> None:
        wait, begun = FIRST_WAIT, time.monotonic()
        while not self._stopping.wait(LOOK):
            code = self._process.poll()
            if code is None:
                continue
            if time.monotonic() - begun > LASTED:
                wait = FIRST_WAIT
            self._end()  # of its helpers, those that outlived it hold its memory
            logger.error("vLLM ended with %d; it is started again in %g s (%s)", code, wait, self._log)
            if self._stopping.wait(wait):
                return
            wait, begun = min(2 * wait, LONGEST_WAIT), time.monotonic()
            self._process = self._start()
            self.restarts += 1

    def _end(self) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, how)
                self._process.wait(END)
            except ProcessLookupError:
                self._process.poll()
                return
            except subprocess.TimeoutExpired:
                continue

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-TAIL:]


@contextmanager
def own_vllm(config: ServeConfig) -> Iterator[ServeConfig]:
    """Within: a vLLM serves the model and its adapter on this machine alone; the settings come back with its address.

    It serves the model under the names that clients use, so that their requests need no change on the way.
    Raises `ServeError` where it cannot be started, or ends before it is up.
    """
    assert config.vllm is not None
    if config.upstreams:
        raise ServeError("upstreams and vllm: both are set; a server asks its own vLLM or those of others")
    model, adapter = folders(config)
    name = config.name or Path(config.model).name
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = ["--served-model-name", name, name + BASE, "--host", "127.0.0.1", "--port", str(port)]
    command = ["bash", str(script()), model, adapter, *config.vllm.args, *own]
    environment = dict(os.environ) | ({"LTE_VLLM": config.vllm.venv} if config.vllm.venv else {})
    environment.pop("PYTHONPATH", None)  # its packages are its own
    log = Path(config.vllm.log)
    logger.info("starting vLLM, which may take minutes; it writes %s", log)
    try:
        child = Child(command, environment, log)
    except OSError as error:
        raise ServeError(f"vLLM cannot be started ({error}); `make vllm` sets it up") from error
    try:
        child.wait(f"http://127.0.0.1:{port}/health", config.vllm.start_seconds)
        upstream = config.upstream.model_copy(update={"base": name})
        named = ADAPTER if config.adapter else None
        yield config.model_copy(
            update={"name": name, "adapter": named, "upstreams": (f"http://127.0.0.1:{port}",), "upstream": upstream}
        )
    finally:
        child.stop()


def folders(config: ServeConfig) -> tuple[str, str]:
    """The model as vLLM is given it, and the folder of its adapter: "" where it has none."""
    home = pocket_home() if config.model == POCKET else None
    adapter = config.adapter_path or (str(home / "adapter") if home else "")
    return str(home or config.model), adapter if config.adapter else ""


def script() -> Path:
    """launch/vllm.sh: of the installed package, else of the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "launch" / "vllm.sh"
    return inside if inside.exists() else package.parent / "launch" / "vllm.sh"
