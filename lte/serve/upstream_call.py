"""One question over HTTP: to the least busy replica, to another where that can help, and never twice to a client."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from lte.serve.config import UpstreamConfig
from lte.serve.errors import ServeError
from lte.serve.question import Question, after
from lte.serve.upstream_pool import Pool, Replica

logger = logging.getLogger(__name__)
ELSEWHERE = frozenset({429, 502, 503, 504})  # what another replica may answer better
OWN = frozenset({401, 403, 407})  # about this server's key, of which the client knows nothing
STAY = frozenset(  # of a hop, or about a body that is sent anew
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "date",
        "server",
        "via",
        "location",
        "set-cookie",
        "x-request-id",
    }
)


class Again(Exception):
    """A replica did not answer, and nothing of an answer was passed on; `sent`: it may have begun to work."""

    def __init__(self, error: ServeError, sent: bool) -> None:
        super().__init__(str(error))
        self.error, self.sent = error, sent


@dataclass
class Call:
    """An answer of a replica: whole, or (`events`) a stream whose first bytes are there."""

    status: int
    headers: Mapping[str, str]
    replica: Replica
    response: httpx.Response
    content: bytes = b""
    events: AsyncIterator[bytes] | None = None
    closed: bool = False

    async def close(self) -> None:
        """Let go of the connection; an answer that is not at its end is given up by the replica."""
        if not self.closed:
            self.closed = True
            self.replica.outstanding -= 1
            await self.response.aclose()


class Caller:
    """Puts questions to the replicas of a pool.

    counts  of what happened, for the metrics: asked, retried, and a failure by its code
    """

    def __init__(self, pool: Pool, config: UpstreamConfig, headers: Mapping[str, str]) -> None:
        self._pool, self._config, self._headers = pool, config, dict(headers)
        self.counts: Counter[str] = Counter()

    async def post(self, question: Question, body: bytes) -> Call:
        """The answer to `body`. A replica that cannot be reached, refuses for now, or breaks off before the first byte
        gives way to another; one that had begun to work does so once at most, lest one question end them all.

        Raises `ServeError`: 502 for a failure of the upstream, 503 where none is up, 504 for one that is silent.
        """
        tried: set[Replica] = set()
        began = 0
        last: ServeError | None = None
        self.counts["asked"] += 1
        while True:
            replica = self._pool.choose(tried) or (self._pool.choose() if last is not None and began == 1 else None)
            if replica is None:
                raise self._failed(last or no_upstream())
            if last is not None:
                self.counts["retried"] += 1
            try:
                return await self._once(replica, question, body)
            except Again as again:
                replica.failed += 1
                last = again.error
                began += again.sent
                logger.warning("request %s: %s: %s", question.headers.get("x-request-id"), replica.label, again)
                if began > 1 or (replica in tried and not again.sent):
                    raise self._failed(last) from None
                tried.add(replica)
            except ServeError as error:
                replica.failed += 1
                raise self._failed(error) from None

    def _failed(self, error: ServeError) -> ServeError:
        self.counts[error.code or "failed"] += 1
        return error

    async def _once(self, replica: Replica, question: Question, body: bytes) -> Call:
        begun = time.monotonic()
        config, stream = self._config, bool(question.body.stream)
        limit = {
            "connect": config.connect_timeout,
            "pool": config.connect_timeout,
            "write": config.total_timeout,
            "read": min(config.token_timeout, config.total_timeout) if stream else config.total_timeout,
        }
        headers = {**question.headers, "accept-encoding": "identity", **self._headers}
        url = f"{replica.url}/v1{question.path}"
        request = httpx.Request("POST", url, headers=headers, content=body, extensions={"timeout": limit})
        replica.outstanding += 1
        replica.asked += 1
        response: httpx.Response | None = None
        call: Call | None = None
        try:
            response = await replica.transport.handle_async_request(request)
            chunks = self._chunks(response, replica, begun)
            if _is_stream(response):
                first = await anext(chunks, b"")
                events = _passing(after(first, chunks))
                call = Call(response.status_code, _passed(response), replica, response, events=events)
                return call
            content = b"".join([chunk async for chunk in chunks])
            _judge(response, content)
            content = _shaped(response, content)
            return Call(response.status_code, _passed(response), replica, response, content, closed=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            replica.down(type(error).__name__)
            raise Again(no_upstream(), sent=False) from None
        except httpx.TimeoutException:
            replica.doubt.set()
            raise silent() from None
        except httpx.TransportError as error:
            replica.doubt.set()
            raise Again(broken(error), sent=True) from None
        finally:
            if call is None:
                replica.outstanding -= 1
                if response is not None:
                    await response.aclose()

    async def _chunks(self, response: httpx.Response, replica: Replica, begun: float) -> AsyncGenerator[bytes, None]:
        async for chunk in response.aiter_raw():
            yield chunk
            if time.monotonic() - begun > self._config.total_timeout:
                raise silent()


async def _passing(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The chunks; where they break off or stay away, a `ServeError` that a client may read."""
    try:
        async for chunk in chunks:
            yield chunk
    except httpx.TimeoutException:
        raise silent() from None
    except httpx.TransportError as error:
        raise broken(error) from None


def _is_stream(response: httpx.Response) -> bool:
    kind = response.headers.get("content-type", "")
    return response.status_code == 200 and kind.partition(";")[0].strip().lower() == "text/event-stream"


def _judge(response: httpx.Response, content: bytes) -> None:
    """Return for an answer that a client may see."""
    status = response.status_code
    if status in ELSEWHERE:
        wait = response.headers.get("retry-after", "1")
        raise Again(refused(status, int(wait) if wait.isdigit() else 1), sent=False)
    if status >= 500 or status in OWN or not 200 <= status < 600 or 300 <= status < 400:
        logger.error("an upstream answered %d: %s", status, content[:500].decode(errors="replace"))
        raise ServeError(f"the model's server failed ({status}); the log has the reason", 502, code="upstream_failed")


def _shaped(response: httpx.Response, content: bytes) -> bytes:
    """A refusal in OpenAI's shape, whatever shape it came in; all else as it came."""
    if response.status_code < 400:
        return content
    try:
        said: Any = json.loads(content)
    except ValueError:
        said = content.decode(errors="replace")
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        return content
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or said.get("error") or said
    message = said if isinstance(said, str) else json.dumps(said)
    return json.dumps(ServeError(message[:2000], response.status_code).body).encode()


def _passed(response: httpx.Response) -> dict[str, str]:
    """The headers that a client gets to see."""
    named = {name.strip().lower() for name in response.headers.get("connection", "").split(",")}
    return {name: value for name, value in response.headers.items() if name not in STAY | named}


def no_upstream() -> ServeError:
    """A 503 where no replica is up."""
    return ServeError(
        "the model's server cannot be reached; ask again shortly", 503, code="upstream_unreachable", retry_after=2
    )


def silent() -> ServeError:
    """A 504 for an answer that does not come, or does not end."""
    return ServeError("the model's server did not answer in time", 504, code="upstream_timeout")


def broken(error: Exception) -> ServeError:
    """A 502 for an answer that broke off."""
    logger.warning("an upstream broke off: %s: %s", type(error).__name__, error)
    return ServeError("the model's server broke off its answer; ask again", 502, code="upstream_broken")


def refused(status: int, wait: int) -> ServeError:
    """What a replica that is busy or failing comes to, when no other answers."""
    if status == 429:
        return ServeError("the model's server is busy; ask again shortly", 429, code="overloaded", retry_after=wait)
    return ServeError(f"the model's server failed ({status})", status, code="upstream_failed", retry_after=wait)
