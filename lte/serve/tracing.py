"""Spans for OpenTelemetry, named as its conventions for generative models have it; where it is wanted and installed."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lte.serve.errors import ServeError

OPERATIONS = {"POST /v1/chat/completions": "chat", "POST /v1/completions": "text_completion"}


class Trace:
    """A span around each request, a child of the client's own where it sent one. It holds no prompt and no answer.

    tracer  of `opentelemetry.trace`; where it sends spans is the SDK's setting: `opentelemetry-instrument lte serve`
    """

    def __init__(self, app: ASGIApp, tracer: Any, model: str) -> None:
        self.app, self._tracer, self._model = app, tracer, model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        context = extract({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        with self._tracer.start_as_current_span(
            scope["method"], context, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status, headers = message["status"], dict(message.get("headers", ()))
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(StatusCode.ERROR)
                    if b"x-lte-edits" in headers:
                        used = [id for id in headers[b"x-lte-edits"].split(b",") if id]
                        span.set_attribute("lte.edits.injected", len(used))
                await send(message)

            try:
                await self.app(scope, receive, noted)
            finally:
                route = scope.get("lte.route")
                operation = OPERATIONS.get(route or "")
                span.set_attribute("http.request.method", scope["method"])
                if route:
                    span.set_attribute("http.route", route.partition(" ")[2])
                if operation:
                    span.update_name(f"{operation} {self._model}")
                    span.set_attribute("gen_ai.operation.name", operation)
                    span.set_attribute("gen_ai.request.model", self._model)
                    span.set_attribute("gen_ai.provider.name", "lte")
                elif route:
                    span.update_name(route)


def tracer() -> Any:
    """The tracer to give to `Trace`; `ServeError` where OpenTelemetry is not installed."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError as error:
        raise ServeError(
            "otel: opentelemetry is not there; pip install opentelemetry-distro, or leave it off"
        ) from error
    return get_tracer("lte.serve")
