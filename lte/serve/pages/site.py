"""What the pages have in common: the server's parts, the templates, and the check of every form."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Scope as Asked

from lte import __version__
from lte.memory.record import STATES
from lte.memory.validity import moment
from lte.serve.admin import Running
from lte.serve.checks import Checks
from lte.serve.config import ServeConfig
from lte.serve.edits_common import Desk
from lte.serve.edits_ops import EditOps
from lte.serve.errors import ServeError, bad_request
from lte.serve.keys import Scope
from lte.serve.limits import Rates
from lte.serve.pages.sessions import Sessions
from lte.serve.policy import Caller
from lte.serve.question import Engine
from lte.serve.store import Store

HERE = Path(__file__).parent
FIELDS = 100  # of a form
Fields = Mapping[str, str]


class Site:
    """The parts of a server that its pages work with, and how they are drawn."""

    def __init__(self, config: ServeConfig, engine: Engine, store: Store, running: Running, rates: Rates) -> None:
        self.config, self.engine, self.store, self.running, self.rates = config, engine, store, running, rates
        self.desk = Desk(config, store, EditOps(store, Checks(config, engine, store)))
        self.sessions = Sessions(running.keys)
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"when": when, "stamp": stamp}
        self._templates.globals |= {
            "states": STATES,
            "version": __version__,
            "model": config.name or engine.name,
            "prompt_only": engine.prompt_only,
        }

    def text(self, scope: Asked, template: str, **said: Any) -> str:
        """A template as text; in it `may(scope)` tells what whoever asks may do, `csrf` is what a form has to hold."""
        key = getattr(scope.get("lte.caller"), "key", None)
        known = "lte.caller" in scope

        def may(wanted: str) -> bool:
            return known and (key is None or bool(key.scope.covers(Scope(wanted))))

        hx = any(name == b"hx-request" for name, _ in scope["headers"])
        common = {"csrf": scope.get("lte.form", ""), "key": key, "known": known, "may": may, "hx": hx}
        return self._templates.get_template(template).render(**common, path=scope["path"], **said)

    def page(self, request: Request, template: str, status: int = 200, **said: Any) -> HTMLResponse:
        """A template as a response; htmx's own requests get other content from the same address."""
        return HTMLResponse(self.text(request.scope, template, **said), status, {"vary": "HX-Request"})

    def error(self, scope: Asked, status: int, error: Mapping[str, Any]) -> bytes:
        """An error in OpenAI's shape as a page."""
        return self.text(scope, "error.html.j2", status=status, error=error).encode()

    def namespaces(self, caller: Caller, counted: Mapping[str, int]) -> list[str]:
        """Those in a caller's reach: the server's own, those that hold edits, those its key names."""
        mine = caller.key.namespaces if caller.key and caller.key.namespaces else ()
        return sorted(filter(caller.reaches, {self.config.namespace, *counted, *mine}))


async def form_of(request: Request) -> Fields:
    """The fields of a form that a page of this server sent; 403 for any other.

    A request with `Authorization: Bearer` needs no such proof: no page of another site can make a browser send one.
    """
    try:
        pairs = parse_qsl((await request.body()).decode(), True, max_num_fields=FIELDS, errors="strict")
    except ValueError as error:
        raise bad_request(f"the form cannot be read: {error}", None) from error
    fields = {name: value.replace("\r\n", "\n") for name, value in pairs}
    proof = fields.pop("csrf", "")
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        return fields
    if not hmac.compare_digest(proof.encode(), request.scope["lte.form"].encode()):
        raise ServeError(
            "this form is not, or no longer, from a page of this server; load the page anew", 403, None, "csrf"
        )
    return fields


def see_other(path: str) -> RedirectResponse:
    """On to a page, by GET."""
    return RedirectResponse(path, 303)


def when(at: datetime | str | None) -> str:
    """A moment as people read it, in UTC."""
    return "" if at is None else moment("time", at).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def stamp(at: datetime | str | None) -> str:
    """A moment as <time> and a datetime field take it, in UTC."""
    return "" if at is None else moment("time", at).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
