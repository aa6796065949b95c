"""Health, readiness and metrics, and what no metric may say."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from shell_kit import CHAT, FACT, Shell, shell

from lte.memory.fault import MemoryFault
from lte.serve import admin


@pytest.fixture
def made(fakes: Any, tmp_path: Path) -> Any:
    with shell(fakes, tmp_path, keys=False) as running:
        yield running


def ready(made: Shell) -> list[tuple[int, str]]:
    replies = [made.client(admin=port).get("/readyz") for port in (False, True)]
    return [(r.status_code, r.json().get("status") or r.json()["error"]["message"]) for r in replies]


def test_it_is_ready_while_questions_can_be_answered(made: Shell) -> None:
    assert ready(made) == [(200, "ok")] * 2
    made.memory.fault = MemoryFault("memory.db: cannot be read")
    assert ready(made) == [(503, "not ready: memory")] * 2
    assert made.client().get("/livez").status_code == made.client(admin=True).get("/livez").status_code == 200
    made.memory.fault = None
    assert ready(made) == [(200, "ok")] * 2
    made.apps.running.drain()
    assert ready(made) == [(503, "not ready: server")] * 2


def test_a_memory_that_hangs_is_not_ready_soon(made: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert admin.PATIENCE <= 1.5  # with a little to spare, the two seconds that are promised
    monkeypatch.setattr(admin, "PATIENCE", 0.05)
    free = threading.Event()
    monkeypatch.setattr(type(made.memory), "__len__", lambda self: int(free.wait(60)))
    try:
        assert made.client().get("/readyz").json()["error"]["message"] == "not ready: memory"
    finally:
        free.set()


def test_an_engine_that_is_gone_is_not_ready(made: Shell) -> None:
    made.apps.running.engine._closing.set()  # type: ignore[attr-defined]
    assert ready(made) == [(503, "not ready: engine")] * 2


def test_why_it_is_not_ready_is_for_the_log(made: Shell, caplog: pytest.LogCaptureFixture) -> None:
    made.memory.fault = MemoryFault("/srv/secret/memory.db: cannot be read")
    assert "secret" not in made.client().get("/readyz").text
    assert "/srv/secret/memory.db: cannot be read" in caplog.text


def values(made: Shell) -> dict[tuple[str, ...], float]:
    reply = made.client(admin=True).get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(made: Shell) -> None:
    http = made.client()
    http.post("/v1/chat/completions", json=CHAT)
    http.post("/v1/chat/completions", json=CHAT | {"lte": {"namespace": "north"}})
    http.post("/v1/chat/completions", json=CHAT | {"model": "pocket:base"})
    http.post("/v1/chat/completions", json=CHAT | {"model": "none"})
    http.get("/v1/nothing")
    http.post("/v1/edits", content="[" * 99)
    found = values(made)
    route = "POST /v1/chat/completions"
    assert found["lte_requests_total", "200", "default", route] == 2
    assert found["lte_requests_total", "200", "named", route] == 1
    assert found["lte_requests_total", "404", "none", route] == 1
    assert found["lte_requests_total", "404", "none", "none"] == 1
    assert found["lte_rejected_total", "body_too_deep"] == 1
    assert found["lte_gateway_overhead_seconds_count",] == 3
    assert found["lte_retrieval_seconds_count", "recall"] == 2
    assert found["lte_edits_injected_sum",] == 1
    assert [found["lte_gate_decisions_total", verdict] for verdict in ("in_play", "none", "off")] == [1, 1, 1]
    assert found["lte_memory_edits", "active"] == 2 and found["lte_memory_edits", "disabled"] == 0
    assert found["lte_memory_seq",] == 2
    made.memory.set_state("e1", "disabled")
    found_again = values(made)
    assert (found_again["lte_memory_edits", "active"], found_again["lte_memory_edits", "disabled"]) == (1, 1)
    assert found_again["lte_memory_seq",] == 3
    assert found["lte_queue_depth",] == 1  # this one
    assert found["lte_ready",] == 1
    made.memory.fault = MemoryFault("gone")
    assert values(made)["lte_ready",] == 0


def test_no_metric_grows_with_what_clients_send(fakes: Any, tmp_path: Path) -> None:
    with shell(fakes, tmp_path) as made:
        key = made.bearer("admin")
        for i in range(20):
            http = made.client(address=f"198.51.100.{i}")
            http.get(f"/v1/canary{i}", headers=key)
            http.get(f"/v1/edits/canary{i}", headers=key)
            http.get("/v1/edits", headers={"authorization": f"Bearer canary{i}"})
            http.post("/v1/edits", json=FACT | {"namespace": f"canary{i}"}, headers=key)
            http.post("/v1/chat/completions", json=CHAT | {"model": f"canary{i}"}, headers=key)
            http.request(f"CANARY{i}", "/v1/edits", headers=key)
        text = made.client(admin=True).get("/metrics", headers=key).text
        assert "canary" not in text.lower()
        assert "198.51" not in text and all(token.split("_")[1] not in text for token in made.tokens.values())
        assert sum(line.startswith("lte_requests_total{") for line in text.splitlines()) <= 8


def test_headers_that_browsers_heed_are_on_every_answer(made: Shell) -> None:
    for port, path in ((False, "/v1/models"), (False, "/v1/nothing"), (True, "/metrics"), (True, "/")):
        headers = made.client(admin=port).get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-request-id"]
    stream = made.client().post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert stream.headers["cache-control"] == "no-cache"  # its own
