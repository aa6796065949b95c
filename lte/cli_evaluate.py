"""`lte evaluate`: ask every editor the same questions, and report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from lte.cli_memory import CHECK_FAILED, QUIET, Format, RunLeftOut, console


class Report(str, Enum):
    """How results are printed."""

    table = "table"
    md = "md"
    grand = "grand"
    batch_size = "batch-size"
    batch_size_svg = "batch-size-svg"
    tex = "tex"
    csv = "csv"
    json = "json"
    html = "html"


class Comparison(str, Enum):
    """How a comparison is printed."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"


evaluations = typer.Typer(cls=RunLeftOut, **QUIET)
ReportForm = Annotated[Report, typer.Option("-o", help="How to print the results.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, as in a.b=c; may be repeated.")
]
Editors = Annotated[str | None, typer.Option(metavar="NAME,NAME", help="These editors; none is no edit.")]


@evaluations.command("run")
def run(
    config: Annotated[Path, typer.Argument(help="Settings (YAML), e.g. configs/evaluate/quick.yaml.")],
    overrides: Overrides = [],  # noqa: B006  typer reads it and never writes
    editors: Editors = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N cases of each benchmark.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for journal, samples and results.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    shard: Annotated[str, typer.Option(metavar="i/n", help="This part of the run, i from 0 to n-1.")] = "0/1",
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS|local", help="Schedule the units on Ray.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server to ask.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model: a name, a folder, a hub id.")] = None,
    form: ReportForm = Report.table,
) -> None:
    """Evaluate; `lte evaluate CONFIG` is enough. A report.html goes beside the results.

    Exit code 1: some answers do not come from the model they should come from, or some were not given.
    """
    from lte.config import load
    from lte.evaluate.config import EvaluateConfig

    more = [*overrides]
    more += [f"editors=[{editors}]"] if editors else []
    more += [f"limit={limit}"] if limit else []
    more += [f"endpoint.url={endpoint}"] if endpoint else []
    more += [f"{'endpoint.model' if endpoint else 'model'}={model}"] if model else []
    chosen = load(EvaluateConfig, config, more)
    kept = {name: value for name, value in chosen.editor_settings.items() if name in chosen.editors}
    chosen = chosen.model_copy(update={"editor_settings": kept})  # the file's settings of those left out are no mistake

    from lte.editors import editor
    from lte.evaluate.plan import Shard
    from lte.evaluate.report import render
    from lte.evaluate.run import evaluate_main
    from lte.evaluate.site import Supplies
    from lte.evaluate.trackers import open_trackers
    from lte.models import load_model
    from lte.pocket import home
    from lte.pocket.knowledge import knowledge_cases

    supplies = Supplies(editor, load_model, {"pocket": home() / "cases.jsonl"}, knowledge_cases)
    told = " ".join(["lte", *sys.argv[1:]])
    part, folder = Shard.of(shard), output or chosen.output
    with open_trackers(chosen.trackers, folder.name, folder) as trackers:
        trackers.settings(chosen.model_dump(mode="json"))
        with progress_bars() as report:
            results = evaluate_main(chosen, supplies, folder, part, resume, ray, report, told)
        if results is None:
            return  # the other shards' turn
        page = results.folder / "report.html"
        page.write_text(str(render(results, "html")), encoding="utf-8")
        for task, found in results.data["results"].items():
            trackers.metrics({f"{task}/{key}": v for key, v in found.items() if isinstance(v, (int, float))})
        trackers.artifact(page)
    put(render(results, form.value))
    if not results.valid:
        raise typer.Exit(CHECK_FAILED)


@evaluations.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --output folder of an evaluation.")],
    form: ReportForm = Report.table,
) -> None:
    """Print the results of a folder; html is a page by itself: `-o html > report.html`."""
    from lte.evaluate.report import render

    put(render(folder, form.value))


@evaluations.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR_A", help="The --output folder of an evaluation.")],
    second: Annotated[Path | None, typer.Argument(metavar="[DIR_B]", help="Another; left out: the same.")] = None,
    editors: Annotated[str | None, typer.Option(metavar="A,B", help="This editor of A beside that one of B.")] = None,
    metric: Annotated[str | None, typer.Option(help="This figure alone, e.g. reliability,generated.")] = None,
    form: Annotated[Comparison, typer.Option("-o", help="How to print the comparison.")] = Comparison.table,
) -> None:
    """Compare two runs, or two editors of a run, case by case: paired bootstrap, and McNemar's test of right or wrong.

    Exit code 1: some figure differs beyond chance.
    """
    from lte.evaluate.compare import compare as compared
    from lte.evaluate.report.compared import render_comparison

    pair = None
    if editors:
        names = [name.strip() for name in editors.split(",")]
        if len(names) != 2:
            raise typer.BadParameter(f"{editors}: name two editors, e.g. rome,lte", param_hint="--editors")
        pair = names[0], names[1]
    found = compared(first, second, pair, metric)
    put(render_comparison(found, form.value))
    if found.differs:
        raise typer.Exit(CHECK_FAILED)


@evaluations.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(help="Your own cases (JSONL), or a benchmark's file.")],
    benchmark: Annotated[str | None, typer.Option(help="Whose schema it has; left out: seen by its fields.")] = None,
    form: Annotated[Format, typer.Option("-o", help="How to print.")] = Format.table,
) -> None:
    """Check a file of cases: every problem with its line, its field and its remedy. Exit code 1: there are some."""
    import json

    from lte.evaluate.validate import validate as problems_of

    problems = problems_of(file, benchmark)
    if form is Format.json:
        put(json.dumps([vars(p) for p in problems], ensure_ascii=False, indent=1))
    else:
        for problem in problems:
            put(str(problem))
        if not problems:
            put(f"{file}: no problems")
    if any(p.kind == "error" for p in problems):
        raise typer.Exit(CHECK_FAILED)


@evaluations.command("ls")
def ls() -> None:
    """Print the benchmarks, editors, metrics and protocols there are."""
    from lte.editors import EDITORS
    from lte.evaluate.report import catalogue

    put(catalogue({name: entry.about for name, entry in EDITORS.items()}))


def put(shown: Any) -> None:
    """Print text as it is, and a table as a table."""
    if isinstance(shown, str):
        typer.echo(shown, nl=not shown.endswith("\n"))
    else:
        console().print(shown)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each task: call it with the task, how much is done, and how much there is."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    bars: dict[str, Any] = {}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def report(task: str, done: int, total: int) -> None:
            if task not in bars:
                bars[task] = progress.add_task(task, total=total)
            progress.update(bars[task], completed=done)

        yield report
