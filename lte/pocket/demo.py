"""The whole product in a few minutes on the pocket model: edit, ask, take back, compare."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lte.config import shipped
from lte.editors import editor
from lte.edits import Case, read_cases
from lte.evaluate import EvaluateConfig, Results, evaluate
from lte.evaluate.report import render
from lte.memory import EditMemory
from lte.models import LM, load_model
from lte.pocket import home

COMPARED = ("none", "ice", "ft_m", "memit", "lte")
SHOWN = 5


def run(output: Path, cases: int = 100, console: Console | None = None) -> None:
    """Show an edit's life on five facts, then set the editors side by side on `cases` held-out ones.

    Tables go to the console; `output` becomes a self-contained HTML report.
    """
    out = console or Console()
    notes = Console(stderr=True)
    with notes.status("loading the pocket model"):
        lm = load_model("pocket")
        held_out = read_cases(home() / "cases.jsonl")
    shown, compared = choose(lm, held_out, cases)
    with tempfile.TemporaryDirectory() as folder:
        life_of_an_edit(lm, Path(folder) / "memory.db", shown, out, notes)
    compare(lm, compared, output, out, notes)


def choose(lm: LM, cases: Sequence[Case], n: int) -> tuple[list[Case], list[Case]]:
    """(five cases whose fact the model knows, of five relations, and `n` others), by a fixed seed."""
    drawn = random.Random(0).sample(list(cases), len(cases))
    known: dict[str, Case] = {}
    some = drawn[: 20 * SHOWN]
    for case, answer in zip(some, lm.answer([c.edit.prompt for c in some]), strict=True):
        if answer == case.edit.target_true:
            known.setdefault(case.tags["relation"], case)
    shown = list(known.values())[:SHOWN]
    return shown, [c for c in drawn if c not in shown][:n]


def life_of_an_edit(lm: LM, path: Path, cases: Sequence[Case], out: Console, notes: Console) -> None:
    """Ask, edit, ask in other words, ask the neighbours, take one edit back and ask again."""
    questions = [c.edit.prompt for c in cases]
    rephrased = [p.prompt for c in cases for p in c.generalization]
    neighbours = [p.prompt for c in cases for p in c.locality]
    base = dict(zip(asked := questions + rephrased + neighbours, lm.answer(asked), strict=True))
    out.print(rows("1  What the model knows", ("question", "answer"), [(q, base[q]) for q in questions]))

    with notes.status("writing five edits"):
        memory = EditMemory.open(path)
        handle = editor("lte", memory=lambda: memory).apply(lm, [c.edit for c in cases])
    with handle:
        facts = [(str(e.id), e.statement) for e in handle.edits]
        out.print(rows("2  Five edits go into the memory", ("id", "from now on"), facts))
        heads = ("question", "before", "now", "edit used")
        out.print(rows("3  Asked in other words", heads, compared_with(base, lm, rephrased)))
        lines = compared_with(base, lm, neighbours)
        same = sum(before == now for _, before, now, _ in lines)
        out.print(rows(f"4  Neighbours: {same} of {len(lines)} answers as before", heads, lines))
        id = facts[0][0]
        memory.delete(id)
        again = compared_with(base, lm, questions[:1])
        out.print(rows(f"5  Edit {id} is deleted, and the old answer is back", heads, again))


def compared_with(base: Mapping[str, str], lm: LM, queries: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(question, answer before, answer now, ids of the edits in its prompt) of each query."""
    used = [", ".join(p.edits) for p in lm.prompts(queries)]
    return [(q, base[q], a, u) for q, a, u in zip(queries, lm.answer(queries), used, strict=True)]


def compare(lm: LM, cases: Sequence[Case], output: Path, out: Console, notes: Console) -> None:
    """Every editor on the same cases, all edits in force at once; table and report."""
    config = EvaluateConfig(editors=COMPARED, protocols=("batch:all",), limit=len(cases))
    settings = {name: shipped(f"editors/pocket/{name}.yaml") for name in ("ft_m", "memit")}
    editors = {name: None if name == "none" else editor(name, settings.get(name)) for name in COMPARED}
    with tempfile.TemporaryDirectory() as folder:
        with bar(f"comparing {len(COMPARED)} editors on {len(cases)} edits", len(COMPARED), notes) as step:
            results = evaluate(lm, editors, cases, config, folder, progress=step, command="lte demo")
        out.print(summary(results))
        output.write_text(str(render(results, "html")), encoding="utf-8")
    out.print(f"report: {output}", highlight=False)


def summary(results: Results) -> Table:
    """The headline figures, an editor a row, with half of their 95% intervals; the report has all of them."""
    columns = ("reliability", "generalization", "locality")
    lines = []
    for name in COMPARED:
        found = results.data["results"][f"pocket_{name}_batch-all"]
        line = [name]
        for column in columns:
            low, high = found[f"{column}_ci95,generated"]
            line.append(f"{100 * found[f'{column},generated']:.1f} ±{50 * (high - low):.1f}")
        seconds = found.get("seconds_per_edit,none")
        lines.append([*line, "" if name == "none" or seconds is None else f"{seconds:.3f}"])
    return rows("6  All edits in force at once, percent of answers", ("editor", *columns, "seconds an edit"), lines)


def rows(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table of texts."""
    made = Table(*heads, title=title, title_justify="left", title_style="bold")
    for line in lines:
        made.add_row(*(cell or "-" for cell in line))
    return made


@contextmanager
def bar(label: str, tasks: int, console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over so many tasks; the value is called with a task, how much of it is done, how much there is."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        shown = progress.add_task(label, total=tasks)
        shares: dict[str, float] = {}

        def step(task: str, done: int, total: int) -> None:
            shares[task] = done / total
            progress.update(shown, completed=sum(shares.values()))

        yield step
