"""A signal lets what is under way end, on both ports; a second one ends at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from lte.serve import ServeConfig, ServeError
from lte.serve import run as running
from lte.serve.listen import listening

STREAMS = 10
SCRIPT = """
import asyncio, sys
import uvicorn
from lte.serve.listen import listening, run_both

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.sleep(600)

config = uvicorn.Config(app, log_config=None, lifespan="off")
with listening("127.0.0.1", 0) as door:
    print(door.getsockname()[1], flush=True)
    run_both((config, door), None, lambda: print("stopping", flush=True))
"""


def free_ports() -> tuple[int, int]:
    with listening("127.0.0.1", 0) as one, listening("127.0.0.1", 0) as other:
        return one.getsockname()[1], other.getsockname()[1]


def test_open_streams_end_and_the_probe_says_so_first(fakes: Any, tmp_path: Path, wait: Any) -> None:
    port, beside = free_ports()
    config = ServeConfig.model_validate(
        {"port": port, "admin": {"port": beside}, "memory": ":memory:", "keys": str(tmp_path / "keys.json")}
    )
    lm = fakes.Model(pause=0.02)
    texts, codes, first = list[str](), list[int](), threading.Event()
    body = {"model": "pocket:base", "stream": True, "messages": [{"role": "user", "content": "word " * 10}]}

    def stream() -> None:
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                first.set()
                texts.append(line)

    def visit() -> None:
        wait(lambda: reached(f"http://127.0.0.1:{beside}/readyz") == 200)
        clients = [threading.Thread(target=stream) for _ in range(STREAMS)]
        for client in clients:
            client.start()
        assert first.wait(60)
        metrics = f"http://127.0.0.1:{beside}/metrics"
        wait(lambda: f"lte_queue_depth {STREAMS + 1}.0" in httpx.get(metrics).text)  # and this request
        os.kill(os.getpid(), signal.SIGTERM)
        wait(lambda: reached(f"http://127.0.0.1:{beside}/readyz") == 503)
        wait(lambda: reached(f"http://127.0.0.1:{port}/livez") is None)  # takes nobody new
        codes.append(httpx.get(f"http://127.0.0.1:{beside}/livez").status_code)
        for client in clients:
            client.join()

    visitor = threading.Thread(target=visit)
    visitor.start()
    before = signal.getsignal(signal.SIGTERM)
    running.serve(config, lambda: lm)
    visitor.join()
    assert codes == [200]
    assert texts.count("data: [DONE]") == STREAMS
    chunks = [json.loads(t[6:]) for t in texts if t.startswith("data: {")]
    assert sum(c["choices"][0]["finish_reason"] == "stop" for c in chunks) == STREAMS
    assert signal.getsignal(signal.SIGTERM) is before
    assert reached(f"http://127.0.0.1:{beside}/livez") is None


def reached(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=60).status_code
    except httpx.TransportError:
        return None


def test_a_second_signal_ends_at_once() -> None:
    root = Path(running.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with httpx.stream("GET", f"http://127.0.0.1:{port}", timeout=60) as reply:
                assert next(reply.iter_raw()) == b"begun"
                server.terminate()
                assert server.stdout.readline() == "stopping\n"
                time.sleep(0.2)
                assert server.poll() is None  # a stream is open
                server.terminate()
                assert server.wait(60) == -signal.SIGTERM
        finally:
            server.kill()


def test_nobody_is_let_in_from_elsewhere_unasked(fakes: Any, tmp_path: Path) -> None:
    for settings in ({"host": "0.0.0.0"}, {"admin": {"host": "0.0.0.0"}}):
        config = ServeConfig.model_validate({"port": 0, "keys": str(tmp_path / "keys.json"), **settings})
        with pytest.raises(ServeError, match="can be reached from elsewhere"):
            running.serve(config, lambda: pytest.fail("the model was loaded"))


def test_keys_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch(0o600)
    with pytest.raises(ServeError, match="not a file of keys"):
        running.serve(ServeConfig(port=0, keys=str(tmp_path / "keys.json")), lambda: pytest.fail("it was loaded"))


def test_an_admin_port_beyond_the_last_is_told_by_its_setting(tmp_path: Path) -> None:
    config = ServeConfig.model_validate({"port": 65000, "keys": str(tmp_path / "keys.json")})
    with pytest.raises(ServeError, match=r"66000: cannot listen.*--set admin.port=9000"):
        running.serve(config, lambda: pytest.fail("the model was loaded"))


def test_an_admin_port_in_use_is_told_by_its_setting(tmp_path: Path) -> None:
    with listening("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
        config = ServeConfig.model_validate({"port": 0, "admin": {"port": port}, "keys": str(tmp_path / "keys.json")})
        with pytest.raises(ServeError, match=rf"{port}: cannot listen.*--set admin.port={port + 1}"):
            running.serve(config, lambda: pytest.fail("the model was loaded"))
