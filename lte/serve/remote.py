"""The edits of a server that runs, and their tests there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from lte.memory.checks import Outcome
from lte.memory.record import EditTest
from lte.serve.errors import ServeError
from lte.serve.tested import Tested

T = TypeVar("T")
PAGE = 100
SECONDS = 600.0  # an edit may have many tests


class RemoteEdits:
    """/v1/edits of a server: close it, or use it in a `with`.

    url  with or without /v1    key  sent as a bearer token; none where the server asks for none
    """

    def __init__(self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        root = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=f"{root}/v1", headers=headers, timeout=SECONDS, transport=transport)

    def ids(self, namespace: str | None = None) -> list[str]:
        """The edits that have tests and are not disabled."""
        return [id for id, tests in self._every(namespace) if tests]

    def test(self, id: str, quarantine: bool = False, why: Mapping[str, str] | None = None) -> Tested:
        """What comes of an edit's tests on the server; what it cannot run is told in `error`."""
        body = {"quarantine": quarantine, **(why or {})}
        return self._call("POST", f"/edits/{quote(id, safe='')}/test", _tested, json=body)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> RemoteEdits:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _every(self, namespace: str | None) -> Iterator[tuple[str, bool]]:
        query: dict[str, Any] = {"limit": PAGE} | ({} if namespace is None else {"namespace": namespace})
        while True:
            data, query["after"] = self._call("GET", "/edits", _page, params=query)
            yield from data
            if query["after"] is None:
                return

    def _call(self, method: str, path: str, read: Callable[[Any], T], **more: Any) -> T:
        try:
            reply = self._http.request(method, path, **more)
            said = reply.json()
            if reply.status_code < 400:
                return read(said)
            raise ServeError(f"{self._http.base_url}: {said['error']['message']}", reply.status_code)
        except httpx.HTTPError as error:
            raise ServeError(f"{self._http.base_url}: cannot be asked ({error}); is it running there?", 502) from error
        except (ValueError, LookupError, TypeError) as error:
            raise ServeError(
                f"{self._http.base_url}: answered what no `lte serve` answers; check --endpoint"
            ) from error


def _page(said: Any) -> tuple[list[tuple[str, bool]], str | None]:
    """Id of each edit and whether it is to be tested, and where the next page begins."""
    data = [(str(e["id"]), bool(e["tests"]) and e["state"] != "disabled") for e in said["data"]]
    return data, said["last_id"] if said["has_more"] else None


def _tested(said: Any) -> Tested:
    checks = said["checks"]
    return Tested(said["id"], tuple(map(_outcome, checks["results"])), said["state"], checks["error"])


def _outcome(said: Mapping[str, Any]) -> Outcome:
    test = EditTest(**{name: said[name] for name in ("prompt", "value", "must", "match", "repeat", "min_pass")})
    return Outcome(test, said["passes"], tuple(said["answers"]), said["base"], said["why"])
