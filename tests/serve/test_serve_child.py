"""A vLLM of the server's own, played by a small program behind the same script: it starts, comes back, and ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from lte.serve import ServeConfig, ServeError
from lte.serve import child as children
from lte.serve.child import own_vllm, script
from lte.serve.config import VllmConfig
from lte.serve.run import engine_of

PLAYED = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
def after(name):
    at = sys.argv.index(name) + 1
    return sys.argv[at : next((i for i in range(at, len(sys.argv)) if sys.argv[i].startswith("--")), None)]
print("I run as", os.getpid(), "with", sys.argv[1:], flush=True)
if "--fail" in sys.argv: sys.exit("no room on the card")
names = [i for i in range(len(sys.argv)) if sys.argv[i] == "--served-model-name"][-1]  # as argparse: the last counts
served = sys.argv[names + 1 : names + 3]
lora = [m.split("=") for m in after("--lora-modules")] if "--lora-modules" in sys.argv else []
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        cards = [{"id": n, "parent": None} for n in served]
        cards += [{"id": n, "root": r, "parent": served[0]} for n, r in lora]
        body = json.dumps({"data": cards, "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
HTTPServer((after("--host")[0], int(after("--port")[0])), Handler).serve_forever()
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment whose Python plays vLLM."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "played.py").write_text(PLAYED)
    python = tmp_path / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -m ]; then shift 2; exec {sys.executable} {tmp_path}/played.py "$@"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return tmp_path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOOK", 0.05)
    monkeypatch.setattr(children, "FIRST_WAIT", 0.05)


def settings(venv: Path, *args: str, **more: Any) -> ServeConfig:
    log = str(venv / "vllm.log")
    return ServeConfig(vllm=VllmConfig(args=args, venv=str(venv), log=log, start_seconds=60), **more)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_servers_own_vllm_is_its_upstream_and_ends_with_it(venv: Path) -> None:
    with ExitStack() as doors:
        config, engine = engine_of(
            settings(venv, "--dtype", "float32"), lambda: pytest.fail("a model was loaded"), doors
        )
        assert (engine.name, list(engine.adapters), config.adapter) == ("pocket", ["lte"], "lte")
        assert engine.names.off == "pocket:base"  # type: ignore[attr-defined]
        [url] = config.upstreams
        assert httpx.URL(url).host == "127.0.0.1"
        pid = httpx.get(f"{url}/x").json()["pid"]
    assert not runs(pid)
    log = (venv / "vllm.log").read_text()
    assert "'--dtype', 'float32'" in log and "'--max-loras', '2'" in log and "'--host', '127.0.0.1'" in log


def test_without_an_adapter_the_model_is_served_alone(venv: Path) -> None:
    with ExitStack() as doors:
        _, engine = engine_of(settings(venv, adapter=None), lambda: pytest.fail("a model was loaded"), doors)
        assert engine.prompt_only
    assert "--enable-lora" not in (venv / "vllm.log").read_text()


def test_it_is_started_again_when_it_ends(venv: Path, wait: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lte")

    def pid(url: str) -> int:
        try:
            return int(httpx.get(url).json()["pid"])
        except httpx.TransportError:
            return 0

    with own_vllm(settings(venv)) as config:
        [url] = config.upstreams
        first = pid(url)
        os.kill(first, signal.SIGKILL)
        wait(lambda: pid(url) not in (0, first))
        second = pid(url)
    assert "vLLM ended with -9; it is started again" in caplog.text
    assert not runs(second)
    assert (venv / "vllm.log").read_text().count("I run as") == 2  # the log goes on


def test_one_that_ends_before_it_is_up_is_told_with_its_last_words(venv: Path) -> None:
    with pytest.raises(ServeError, match=r"(?s)vLLM ended with 1 before it was up.*no room on the card"):
        with own_vllm(settings(venv, "--fail")):
            pass


def test_what_cannot_be_is_told(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServeError, match="both are set"):
        with own_vllm(settings(venv, upstreams=("http://127.0.0.1:1",))):
            pass
    with pytest.raises(ServeError, match="before it was up"):  # no such environment
        with own_vllm(
            settings(venv / "nowhere").model_copy(update={"vllm": VllmConfig(log=str(venv / "log"), venv="x")})
        ):
            pass
    assert script().is_file()
