"""A finished evaluation as a table for the terminal, Markdown, CSV or JSON; `html.py` makes the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lte.evaluate.benchmarks import BENCHMARKS
from lte.evaluate.config import EvaluateError
from lte.evaluate.metrics import HARMONIC, HARMONIC_MEANING, METRICS, version_id
from lte.evaluate.results import Results, read_results

if TYPE_CHECKING:
    from rich.table import Table

SCORINGS = {
    "generated": "generated: the whole answer is right",
    "contains": "generated: the answer holds the right one",
    "teacher_forced": "teacher-forced tokens",
    "preference": "preference",
}
PLAIN = {"seconds_per_edit,none": "seconds per edit", "prompt_tokens_added,none": "prompt tokens added"}
FORMS = ("table", "md", "csv", "json", "html")


@dataclass(frozen=True)
class Figure:
    """One number of a results file, as it is shown."""

    key: str
    mean: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def percent(self) -> bool:
        """Whether it is a share; fluency and costs are not."""
        return self.key not in PLAIN and not self.key.startswith("fluency")

    @property
    def text(self) -> str:
        """The number by itself."""
        return f"{100 * self.mean:.1f}" if self.percent else f"{self.mean:.3g}"

    @property
    def interval(self) -> str:
        """The 95% interval, or nothing."""
        if self.low is None or self.high is None:
            return ""
        scale = 100 if self.percent else 1
        return f"[{scale * self.low:.1f}, {scale * self.high:.1f}]"

    @property
    def margin(self) -> str:
        """Half of the interval's width."""
        if self.low is None or self.high is None:
            return ""
        return f"±{(100 if self.percent else 1) * (self.high - self.low) / 2:.1f}"


def figure(result: Mapping[str, Any], key: str) -> Figure | None:
    """A task's figure under `key`, or `None` where it has none."""
    if key not in result:
        return None
    name, _, scoring = key.partition(",")
    low, high = result.get(f"{name}_ci95,{scoring}", (None, None))
    return Figure(key, result[key], low, high, result.get(f"{name}_n,{scoring}"))


def keys(results: Results) -> list[str]:
    """Every figure that some task has: in the metrics' order, each followed by its aspects, costs last."""
    present = dict.fromkeys(k for r in results.data["results"].values() for k in r)
    ordered = []
    for whole in [*METRICS, HARMONIC]:
        name, _, scoring = whole.partition(",")
        ordered += [whole, *sorted(k for k in present if k.startswith(f"{name}.") and k.endswith(f",{scoring}"))]
    return [k for k in [*ordered, *PLAIN] if k in present and not _derived(k)]


def _derived(key: str) -> bool:
    return key.partition(",")[0].endswith(("_stderr", "_ci95", "_n"))


def editors(results: Results) -> dict[str, Mapping[str, Any]]:
    """Editor -> its task's results, in the order they were run."""
    return {r["alias"]: r for r in results.data["results"].values()}


def checks(results: Results) -> dict[str, Mapping[str, Any]]:
    """Editor -> what its answers say about themselves: valid, cases, scored, refused, why."""
    return {r["alias"]: results.data["validity"][task] for task, r in results.data["results"].items()}


def label(key: str) -> str:
    """What a figure is called beside others of its scoring: "portability", "  Reasoning" for an aspect of it."""
    if key in PLAIN:
        return PLAIN[key]
    name, _, aspect = key.partition(",")[0].partition(".")
    return f"  {aspect.replace('_', ' ')}" if aspect else name


def meaning(key: str) -> str:
    """One sentence on what a metric measures."""
    return HARMONIC_MEANING if key == HARMONIC else METRICS[key].meaning


def title(results: Results) -> str:
    """Benchmark, model, protocol and number of cases."""
    config = results.data["config"]
    cases = max((c["cases"] for c in checks(results).values()), default=0)
    return f"benchmark {config['benchmark']} · model {config['model']} · {config['protocol']} · {cases} cases"


