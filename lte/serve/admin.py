"""The port for those who run the server: whether it is ready, its metrics, and the place of pages and /admin routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from pydantic import Field

from lte import __version__
from lte.config import Config
from lte.serve.errors import ServeError
from lte.serve.keys import KeyFile
from lte.serve.metrics import TYPE, Metrics
from lte.serve.store import Store

logger = logging.getLogger(__name__)
PATIENCE = 1.0  # seconds that memory and engine have to say they are there


class AdminConfig(Config):
    """Where the admin port listens."""

    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=0, le=65535)  # null: 1000 above the public one; 0: any free one


class Checked(Protocol):
    """The part of an engine that is asked here."""

    async def check(self) -> None: ...


@dataclass
class Running:
    """What both ports share: a server's parts, and whether it is about to stop."""

    engine: Checked
    store: Store
    keys: KeyFile | None
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False

    def drain(self) -> None:
        """Note that it is about to stop: no longer ready."""
        self.draining = True

    async def faults(self) -> dict[str, str]:
        """Why no question can be answered, by part; empty while one can. Within about a second."""
        if self.draining:
            return {"server": "shutting down"}
        parts = {"memory": self.store.size(), "engine": self.engine.check(), "keys": self._keys()}
        found = await asyncio.gather(*(_fault(part) for part in parts.values()))
        return {name: fault for name, fault in zip(parts, found) if fault is not None}

    async def _keys(self) -> None:
        if self.keys is not None and self.keys.exists():
            self.keys.every()


async def _fault(part: Awaitable[Any]) -> str | None:
    try:
        await asyncio.wait_for(part, PATIENCE)
    except asyncio.TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except Exception as error:  # whatever it is, it is not ready
        return str(error) or type(error).__name__
    return None


def probes(running: Running) -> APIRouter:
    """/livez and /readyz, as Kubernetes asks for them."""
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> dict[str, str]:
        """200 while the process answers at all."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        """200 while questions can be answered; 503 names the parts that fail, the log says why."""
        faults = await running.faults()
        running.metrics.ready.set(not faults)
        if faults:
            logger.warning("not ready: %s", "; ".join(f"{part}: {why}" for part, why in faults.items()))
            raise ServeError(f"not ready: {', '.join(faults)}", 503, code="not_ready", retry_after=1)
        return {"status": "ok"}

    return router


def build_admin(running: Running, pages: Sequence[APIRouter] = ()) -> FastAPI:
    """The admin port's routes, `pages` among them; bare: `lte.serve.app` puts the guard in front."""
    app = FastAPI(title="lte admin", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(probes(running))
    for router in pages:
        app.include_router(router)

    @app.get("/metrics", tags=["metrics"], response_class=Response)
    async def metrics() -> Response:
        """What Prometheus scrapes."""
        faults = await running.faults()
        running.metrics.ready.set(not faults)
        if not faults:
            seq, states = await running.store.read(lambda memory: (memory.seq, memory.states()))
            running.metrics.seq.set(seq)
            for state, n in states.items():
                running.metrics.edits.labels(state).set(n)
        return Response(running.metrics.text(), media_type=TYPE)

    return app
