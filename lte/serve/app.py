"""The server's application: an OpenAI-compatible API whose model keeps up with its edits."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from lte import __version__
from lte.serve.completions import completion_routes
from lte.serve.config import ServeConfig
from lte.serve.engine import Engine
from lte.serve.errors import ServeError, install
from lte.serve.middleware import BodyLimit, RequestId
from lte.serve.models import Models, model_routes
from lte.serve.records import edit_routes
from lte.serve.store import Memory, Store

logger = logging.getLogger(__name__)


def build_app(config: ServeConfig, engine: Engine, memory: Memory) -> FastAPI:
    """The application over `engine` and `memory`; both are closed when it shuts down.

    Raises `ServeError` when the adapter that edited answers need is not there.
    """
    if config.adapter is not None and config.adapter not in engine.adapters:
        raise ServeError(
            f"adapter {config.adapter!r}: {engine.name} has {sorted(engine.adapters) or 'none'}; give its folder with "
            "--set adapter_path=DIR, or put edits in the prompt of the unaligned model with --set adapter=null"
        )
    store = Store(memory)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()
        await store.close()
        logger.info("closed the engine and the memory")

    app = FastAPI(
        title="lte", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    install(app)
    app.add_middleware(BodyLimit, limit=config.limits.body_bytes)
    app.add_middleware(RequestId)  # the outermost: a 413 has a name too
    models = Models(config.name or engine.name)
    app.include_router(completion_routes(config, models, engine, store))
    app.include_router(model_routes(models))
    app.include_router(edit_routes(config, store))

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, Any]:
        """200 while questions can be answered; 503 when the memory cannot be read."""
        return {"status": "ok", "model": config.name or engine.name, "edits": await store.size()}

    return app
