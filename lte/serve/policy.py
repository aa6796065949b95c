"""Who may use which route: one line for each, and what has no line is nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastapi.routing
from fastapi import FastAPI, Request
from starlette.routing import compile_path

from lte.serve.errors import ServeError
from lte.serve.keys import Key, Scope

Policies = Mapping[str, Scope | None]  # "GET /v1/models": what a key must cover; None: open, no key is asked for
OPEN = None
PROBES: Policies = {"GET /livez": OPEN, "GET /readyz": OPEN, "GET /openapi.json": Scope.read}
PUBLIC: Policies = {
    **PROBES,
    "GET /health": Scope.read,
    "POST /v1/chat/completions": Scope.read,
    "POST /v1/completions": Scope.read,
    "GET /v1/models": Scope.read,
    "GET /v1/models/{name:path}": Scope.read,
    "POST /v1/edits": Scope.write,
    "GET /v1/edits": Scope.read,
    "POST /v1/edits/batch": Scope.write,
    "GET /v1/edits/export": Scope.read,
    "POST /v1/edits/search": Scope.read,
    "POST /v1/edits/explain": Scope.read,
    "POST /v1/edits/check": Scope.read,
    "POST /v1/edits/rollback": Scope.admin,
    "GET /v1/edits/{id}": Scope.read,
    "PUT /v1/edits/{id}": Scope.write,
    "PATCH /v1/edits/{id}": Scope.write,
    "DELETE /v1/edits/{id}": Scope.write,
    "GET /v1/edits/{id}/history": Scope.read,
    "POST /v1/edits/{id}/supersede": Scope.write,
    "POST /v1/edits/{id}/state": Scope.write,
    "POST /v1/edits/{id}/test": Scope.write,
    "POST /v1/edits/{id}/rollback": Scope.write,
}
PAGES: Policies = {
    "GET /ui": Scope.read,
    "GET /ui/pages.css": OPEN,
    "GET /ui/htmx.min.js": OPEN,
    "GET /ui/login": OPEN,
    "POST /ui/login": OPEN,
    "POST /ui/logout": Scope.read,
    "GET /ui/edits": Scope.read,
    "POST /ui/edits": Scope.write,
    "GET /ui/edits/new": Scope.write,
    "GET /ui/edits/{id}": Scope.read,
    "GET /ui/edits/{id}/change": Scope.write,
    "POST /ui/edits/{id}/change": Scope.write,
    "GET /ui/edits/{id}/supersede": Scope.write,
    "POST /ui/edits/{id}/supersede": Scope.write,
    "POST /ui/edits/{id}/state": Scope.write,
    "POST /ui/edits/{id}/delete": Scope.write,
    "POST /ui/edits/{id}/test": Scope.write,
    "POST /ui/edits/{id}/rollback": Scope.write,
    "GET /ui/playground": Scope.read,
    "POST /ui/playground": Scope.read,
    "GET /ui/audit": Scope.read,
    "POST /ui/audit/verify": Scope.admin,
    "POST /ui/audit/checkpoint": Scope.admin,
    "GET /ui/audit/rollback": Scope.admin,
    "POST /ui/audit/rollback": Scope.admin,
    "GET /ui/metrics": Scope.read,
    "GET /ui/health": Scope.read,
}
ADMIN: Policies = {**PROBES, **PAGES, "GET /metrics": Scope.read}


@dataclass(frozen=True)
class Rule:
    """A line of a table that fits a request: the route as the table names it, and the scope it asks for."""

    route: str
    scope: Scope | None


class Table:
    """The policies, looked up by method and path."""

    def __init__(self, policies: Policies) -> None:
        parts = [(line, *line.split(" ", 1)) for line in policies]
        self._lines = [(line, method, compile_path(path)[0], policies[line]) for line, method, path in parts]

    def find(self, method: str, path: str) -> Rule | None:
        """The rule for a request; None where no line fits. Where several do, the strictest: the router's choice among
        them need not be known."""
        method = "GET" if method == "HEAD" else method
        fit = [Rule(line, scope) for line, m, pattern, scope in self._lines if m == method and pattern.match(path)]
        return max(fit, key=lambda rule: list(Scope).index(rule.scope) if rule.scope else -1, default=None)

    def methods(self, path: str) -> list[str]:
        """The methods that some line has for a path."""
        return sorted({method for _, method, pattern, _ in self._lines if pattern.match(path)})


def routes_of(app: FastAPI) -> Iterator[str]:
    """Every route as a table names it: "GET /v1/models"; of a mounted folder, the reading of what is in it."""
    flat: Callable[[Any], Any] = getattr(fastapi.routing, "iter_route_contexts", list)  # older ones have a flat list
    for route in flat(app.routes):
        methods = getattr(route, "methods", None)
        if methods is None:
            yield f"GET {route.path}/{{path:path}}"
        else:
            yield from (f"{method} {route.path}" for method in sorted(methods) if method != "HEAD")


def check_declared(app: FastAPI, policies: Policies) -> None:
    """`ServeError` where a route has no policy, or a policy no route."""
    there = set(routes_of(app))
    bare, idle = sorted(there - set(policies)), sorted(set(policies) - there)
    if bare or idle:
        raise ServeError(
            f"routes without a policy: {bare or 'none'}; policies without a route: {idle or 'none'}: "
            "lte/serve/policy.py has one line for each route"
        )


@dataclass(frozen=True)
class Caller:
    """Who sent a request: a key, or (None) anyone, who may do all that the server does."""

    key: Key | None = None

    def reaches(self, namespace: str | None) -> bool:
        """Whether the edits of a namespace are in sight; None: those of every one."""
        mine = self.key.namespaces if self.key else None
        return mine is None or namespace in mine

    def namespace(self, asked: str | None, default: str) -> str:
        """The namespace that a request is about: the one it asks for, else the server's own, else the key's first.

        A request may narrow what its key allows, never widen it: 403.
        """
        if asked is None and not self.reaches(default):
            assert self.key and self.key.namespaces
            return self.key.namespaces[0]
        chosen = default if asked is None else asked
        if not self.reaches(chosen):
            raise ServeError(
                f"namespace: {chosen!r} is not open to this key; leave it out for the key's own",
                403,
                "namespace",
                "namespace_not_allowed",
            )
        return chosen


def caller_of(request: Request) -> Caller:
    """Who sent the request, as the guard found; `ServeError` where none stood in front of the route."""
    found = request.scope.get("lte.caller")
    if not isinstance(found, Caller):
        raise ServeError("a request came in past the guard; put the app behind lte.serve.guard.Guard")
    return found
