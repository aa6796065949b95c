"""`lte serve`: load the model, open the memory, listen."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from lte.memory import EditMemory
from lte.serve.app import build_app
from lte.serve.config import ServeConfig
from lte.serve.engine import LM, EmbeddedEngine
from lte.serve.errors import ServeError

logger = logging.getLogger(__name__)


def serve(config: ServeConfig, load: Callable[[], LM]) -> None:
    """Serve the model that `load` gives until SIGINT or SIGTERM; answers under way get `drain_seconds` to end.

    Raises `ServeError` for a port in use or an adapter made for other words, `ModelError` and `MemoryFault` for a
    model or a memory that cannot be opened: all before the first request. The port is taken first, as loading is long.
    """
    with listening(config.host, config.port) as door:
        engine = EmbeddedEngine(load(), config)
        memory = EditMemory.open(config.memory, config.recall)
        memory.recall("warm up", 1, config.namespace)  # where there are edits, their encoder loads now, not when asked
        app = build_app(config, engine, memory)
        host, port = door.getsockname()[:2]
        logger.info("%s at http://%s:%d/v1, %d edits in %s", engine.name, host, port, len(memory), config.memory)
        with _quiet_signals():
            uvicorn.Server(uvicorn_config(config, app)).run(sockets=[door])


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Within: a signal that ended the server is not raised a second time behind it, so the exit code is 0."""
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def uvicorn_config(config: ServeConfig, app: object) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,  # the caller's logging
        access_log=False,  # a query may stand in a path; prompts stay out of the log
        server_header=False,
        timeout_graceful_shutdown=config.drain_seconds,
        timeout_keep_alive=30,
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port, taken before the model is loaded."""
    try:
        if not ipaddress.ip_address(socket.gethostbyname(host) if ":" not in host else host).is_loopback:
            logger.warning(
                "%s can be reached from elsewhere, and no key is asked: who reaches it may change facts", host
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ServeError(
            f"{host}:{port}: cannot listen there ({error.strerror or error}); choose another with --set port=8001"
        ) from error
