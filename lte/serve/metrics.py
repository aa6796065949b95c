"""What the server tells Prometheus: in a registry of its own, with no label that a client or a tenant could fill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lte.serve.errors import ServeError

TYPE = "text/plain; version=0.0.4; charset=utf-8"
REJECTED = frozenset({401, 403, 409, 412, 413, 422, 429, 431, 503})
Verdict = Literal["in_play", "none", "off", "degraded"]
FINE = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)  # seconds
FEW = (0, 1, 2, 3, 5, 8, 16, 32)


class Metrics:
    """The counters of one server. Each label takes a handful of values that are written in this package."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter(
            "lte_requests_total", "Requests answered.", ["route", "code", "namespace_class"], registry=own
        )
        self.rejected = Counter(
            "lte_rejected_total", "Requests refused, by the code of the error.", ["reason"], registry=own
        )
        self.upstream_errors = Counter("lte_upstream_errors_total", "Failures of the engine.", ["kind"], registry=own)
        self.overhead = Histogram(
            "lte_gateway_overhead_seconds",
            "From a question's first byte here to the engine's being asked.",
            registry=own,
            buckets=FINE,
        )
        self.retrieval = Histogram(
            "lte_retrieval_seconds", "Recall of edits, by stage.", ["stage"], registry=own, buckets=FINE
        )
        self.injected = Histogram("lte_edits_injected", "Edits put in front of a question.", registry=own, buckets=FEW)
        self.gate = Counter(
            "lte_gate_decisions_total", "Questions by whether any edit was in play.", ["verdict"], registry=own
        )
        self.queue = Gauge(
            "lte_queue_depth", "Requests under way, those that wait for the engine included.", registry=own
        )
        self.edits = Gauge("lte_memory_edits", "Edits in the memory, by state.", ["state"], registry=own)
        self.seq = Gauge("lte_memory_seq", "Number of the memory's newest change.", registry=own)
        self.ready = Gauge("lte_ready", "1 while questions can be answered.", registry=own)

    def answered(self, route: str | None, status: int, namespace: str, code: str | None) -> None:
        """Count a request whose answer is out, or that its client left (499)."""
        self.requests.labels(route or "none", str(status), namespace).inc()
        if code and code.startswith("upstream_"):
            self.upstream_errors.labels(code.removeprefix("upstream_")).inc()
        elif status in REJECTED:
            self.rejected.labels(code or "invalid").inc()

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


@contextmanager
def stage(request: Request, name: str) -> Iterator[None]:
    """Time a stage of the retrieval."""
    began = time.perf_counter()
    yield
    metrics_of(request).retrieval.labels(name).observe(time.perf_counter() - began)


def decided(request: Request, injected: int, verdict: Verdict) -> None:
    """Note that a question is on its way to the engine with so many edits in front of it.

    verdict  whether any was in play; off: none was wanted; degraded: the memory failed, and that is let pass
    """
    metrics = metrics_of(request)
    metrics.overhead.observe(time.perf_counter() - request.scope["lte.began"])
    metrics.injected.observe(injected)
    metrics.gate.labels(verdict).inc()


def metrics_of(request: Request) -> Metrics:
    """The counters of the server that a request came to; `ServeError` where no `Observe` stands in front of it."""
    found = request.scope.get("lte.metrics")
    if not isinstance(found, Metrics):
        raise ServeError("a request came in past the counters; put the app behind lte.serve.observe.Observe")
    return found
