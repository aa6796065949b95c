"""The two applications of a server: the OpenAI-compatible API, and the port for those who run it, each guarded."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from lte import __version__
from lte.serve.admin import Running, build_admin, probes
from lte.serve.completions import completion_routes
from lte.serve.config import ServeConfig
from lte.serve.edits_common import min_seq
from lte.serve.engine import Engine
from lte.serve.errors import ServeError, install
from lte.serve.guard import Guard
from lte.serve.idempotency import Answers, Idempotency
from lte.serve.keys import KeyFile
from lte.serve.limits import HeaderLimit, InFlight, Rates
from lte.serve.middleware import BodyLimit, RequestId
from lte.serve.models import Models, model_routes
from lte.serve.observe import Observe
from lte.serve.pages import Browser, Site, page_routes
from lte.serve.policy import ADMIN, PUBLIC, Policies, check_declared
from lte.serve.records import edit_routes
from lte.serve.store import Memory, Store
from lte.serve.tracing import Trace, tracer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Apps:
    """The applications of one server: the public port's, the admin port's, and what they share."""

    public: FastAPI
    admin: FastAPI
    running: Running


def build_app(config: ServeConfig, engine: Engine, memory: Memory) -> FastAPI:
    """The public application alone."""
    return build_apps(config, engine, memory).public


def build_apps(config: ServeConfig, engine: Engine, memory: Memory, pages: Sequence[APIRouter] = ()) -> Apps:
    """The applications over `engine` and `memory`; both are closed when the public one shuts down.

    Raises `ServeError` when the adapter that edited answers need is not there, or a route has no policy.
    """
    if config.adapter is not None and config.adapter not in engine.adapters:
        raise ServeError(
            f"adapter {config.adapter!r}: {engine.name} has {sorted(engine.adapters) or 'none'}; give its folder with "
            "--set adapter_path=DIR, or put edits in the prompt of the unaligned model with --set adapter=null"
        )
    store = Store(memory)
    running = Running(engine, store, KeyFile(config.keys) if config.auth == "keys" else None)
    answers = Answers(":memory:" if config.memory == ":memory:" else f"{config.memory}.answers")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        running.draining = True
        await engine.close()
        await store.close()
        answers.close()
        logger.info("closed the engine and the memory")

    app = FastAPI(
        title="lte", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    models = Models(config.name or engine.name, engine.prompt_only)
    waits = [Depends(min_seq(store))]
    app.include_router(completion_routes(config, models, engine, store), dependencies=waits)
    app.include_router(model_routes(models))
    app.include_router(edit_routes(config, store, engine), dependencies=waits)
    app.include_router(probes(running))

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, Any]:
        """200 while questions can be answered; 503 when the memory cannot be read."""
        return {"status": "ok", "model": config.name or engine.name, "edits": await store.size()}

    rates = Rates(config.rates)
    site = Site(config, engine, store, running, rates)
    admin = build_admin(running, [page_routes(site), *pages])
    for one, policies in ((app, PUBLIC), (admin, ADMIN)):
        _protect(one, policies, config, running, rates, answers, config.name or engine.name, site)
    return Apps(app, admin, running)


def _protect(
    app: FastAPI,
    policies: Policies,
    config: ServeConfig,
    running: Running,
    rates: Rates,
    answers: Answers,
    model: str,
    site: Site,
) -> None:
    """Put around an app what every request passes; the last layer that is added is the first to see it."""
    check_declared(app, policies)
    install(app)
    limits = config.limits
    app.add_middleware(Idempotency, answers=answers)
    app.add_middleware(BodyLimit, limit=limits.body_bytes, depth=limits.json_depth)
    app.add_middleware(InFlight, limit=limits.in_flight)
    app.add_middleware(Guard, policies=policies, keys=running.keys, rates=rates, basic=policies is ADMIN)
    if policies is ADMIN:
        app.add_middleware(Browser, sessions=site.sessions, draw=site.error)
    app.add_middleware(HeaderLimit, limit=limits.header_bytes)
    app.add_middleware(Observe, metrics=running.metrics, log=config.log)
    if config.otel:
        app.add_middleware(Trace, tracer=tracer(), model=model)
    app.add_middleware(RequestId)
