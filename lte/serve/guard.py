"""The guard in front of every route: which policy holds, who asks, and whether it is enough."""

from __future__ import annotations

import base64
import ipaddress
import logging
from collections.abc import Mapping
from datetime import datetime, timezone

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lte.serve.errors import ServeError, refuse
from lte.serve.keys import Key, KeyFile
from lte.serve.limits import Rates
from lte.serve.policy import Caller, Policies, Rule, Table, caller_of

logger = logging.getLogger(__name__)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
Headers = Mapping[bytes, bytes]


class Guard:
    """Lets a request through to the route it names, with its caller in the scope, or refuses it. Deny by default.

    keys   None: no key is ever asked for (`auth: none`). While their file does not exist none is either, but then
           only requests that name this machine itself pass: a web page elsewhere may point a name of its own here
    basic  whether a key is taken as the password of a browser's own form as well
    """

    def __init__(
        self, app: ASGIApp, policies: Policies, keys: KeyFile | None, rates: Rates, basic: bool = False
    ) -> None:
        self.app, self._table, self._keys, self._rates, self._basic = app, Table(policies), keys, rates, basic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no route here speaks anything else
            await send({"type": "websocket.close", "code": 1008})
            return
        rule = self._table.find(scope["method"], scope["path"])
        scope["lte.route"] = rule.route if rule else None
        if not rule or rule.scope:
            try:
                scope["lte.caller"] = self._admit(scope, rule)
            except ServeError as error:
                await refuse(error, scope, receive, send)
                return
            scope["lte.rates"] = self._rates
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope, rule: Rule | None) -> Caller:
        headers = dict(scope["headers"])
        token = credential(headers, self._basic)
        caller = self._caller(scope, headers, token)
        if not headers.get(b"authorization", b"").lower().startswith(b"bearer "):
            same_site(scope["method"], headers)  # the browser itself may have added what lets the request in
        if rule is None:
            raise self._nowhere(scope["method"], scope["path"])
        if caller.key:
            assert rule.scope
            if not caller.key.scope.covers(rule.scope):
                raise ServeError(
                    f"{rule.route}: needs a key with scope {rule.scope.value!r}; this one has "
                    f"{caller.key.scope.value!r}",
                    403,
                    code="insufficient_scope",
                )
            self._rates.key(caller.key.id)
        return caller

    def _caller(self, scope: Scope, headers: Headers, token: str | None) -> Caller:
        if self._keys is None:
            return Caller()
        if not self._keys.exists():
            _this_machine(headers.get(b"host", b"").decode("latin-1"))
            return Caller()
        key = self._keys.find(token) if token else scope.get("lte.session")  # as `lte.serve.pages` found it
        state = key.state(datetime.now(timezone.utc)) if key else "unknown" if token else "missing"
        if key and state == "active":
            return Caller(key)
        error = refused(scope, self._rates, state, key)
        error.headers = {"www-authenticate": 'Basic realm="lte", charset="UTF-8"' if self._basic else "Bearer"}
        raise error

    def _nowhere(self, method: str, path: str) -> ServeError:
        methods = self._table.methods(path)
        where = f"{method} {path}"
        if methods:
            allow = {"allow": ", ".join(methods)}
            return ServeError(f"{where}: method not allowed", 405, code="method_not_allowed", headers=allow)
        return ServeError(f"{where}: no such route; the API is under /v1", 404, code="not_found")


def refused(scope: Scope, rates: Rates, state: str, key: Key | None) -> ServeError:
    """The 401 for a request without a key that counts, which is counted and logged; a 429 is raised.

    state  what is wrong with the key: missing, unknown, expired or revoked
    """
    address = (scope.get("client") or ("nowhere",))[0]
    # Who guesses is slowed down and does not fill the log; a key that counts still passes, as others may come from
    # the same address, and 256 random bits are not guessed.
    rates.failure(address)
    logger.warning("refused a request from %s: %s key%s", address, state, f" {key.id}" if key else "")
    return ServeError(
        {
            "missing": "no key; send one as Authorization: Bearer KEY, api_key=KEY in OpenAI's client",
            "unknown": "the key is not one of this server's; `lte serve keys create` makes one",
        }.get(state, f"the key is {state}; ask for a new one"),
        401,
        code="invalid_api_key",
    )


def namespace_of(request: Request, asked: str | None, default: str) -> str:
    """The namespace that a request is about, counted against its rate.

    asked    what the request names; it may narrow what the caller's key allows, never widen it: 403
    default  the server's own
    """
    chosen = caller_of(request).namespace(asked, default)
    request.scope["lte.namespace"] = "default" if chosen == default else "named"
    request.scope["lte.rates"].namespace(chosen)
    return chosen


def credential(headers: Headers, basic: bool) -> str | None:
    """The key that a request shows; None where it shows none."""
    kind, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer":
        return value.strip() or None
    if basic and kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2] or None
        except ValueError:
            return None
    return None


def same_site(method: str, headers: Headers) -> None:
    """403 for a change that a page of another site asks a browser for."""
    origin = headers.get(b"origin")
    elsewhere = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    if method not in SAFE and (elsewhere or headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none")):
        raise ServeError("a page of another site sent this; changes are taken from this server's own", 403, code="csrf")


def _this_machine(host: str) -> None:
    """403 for a request that came by a name which is not this machine's."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        raise ServeError(
            f"host {host!r}: without keys this server answers to localhost alone; make a key with "
            "`lte serve keys create`, or start it with --set auth=none",
            403,
            code="host_not_allowed",
        ) from None
