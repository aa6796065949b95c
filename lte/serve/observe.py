"""The outermost layer: every request is counted, timed and logged, and one that fails is told so in our shape."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lte.serve.errors import unforeseen
from lte.serve.logs import LogConfig
from lte.serve.metrics import Metrics

logger = logging.getLogger(__name__)
LEFT = 499  # nginx's code for a client that went before its answer
SHOWN = 10_000  # bytes of a body, where bodies are logged
SECURE: Mapping[bytes, bytes] = {  # where a route sets one itself, its own holds
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Observe:
    """Counts, times and logs what passes; adds the security headers; answers 500 where the app raises."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: LogConfig) -> None:
        self.app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = scope["lte.began"] = time.perf_counter()
        scope["lte.metrics"] = self._metrics
        status, answer = LEFT, dict[bytes, bytes]()

        async def secured(message: Message) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                answer = dict(message.get("headers", ()))
                more = [(name, value) for name, value in SECURE.items() if name not in answer]
                message["headers"] = [*message.get("headers", ()), *more]
                await send(message)
                status = message["status"]
            else:
                await send(message)

        self._metrics.queue.inc()
        try:
            await self.app(scope, receive, secured)
        except Exception as error:
            name = scope.get("lte.request_id", "")
            logger.error("request %s failed", name, exc_info=error)
            if not answer:  # else the connection is cut, which is all that can still be told
                await unforeseen(name).response(scope, receive, secured)
        finally:
            self._metrics.queue.dec()
            kind = scope.get("lte.namespace", "none")
            self._metrics.answered(scope.get("lte.route"), status, kind, scope.get("lte.code"))
            if self._log.requests:
                self._line(scope, status, answer, time.perf_counter() - began)

    def _line(self, scope: Scope, status: int, answer: Mapping[bytes, bytes], seconds: float) -> None:
        route = scope.get("lte.route") or "none"  # never the path: what stands in it may be anything
        key = getattr(scope.get("lte.caller"), "key", None)
        line = {
            "request_id": scope.get("lte.request_id"),
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "code": scope.get("lte.code"),
            "key": key.id if key else None,
            "edits": answer.get(b"x-lte-edits", b"").decode("latin-1") or None,
        }
        if self._log.prompts and "lte.body" in scope:
            line["body"] = scope["lte.body"][:SHOWN].decode(errors="replace")
        told = {name: value for name, value in line.items() if value is not None}
        logger.info("%s %d in %.1f ms", route, status, seconds * 1000, extra={"lte": told})
