"""A finished evaluation as one self-contained page: headline, plots, every metric, the cases themselves, settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lte.evaluate import charts
from lte.evaluate.journal import Row, read_samples
from lte.evaluate.metrics import HARMONIC, METRICS, ProbeRow
from lte.evaluate.report import Figure, checks, editors, figure, keys, label, meaning, title
from lte.evaluate.results import Results

HEADLINE = ("reliability", "generalization", "portability", "locality")
FALLBACK = ("generated", "teacher_forced")  # of a run that generates nothing, the headline shows the next best
SHOWN = 100  # cases whose answers are printed, spread evenly over the run


def write_page(results: Results, path: str | Path) -> Path:
    """Write the page to `path` and return it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page(results), encoding="utf-8")
    return Path(path)


def page(results: Results) -> str:
    """The page as text; it loads nothing from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = editors(results)
    headline = [k for k in headline_keys(results) if k != HARMONIC]
    panels = {label(k): {name: f for name, r in found.items() if (f := figure(r, k))} for k in headline}
    data = results.data
    return environment.get_template("report.html.j2").render(
        title=title(results),
        data=data,
        config=data["config"],
        date=datetime.fromtimestamp(data["date"], timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        editors=list(found),
        checks=checks(results),
        headline=[(k, label(k), {n: figure(r, k) for n, r in found.items()}) for k in headline_keys(results)],
        scoring=headline[0].partition(",")[2].replace("_", " ") if headline else "",
        costs={n: figure(r, "seconds_per_edit,none") for n, r in found.items()},
        sections=_sections(results),
        meanings=[(k, meaning(k)) for k in [*METRICS, HARMONIC] if k in keys(results)],
        dots=charts.dots(panels, list(found)) if panels else "",
        trade_off=_trade_off(panels),
        cases=_cases(results),
        shown=SHOWN,
        settings=yaml.safe_dump(data["config"], sort_keys=False, allow_unicode=True),
        editor_settings=yaml.safe_dump(
            {c["editor"]: c["editor_settings"] for c in data["configs"].values() if c["editor_settings"]},
            sort_keys=False,
            allow_unicode=True,
        ),
    )


def headline_keys(results: Results) -> list[str]:
    """The few figures that come first, each in the first scoring that the run has."""
    present = keys(results)
    scoring = next((s for s in FALLBACK if f"reliability,{s}" in present), "")
    return [k for k in [*(f"{name},{scoring}" for name in HEADLINE), HARMONIC] if k in present]


def _trade_off(panels: Mapping[str, Mapping[str, Figure]]) -> str:
    up = "generalization" if "generalization" in panels else "reliability"
    kept, changed = panels.get("locality", {}), panels.get(up, {})
    points = {name: (kept[name], changed[name]) for name in kept if name in changed}
    return charts.trade_off(points, "locality: unrelated answers unchanged", f"{up}: edit in force") if points else ""


def _sections(results: Results) -> list[tuple[str, list[tuple[str, list[Figure | None]]]]]:
    """Scoring -> rows of (metric, a figure an editor)."""
    sections: dict[str, list[tuple[str, list[Figure | None]]]] = {}
    for key in keys(results):
        scoring = key.partition(",")[2]
        name = "cost" if scoring == "none" else scoring.replace("_", " ")
        sections.setdefault(name, []).append((label(key), [figure(r, key) for r in editors(results).values()]))
    return list(sections.items())


def _cases(results: Results) -> list[dict[str, Any]]:
    """The cases shown: the edit, and each question with every editor's answer and whether it is right."""
    names = {r["alias"]: task for task, r in results.data["results"].items()}
    total = max((check["cases"] for check in checks(results).values()), default=0)
    step = max(1, -(-total // SHOWN))
    cases: dict[int, dict[str, Any]] = {}
    for name, task in names.items():
        if not results.samples(task).exists():
            continue
        for row in islice(read_samples(results.samples(task)), 0, None, step):
            case = cases.setdefault(row["doc_id"], {"edit": row["doc"]["edit"], "questions": _questions(row)})
            for question, probe in zip(case["questions"], _asked(row), strict=True):
                question["answers"][name] = (probe["after"], verdict(probe))
    return [cases[i] for i in sorted(cases)]


def _asked(row: Row) -> list[ProbeRow]:
    return [p for p in row["probes"] if p["kind"] != "fluency" and p["after"] is not None]


def _questions(row: Row) -> list[dict[str, Any]]:
    return [
        {
            "kind": p["kind"],
            "aspect": p["aspect"].replace("_", " "),
            "prompt": p["prompt"],
            "wanted": p["before"] if p["kind"] == "locality" else " / ".join(p["answers"][:3]),
            "before": p["before"],
            "answers": {},
        }
        for p in _asked(row)
    ]


def verdict(probe: ProbeRow) -> bool | None:
    """Whether the generated answer counts as right, as its metric counts it; `None` where no metric counts it."""
    metric = METRICS.get(f"{probe['kind']},generated")
    value = metric.value(probe) if metric else None
    return None if value is None else value == 1
