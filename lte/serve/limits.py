"""What a client may take: requests a minute, requests at once, bytes of headers, depth of JSON."""

from __future__ import annotations

import math
import re
import time
from typing import Annotated

import limits
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

from lte.config import Config
from lte.serve.errors import ServeError, refuse

# A string of JSON, closed or not, or a bracket. Unrolled and never failing behind a quote: linear in any body's length.
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]', re.DOTALL)


def _rate(text: str) -> str:
    try:
        limits.parse(text)
    except ValueError:
        raise ValueError(f"{text!r}; wanted a number of requests and a time: '100/minute', '5000/hour'") from None
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class RateConfig(Config):
    """Requests in a time, counted in this process; null: no limit. Beyond it 429, with the seconds to wait."""

    per_key: Rate | None = None  # requests of one key
    per_namespace: Rate | None = None  # questions and changes to one namespace, of all keys together
    failures: Rate = "10/minute"  # requests of one address without a key that counts


class Rates:
    """The counts. A window that moves, as a fixed one lets twice the rate through at its edges."""

    def __init__(self, config: RateConfig) -> None:
        self._config = config
        self._window = MovingWindowRateLimiter(MemoryStorage())

    def key(self, id: str) -> None:
        """Count a request of a key; `ServeError` 429 where it is one too many."""
        self._take(self._config.per_key, "key", id)

    def namespace(self, name: str) -> None:
        """Count a request about a namespace; `ServeError` 429 where it is one too many."""
        self._take(self._config.per_namespace, "namespace", name)

    def failure(self, address: str) -> None:
        """Count a request without a key that counts; `ServeError` 429 where it is one too many."""
        self._take(self._config.failures, "address", address)

    def _take(self, rate: str | None, kind: str, who: str) -> None:
        if rate is None:
            return
        item = limits.parse(rate)
        if self._window.hit(item, kind, who):
            return
        wait = max(1, math.ceil(self._window.get_window_stats(item, kind, who).reset_time - time.time()))
        raise ServeError(
            f"more than {item} from this {kind}; ask again in {wait} s", 429, code="rate_limited", retry_after=wait
        )


class HeaderLimit:
    """431 for a request line and headers of more than `limit` bytes together."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and header_bytes(scope) > self.limit:
            error = ServeError(
                f"the request line and headers are larger than {self.limit} bytes; send less", 431, code="headers_large"
            )
            await refuse(error, scope, receive, send)
            return
        await self.app(scope, receive, send)


def header_bytes(scope: Scope) -> int:
    """Bytes of the path, the query and the headers, separators included."""
    size = len(scope.get("raw_path") or scope["path"].encode()) + len(scope.get("query_string", b""))
    return size + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


class InFlight:
    """429 while `limit` requests are under way; those to open routes (probes) pass, and do not count."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit
        self.now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "lte.caller" not in scope:
            await self.app(scope, receive, send)
            return
        if self.now >= self.limit:
            error = ServeError(
                f"{self.limit} requests are under way; ask again shortly", 429, code="overloaded", retry_after=1
            )
            await refuse(error, scope, receive, send)
            return
        self.now += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.now -= 1


def deeper(body: bytes, limit: int) -> bool:
    """Whether the lists and objects of a JSON body stand in each other more than `limit` deep."""
    depth = 0
    for match in TOKEN.finditer(body):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > limit:
                return True
        elif token in (b"]", b"}"):
            depth -= 1
    return False
