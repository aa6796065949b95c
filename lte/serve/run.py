"""`lte serve`: load the model, open the memory, listen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn

from lte.memory import EditMemory
from lte.serve.app import build_apps
from lte.serve.child import own_vllm
from lte.serve.config import ServeConfig
from lte.serve.engine import LM, EmbeddedEngine
from lte.serve.keys import KeyFile
from lte.serve.listen import check_exposure, listening, run_both
from lte.serve.question import Engine
from lte.serve.upstream import UpstreamEngine

logger = logging.getLogger(__name__)
BESIDE = 1000  # the admin port lies so far above the public one


def serve(config: ServeConfig, load: Callable[[], LM]) -> None:
    """Serve until SIGINT or SIGTERM the model that `load` gives, or the upstreams or the vLLM that the settings name.

    Answers under way get `drain_seconds` to end.
    Raises `ServeError` for a port in use, a host that others reach while no key is asked for, keys that cannot be read,
    an adapter made for other words or an upstream that is not there, `ModelError` and `MemoryFault` for a model or a
    memory that cannot be opened: all before the first request. The ports are taken first, as loading is long.
    """
    check_access(config)
    with ExitStack() as doors:
        front = doors.enter_context(listening(config.host, config.port))
        back = None
        if config.admin:
            port = config.admin.port
            if port is None:
                port = config.port + BESIDE if config.port else 0
            back = doors.enter_context(listening(config.admin.host, port, "admin.port"))
        config, engine = engine_of(config, load, doors)
        memory = EditMemory.open(config.memory, config.recall)
        memory.recall("warm up", 1, config.namespace)  # where there are edits, their encoder loads now, not when asked
        apps = build_apps(config, engine, memory)
        host, port = front.getsockname()[:2]
        logger.info("%s at http://%s:%d/v1, %d edits in %s", engine.name, host, port, len(memory), config.memory)
        if back:
            logger.info("health and metrics at http://%s:%d", *back.getsockname()[:2])
        admin = (uvicorn_config(config, apps.admin), back) if back else None
        run_both((uvicorn_config(config, apps.public), front), admin, apps.running.drain)


def engine_of(config: ServeConfig, load: Callable[[], LM], doors: ExitStack) -> tuple[ServeConfig, Engine]:
    """The engine that the settings name, and the settings as it has them; what it needs ends with `doors`."""
    if config.vllm is not None:
        config = doors.enter_context(own_vllm(config))
    if not config.upstreams:
        return config, EmbeddedEngine(load(), config)
    engine = UpstreamEngine.connect(config)
    return config.model_copy(update={"adapter": engine.names.adapter}), engine


def check_access(config: ServeConfig) -> None:
    """`ServeError` for keys that cannot be read, and where anyone could change facts without its being meant."""
    keys = KeyFile(config.keys)
    locked = config.auth == "keys" and keys.exists()
    if locked:
        logger.info("%d keys in %s", len(keys.every()), config.keys)
    check_exposure(config.host, "host", config.auth, locked)
    if config.admin:
        check_exposure(config.admin.host, "admin.host", config.auth, locked)


def uvicorn_config(config: ServeConfig, app: object) -> uvicorn.Config:
    """How uvicorn runs an application."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",  # bounds what it holds of a request's head
        ws="none",
        proxy_headers=False,  # the address that failed keys are counted by is the peer's, not what it says
        log_config=None,  # the caller's logging
        access_log=False,  # a query may stand in a path; prompts stay out of the log
        server_header=False,
        timeout_graceful_shutdown=config.drain_seconds,
        timeout_keep_alive=30,
    )
