"""The replicas of an upstream: which one is asked next, and which are well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from lte.serve.errors import ServeError

logger = logging.getLogger(__name__)
KEEP = 3.0  # seconds an idle connection is kept: uvicorn, and vLLM with it, closes its side after 5
FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0  # seconds between two looks at a replica that is down: twice as long each time
Cards = Mapping[str, Mapping[str, Any]]  # the models that a server says it has, by name


@dataclass(eq=False)
class Replica:
    """One server. What is counted is for the metrics: read it, from the event loop's thread."""

    url: str  # without the /v1
    label: str  # in place of the address, which is nobody's business
    transport: httpx.AsyncBaseTransport
    up: bool = True
    outstanding: int = 0  # questions that it is answering
    asked: int = 0
    failed: int = 0
    turn: int = 0  # when it was last chosen
    doubt: asyncio.Event = field(default_factory=asyncio.Event)  # set: look at its health now

    def down(self, why: object) -> None:
        """It does not answer: it is left out until it is seen to be well."""
        if self.up:
            logger.warning("%s (%s) is down: %s", self.label, self.url, why)
        self.up = False
        self.doubt.set()


class Pool:
    """The replicas, the least busy first; `fits` says by its models whether one that comes up may be asked."""

    def __init__(
        self,
        replicas: Collection[Replica],
        headers: Mapping[str, str],
        fits: Callable[[Cards], str | None],
        interval: float,
        timeout: float,
    ) -> None:
        self.replicas = list(replicas)
        self._headers, self._fits, self._interval, self._timeout = dict(headers), fits, interval, timeout
        self._turn = 0
        self._watches: list[asyncio.Task[None]] = []

    def choose(self, but: Collection[Replica] = ()) -> Replica | None:
        """Of those that are up and not in `but`, the one with the fewest questions; of several, the longest unasked."""
        able = [r for r in self.replicas if r.up and r not in but]
        if not able:
            return None
        chosen = min(able, key=lambda r: (r.outstanding, r.turn))
        self._turn += 1
        chosen.turn = self._turn
        return chosen

    def watch(self) -> None:
        """Begin to look at their health, in the running event loop; a second call does nothing."""
        if not self._watches:
            self._watches = [asyncio.create_task(self._watch(r)) for r in self.replicas]

    async def close(self) -> None:
        """Look no more, and close the connections."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for replica in self.replicas:
            await replica.transport.aclose()

    async def _watch(self, replica: Replica) -> None:
        misses = 0
        while True:
            wait = self._interval if replica.up else min(FIRST_WAIT * 2**misses, LONGEST_WAIT)
            try:
                await asyncio.wait_for(replica.doubt.wait(), wait)
            except asyncio.TimeoutError:
                pass
            replica.doubt.clear()
            fault = await self._fault(replica)
            if fault:
                misses += 1
                replica.down(fault)
                replica.doubt.clear()
            else:
                misses = 0
                if not replica.up:
                    logger.warning("%s (%s) is up", replica.label, replica.url)
                replica.up = True

    async def _fault(self, replica: Replica) -> str | None:
        """What is wrong with a replica; None where it is well."""
        try:
            found = await self.get(replica, "/health")
            if found.status_code in (404, 405):  # an OpenAI-compatible server without one
                found = await self.get(replica, "/v1/models")
            if found.status_code != 200:
                return f"its health is {found.status_code}"
            if replica.up:
                return None
            return self._fits(cards_of(await self.get(replica, "/v1/models")))
        except (httpx.HTTPError, ServeError) as error:
            return f"{type(error).__name__}: {error}"

    async def get(self, replica: Replica, path: str) -> httpx.Response:
        """A small answer, whole."""
        limit = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        request = httpx.Request("GET", replica.url + path, headers=self._headers, extensions={"timeout": limit})
        response = await replica.transport.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response


def cards_of(response: httpx.Response) -> Cards:
    """The models that a server lists; `ServeError` where it lists none."""
    try:
        cards = {str(card["id"]): card for card in response.json()["data"]}
    except (ValueError, LookupError, TypeError):
        cards = {}
    if response.status_code != 200 or not cards:
        raise ServeError(
            f"/v1/models answered {response.status_code} and no list of models: is it an OpenAI-compatible server, and "
            "does it want a key (upstream.key)?"
        )
    return cards
