"""What every request passes on its way in: a name for it, and limits on its body. Plain ASGI: streams stay streams."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lte.serve.errors import ServeError, refuse
from lte.serve.limits import deeper

NAME = re.compile(rb"[\w.:-]{1,64}")
DRAIN = 16  # times the limit: read and thrown away, so that a client still sending gets to read the 413


class RequestId:
    """Puts `x-request-id` on the response: the client's own where it sent a harmless one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given if NAME.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()
        scope["lte.request_id"] = name.decode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name)]
            await send(message)

        await self.app(scope, receive, named)


class BodyLimit:
    """Reads the body, at most `limit` bytes of it, before the app sees the request; more is answered with 413.

    JSON nested more than `depth` deep is 422: what reads it next would recurse. The body is `lte.body` in the scope.
    """

    def __init__(self, app: ASGIApp, limit: int, depth: int) -> None:
        self.app, self.limit, self.depth = app, limit, depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self.limit:
                body += chunk
            more = message.get("more_body", False) and size <= DRAIN * self.limit
        if size > self.limit:
            text = f"the body is larger than {self.limit} bytes; send less at a time, e.g. edits in several batches"
            scope["lte.code"] = "body_too_large"
            response = ServeError(text, 413, code="body_too_large").response
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        whole = scope["lte.body"] = bytes(body)
        if deeper(whole, self.depth):
            text = f"the body: lists and objects stand in each other more than {self.depth} deep; flatten it"
            await refuse(ServeError(text, 422, code="body_too_deep"), scope, done, send)
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()  # only the disconnect is still to come
            told = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, replay, send)


async def done() -> Message:
    """What a client whose body is read to its end says."""
    return {"type": "http.request", "body": b"", "more_body": False}
