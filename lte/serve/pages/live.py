"""Live metrics and health: what the counters say, drawn by the server."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lte.memory import EditMemory
from lte.prompt import TEMPLATE_ID
from lte.serve.metrics import Metrics
from lte.serve.pages.site import Site
from lte.serve.policy import caller_of

EVERY = 2  # seconds between two looks
KEPT = 90  # looks that are drawn
WIDE, HIGH = 300, 60  # of a drawing


@dataclass
class Seen:
    """The requests of the last few minutes, as far as somebody looked."""

    looks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def look(self, now: float, total: float) -> None:
        """Note how many requests there were so far."""
        if not self.looks or now - self.looks[-1][0] >= EVERY / 2:
            self.looks.append((now, total))

    @property
    def rates(self) -> list[float]:
        """Requests a second between each two looks."""
        looks = list(self.looks)
        return [(b - a) / (then - at) for (at, a), (then, b) in pairwise(looks)]


def live_pages(site: Site) -> APIRouter:
    """The two pages."""
    router = APIRouter(prefix="/ui", include_in_schema=False)
    seen, started = Seen(), time.monotonic()

    @router.get("/metrics")
    async def metrics(request: Request, live: str = "on") -> Response:
        """The counters, anew every few seconds unless `live` is off."""
        caller = caller_of(request)
        counts = samples(site.running.metrics)

        def look(memory: EditMemory) -> tuple[int, dict[str, int]]:
            states: dict[str, int] = {}
            for record in memory.records():
                if caller.reaches(record.namespace):
                    states[record.state] = states.get(record.state, 0) + 1
            return memory.seq, states

        seq, states = await site.store.read(look)
        seen.look(time.monotonic(), sum(v for _, v in counts.get("lte_requests_total", [])))
        said: dict[str, Any] = {
            "requests": by(counts, "lte_requests_total", "route"),
            "verdicts": by(counts, "lte_gate_decisions_total", "verdict"),
            "rejected": by(counts, "lte_rejected_total", "reason"),
            "upstream": by(counts, "lte_upstream_errors_total", "kind"),
            "queue": sum(v for _, v in counts.get("lte_queue_depth", [])),
            "times": [
                (name, times(counts, metric))
                for name, metric in (
                    ("Recall of edits", "lte_retrieval_seconds"),
                    ("Gateway, until the engine is asked", "lte_gateway_overhead_seconds"),
                )
            ],
            "line": line(seen.rates),
            "now": seen.rates[-1] if seen.rates else None,
            "states": states,
            "seq": seq,
        }
        return site.page(request, "metrics.html.j2", live=live != "off", every=EVERY, wide=WIDE, high=HIGH, **said)

    @router.get("/health")
    async def health(request: Request) -> Response:
        """Whether questions can be answered, part by part, and by what."""
        caller, faults = caller_of(request), await site.running.faults()
        counted: Mapping[str, int] = {}
        seq = 0
        if "memory" not in faults:
            seq, counted = await site.store.read(lambda memory: (memory.seq, memory.namespaces()))
        parts = {name: faults.get(name) for name in ("server", "memory", "engine", "keys")}
        keys = site.running.keys
        locked = keys is not None and ("keys" in faults or keys.exists())
        about = {
            "Model": site.config.name or site.engine.name,
            "Engine": f"{n} over HTTP" if (n := len(site.config.upstreams)) else "in this process",
            "Edits act by": "the prompt alone" if site.engine.prompt_only else f"adapter {site.config.adapter}",
            "Prompt template": TEMPLATE_ID,
            "Edits in front of one question": f"at most {site.config.k}",
            "When recall fails": "503" if site.config.on_retrieval_error == "fail" else "the answer goes without edits",
            "Keys": "asked for" if locked else "not asked for",
            "Up for": lasted(time.monotonic() - started),
        }
        spaces = {name: n for name, n in counted.items() if caller.reaches(name)}
        status = 503 if faults else 200
        return site.page(request, "health.html.j2", status, parts=parts, about=about, spaces=spaces, seq=seq)

    return router


Samples = dict[str, list[tuple[Mapping[str, str], float]]]


def samples(metrics: Metrics) -> Samples:
    """What the counters say, by name: labels and value."""
    found: Samples = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def by(counts: Samples, name: str, label: str) -> list[tuple[str, int]]:
    """The sums of a counter by one of its labels, the largest first."""
    sums: dict[str, float] = {}
    for labels, value in counts.get(name, []):
        sums[labels[label]] = sums.get(labels[label], 0) + value
    return sorted(((n, int(v)) for n, v in sums.items()), key=lambda pair: (-pair[1], pair[0]))


def times(counts: Samples, name: str) -> dict[str, Any]:
    """A histogram: how many, the median and 99th percentile in milliseconds, and its bars for a drawing."""
    at: dict[float, float] = {}
    for labels, value in counts.get(f"{name}_bucket", []):
        bound = float(labels["le"])
        at[bound] = at.get(bound, 0) + value
    bounds = sorted(at)
    total = at[bounds[-1]] if bounds else 0.0
    each = [at[b] - (at[a] if i else 0) for i, (a, b) in enumerate(zip([0.0, *bounds], bounds))]
    top, wide = max(each, default=0) or 1, WIDE / max(1, len(each))
    bars = [
        {"x": i * wide + 1, "y": HIGH - HIGH * n / top, "w": wide - 2, "h": HIGH * n / top, "n": int(n), "to": milli(b)}
        for i, (b, n) in enumerate(zip(bounds, each))
    ]
    p50, p99 = (quantile(bounds, [at[b] for b in bounds], part) for part in (0.5, 0.99))
    return {"count": int(total), "p50": p50, "p99": p99, "bars": bars}


def quantile(bounds: Sequence[float], cumulated: Sequence[float], part: float) -> str:
    """The bound of the bucket in which a quantile lies, as text: "≤ 3 ms"; "none yet" without any count."""
    total = cumulated[-1] if cumulated else 0
    if not total:
        return "none yet"
    place = next(i for i, n in enumerate(cumulated) if n >= part * total)
    return f"≤ {milli(bounds[place])}" if math.isfinite(bounds[place]) else f"> {milli(bounds[place - 1])}"


def milli(seconds: float) -> str:
    """Seconds as milliseconds."""
    return "more" if math.isinf(seconds) else f"{seconds * 1000:g} ms"


def line(rates: Sequence[float]) -> str:
    """The points of a line through values, oldest left, for a drawing."""
    top = max([*rates, 1.0])
    step = WIDE / (KEPT - 2)
    left = WIDE - step * (len(rates) - 1)
    return " ".join(f"{left + i * step:.1f},{HIGH - 2 - (HIGH - 4) * rate / top:.1f}" for i, rate in enumerate(rates))


def lasted(seconds: float) -> str:
    """A time as people say it."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h {minutes % 60} min"
