"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

PATIENCE = 2.0  # seconds that a client which is refused may go on sending before the connection is cut
WRAPPERS = frozenset(
    {"body", "query", "path", "header", "one", "many", "str", "int", "float", "bool"}
)  # pydantic's, not ours


class ServeError(RuntimeError):
    """A request that cannot be answered, or a server that cannot start; the message says how to mend it."""

    def __init__(
        self,
        message: str,
        status: int = 500,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,  # further fields of the error
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after
        self.headers, self.more = dict(headers or {}), dict(more or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that a client reads."""
        said = {"message": str(self), "type": _kind(self.status), "param": self.param, "code": self.code}
        return {"error": said | self.more}

    @property
    def response(self) -> JSONResponse:
        """The whole response."""
        wait = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return JSONResponse(self.body, self.status, {**self.headers, **wait})


def bad_request(message: str, param: str | None, code: str | None = None) -> ServeError:
    """A 400 that names the parameter."""
    return ServeError(message, 400, param, code)


async def refuse(error: ServeError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `error` in front of an app that does not get to see the request.

    What is left of the body is read and thrown away first: a client that still sends would not get to read the answer.
    """
    scope["lte.code"] = error.code
    response = error.response
    try:
        await asyncio.wait_for(_rest(receive), PATIENCE)
    except asyncio.TimeoutError:
        response.headers["connection"] = "close"
    await response(scope, receive, send)


async def _rest(receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


def install(app: FastAPI) -> None:
    """Give every failure of `app` the one shape, the framework's own included."""
    app.add_exception_handler(ServeError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServeError)
    request.scope["lte.code"] = error.code  # for the metrics
    return error.response


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return from_validation(error.errors()).response


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    known = {
        404: ServeError(f"{where}: no such route; the API is under /v1", 404, code="not_found"),
        405: ServeError(f"{where}: method not allowed", 405, code="method_not_allowed"),
    }
    response = known.get(error.status_code, ServeError(str(error.detail), error.status_code)).response
    response.headers.update(error.headers or {})  # Allow on 405
    return response


def unforeseen(name: str) -> ServeError:
    """A 500 that says where to look, and nothing of what is there."""
    return ServeError(f"the server failed; its log has the reason under request {name}", 500)


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ServeError:
    """A 400 for what pydantic refused; of a union, the member that got furthest into the value speaks."""
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", errors[0]["msg"])
        return bad_request(f"the body is not JSON: {reason} at character {errors[0]['loc'][-1]}", None, "invalid_json")
    worst = max(errors, key=lambda e: len(_path(e["loc"])))
    param = name_of(worst["loc"])
    if not param:
        return bad_request(f"the body: {worst['msg']}; send a JSON object as application/json", None)
    alike = [str(e["msg"]).removeprefix("Value error, ") for e in errors if name_of(e["loc"]) == param]
    return bad_request(f"{param}: {' or '.join(dict.fromkeys(alike))}", param)


def name_of(location: Sequence[str | int]) -> str:
    """messages[0].content for pydantic's ("body", "messages", 0, "content", "str")."""
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in _path(location))
    return name.lstrip(".")


def _path(location: Sequence[str | int]) -> list[str | int]:
    return [p for p in location if isinstance(p, int) or (p not in WRAPPERS and "[" not in p)]


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
