"""Spans: named and filled as OpenTelemetry's conventions have it, without a word of what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shell_kit import CHAT, shell

pytest.importorskip("opentelemetry.trace")

from opentelemetry.trace import NonRecordingSpan, get_current_span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Span(NonRecordingSpan):
    """Remembers what it was told."""

    def __init__(self, name: str, parent: Any) -> None:
        super().__init__(parent)
        self.name, self.parent, self.said, self.status = name, parent, dict[str, Any](), None

    def set_attribute(self, key: str, value: Any) -> None:
        self.said[key] = value

    def update_name(self, name: str) -> None:
        self.name = name

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = status.name


class Tracer:
    def __init__(self) -> None:
        self.spans = list[Span]()

    @contextmanager
    def start_as_current_span(self, name: str, context: Any, kind: Any, **options: Any) -> Iterator[Span]:
        assert options == {"record_exception": False, "set_status_on_exception": False}  # their words may be prompts
        span = Span(name, get_current_span(context).get_span_context())
        self.spans.append(span)
        yield span


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Tracer:
    own = Tracer()
    monkeypatch.setattr("lte.serve.app.tracer", lambda: own)
    return own


def test_a_question_is_a_span(fakes: Any, tmp_path: Path, tracer: Tracer) -> None:
    with shell(fakes, tmp_path, keys=False, otel=True) as made:
        made.client().post("/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT})
        made.client().get("/v1/edits/e1")
        made.lm.fail = ZeroDivisionError("Lunaria")
        made.client().post("/v1/chat/completions", json=CHAT)
    chat, get, failed = tracer.spans
    assert (chat.name, get.name, failed.name) == ("chat pocket", "GET /v1/edits/{id}", "chat pocket")
    assert chat.said == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "pocket",
        "gen_ai.provider.name": "lte",
        "lte.edits.injected": 1,
    }
    assert f"{chat.parent.trace_id:032x}" in PARENT
    assert (chat.status, failed.status) == (None, "ERROR")
    assert "Lunaria" not in str([vars(span) for span in tracer.spans])


def test_nothing_is_traced_unasked(fakes: Any, tmp_path: Path, tracer: Tracer) -> None:
    with shell(fakes, tmp_path, keys=False) as made:
        made.client().get("/v1/models")
    assert not tracer.spans
