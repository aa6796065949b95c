"""The layer in front of the guard that speaks to browsers: cookies in, pages in place of JSON errors out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lte.serve.errors import ServeError, refuse
from lte.serve.pages.sessions import FORMS, RANDOM, SIGNED_IN, Sessions, cookie, cookies_of

HOME = "/ui"
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
Draw = Callable[[Scope, int, dict[str, Any]], bytes]  # an error as a page


class Browser:
    """Under /ui: tells the guard which key a browser signed in with, and draws errors as pages for who reads pages."""

    def __init__(self, app: ASGIApp, sessions: Sessions, draw: Draw) -> None:
        self.app, self._sessions, self._draw = app, sessions, draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not under /ui."""
        if scope["type"] != "http" or not (scope["path"] == HOME or scope["path"].startswith(f"{HOME}/")):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        held = cookies_of(headers)
        name, nonce = held.get(SIGNED_IN), held.get(FORMS, "")
        new = not RANDOM.fullmatch(nonce)
        nonce = secrets.token_urlsafe(32) if new else nonce
        scope["lte.form"] = self._sessions.proof(nonce, name)
        swaps = b"hx-request" in headers
        reads = swaps or b"text/html" in headers.get(b"accept", b"")
        start: Message = {}
        body = b""

        async def drawn(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                # "no-referrer" would have a browser send its own forms with "Origin: null", which the guard refuses
                more = [(b"content-security-policy", POLICY), (b"referrer-policy", b"same-origin")]
                if new and scope["method"] == "GET":
                    more.append((b"set-cookie", cookie(FORMS, nonce, scope["scheme"] == "https")))
                message["headers"] = [*message.get("headers", ()), *more]
                if reads and message["status"] >= 400 and _is_json(message):
                    start = message
                    return
            if not start:
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                await self._page(scope, send, start, body, swaps)

        try:
            scope["lte.session"] = self._sessions.key(name)
        except ServeError as error:  # the file of keys is gone
            await refuse(error, scope, receive, drawn)
            return
        await self.app(scope, receive, drawn)

    async def _page(self, scope: Scope, send: Send, start: Message, body: bytes, swaps: bool) -> None:
        status = start["status"]
        kept = [(n, v) for n, v in start["headers"] if n not in (b"content-type", b"content-length")]
        if status == 401:
            kept = [(n, v) for n, v in kept if n != b"www-authenticate"]  # no form of the browser's own
            kept.append((b"hx-redirect" if swaps else b"location", b"/ui/login"))
            status, page = 401 if swaps else 303, b""
        else:
            page = self._draw(scope, status, json.loads(body)["error"])
        kept += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(page)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": page})


def _is_json(message: Message) -> bool:
    return any(n == b"content-type" and v.startswith(b"application/json") for n, v in message["headers"])