def table(results: Results) -> Table:
    """A `rich` table: a row a metric, a column an editor."""
    from rich.table import Table

    valid = checks(results)
    shown = Table(title=title(results), caption="percent, ± half of the 95% bootstrap interval over cases")
    shown.add_column("")
    for name in editors(results):
        shown.add_column(name if valid[name]["valid"] else f"{name} [red]invalid[/red]", justify="right", no_wrap=True)
    section = None
    for key in keys(results):
        scoring = key.partition(",")[2]
        if scoring != section:
            if section is not None:
                shown.add_section()
            if scoring in SCORINGS:
                shown.add_row(f"[bold]{SCORINGS[scoring]}[/bold]")
            section = scoring
        cells = (figure(r, key) for r in editors(results).values())
        shown.add_row(label(key), *(f"{f.text} [dim]{f.margin:>5}[/dim]" if f else "–" for f in cells))
    return shown


def markdown(results: Results) -> str:
    """A Markdown table: a row a metric, a column an editor, each figure with its 95% interval."""
    valid = checks(results)
    names = [name if valid[name]["valid"] else f"{name} (invalid)" for name in editors(results)]
    lines = [f"| metric | scoring | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    for key in keys(results):
        metric, _, scoring = key.partition(",")
        what = (PLAIN[key], "") if key in PLAIN else (metric, scoring)
        cells = (figure(r, key) for r in editors(results).values())
        shown = (f"{f.text} {f.interval}".strip() if f else "–" for f in cells)
        lines.append("| " + " | ".join(part.replace("_", " ") for part in (*what, *shown)) + " |")
    return f"{title(results)}; percent with 95% intervals\n\n" + "\n".join(lines) + "\n"


def csv_text(results: Results) -> str:
    """One line a figure: editor, metric, scoring, value, its interval, the cases behind it, its version."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["editor", "metric", "scoring", "value", "ci95_low", "ci95_high", "n", "version", "valid"])
    for name, result in editors(results).items():
        for key in keys(results):
            if f := figure(result, key):
                metric, _, scoring = key.partition(",")
                version = "" if key in PLAIN else version_id(key)
                valid = checks(results)[name]["valid"]
                rows.writerow([name, metric, scoring, f.mean, f.low, f.high, f.n, version, valid])
    return out.getvalue()


def json_text(results: Results) -> str:
    """The results file itself."""
    return json.dumps(results.data, indent=2, ensure_ascii=False) + "\n"


def render(results: Results | str | Path, form: str) -> Table | str:
    """The newest results of a folder, or results at hand, in one of `FORMS`: a `rich` table, or text."""
    found = results if isinstance(results, Results) else read_results(results)
    if form == "html":
        from lte.evaluate.html import page  # brings in matplotlib

        return page(found)
    makers: dict[str, Callable[[Results], Table | str]] = {
        "table": table,
        "md": markdown,
        "csv": csv_text,
        "json": json_text,
    }
    if form not in makers:
        raise EvaluateError(f"report form {form!r}: no such form; there are {', '.join(FORMS)}")
    return makers[form](found)


def catalogue() -> Table:
    """What there is to evaluate on and by: benchmarks, metrics with their versions, protocols."""
    from rich.table import Table

    shown = Table(title="What `lte evaluate` knows")
    for head in ("kind", "name", "what it is", "source or version"):
        shown.add_column(head)
    for name, entry in BENCHMARKS.items():
        shown.add_row("benchmark", name, entry.about, entry.source)
    shown.add_section()
    for key in [*METRICS, HARMONIC]:
        shown.add_row("metric", key, meaning(key), version_id(key))
    shown.add_section()
    shown.add_row("protocol", "single", "one edit in force at a time", "")
    shown.add_row("protocol", "batch:N", "N edits in force at once, all their cases asked", "")
    shown.add_row("protocol", "batch:all", "every edit in force at once", "")
    return shown
