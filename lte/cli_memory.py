"""`lte memory`: keep edits, recall those a query touches."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from lte.edits import Edit
    from lte.memory import EditMemory

CHECK_FAILED = 1
Rows = Sequence[Mapping[str, Any]]
QUIET: dict[str, Any] = {  # plain help: rich would cost a third of its time
    "rich_markup_mode": None,
    "no_args_is_help": True,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class RunLeftOut(TyperGroup):
    """`lte edit CONFIG` is short for `lte edit run CONFIG`: any first word but a command's is a config."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the left-out `run` in its place."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


memories = typer.Typer(**QUIET)


class Format(str, Enum):
    """How a table is printed."""

    table = "table"
    json = "json"


Namespace = Annotated[str, typer.Option(help="Edits of one namespace are invisible to another.")]
Database = Annotated[Path, typer.Option("--db", envvar="LTE_MEMORY", help="The memory's file.")]
SettingsFile = Annotated[Path | None, typer.Option("--config", help="Settings of the memory (YAML).")]
Output = Annotated[Format, typer.Option("-o", help="How to print.")]
SomeNamespace = Annotated[str | None, typer.Option("--namespace", help="Of this namespace alone.")]
Identity = Annotated[str, typer.Argument(metavar="ID", help="The id that the memory gave the edit.")]
Subject = Annotated[str | None, typer.Option(help="The words of the prompt that name what the fact is about.")]
Aliases = Annotated[list[str] | None, typer.Option("--alias", help="Another name of the subject; may be repeated.")]
Truth = Annotated[str | None, typer.Option("--true", help="What the world said before.")]


@dataclass(frozen=True)
class Where:
    """The memory that a command is about: its file and its settings."""

    db: Path
    settings: Path | None

    @contextmanager
    def open(self, make: bool = False, rebuild: bool = False) -> Iterator[EditMemory]:
        """The memory, open; a file that does not exist is made only for commands that write into it."""
        if not make and not self.db.exists():
            raise typer.BadParameter(f"{self.db}: no such memory; `lte memory add` or `import` makes one")
        from lte.config import load
        from lte.memory import EditMemory, MemoryConfig

        with EditMemory.open(self.db, load(MemoryConfig, self.settings), rebuild=rebuild) as memory:
            yield memory


def memory_command(name: str) -> Callable[[Callable[..., Rows]], Callable[..., Rows]]:
    """Register a command that is handed a `Where` and returns rows; it gets --db, --config and -o, and is printed."""

    def shared(
        db: Database = Path("memory.db"), settings: SettingsFile = None, form: Output = Format.table
    ) -> None: ...

    def register(command: Callable[..., Rows]) -> Callable[..., Rows]:
        def run(db: Path, settings: Path | None, form: Format, **arguments: Any) -> None:
            show(command(Where(db, settings), **arguments), form)

        _where, *own = inspect.signature(command, eval_str=True).parameters.values()
        both = [*own, *inspect.signature(shared, eval_str=True).parameters.values()]
        run.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {p.name: p.annotation for p in both}
        memories.command(name, help=command.__doc__)(run)
        return command

    return register


@memory_command("add")
def add(
    at: Where,
    prompt: Annotated[str, typer.Argument(help="The words before the answer: 'The capital of Vemmel is'.")],
    target: Annotated[str, typer.Argument(help="The answer from now on.")],
    subject: Subject = None,
    alias: Aliases = None,
    true: Truth = None,
    namespace: Namespace = "default",
) -> Rows:
    """Add an edit; it is printed under its id once it is on disk and searchable."""
    from lte.edits import Edit

    made = Edit(prompt, target, subject or "", true, tuple(alias or ()))
    with at.open(make=True) as memory:
        return [row(memory.add(made, namespace))]


@memory_command("get")
def get(at: Where, id: Identity) -> Rows:
    """Print an edit."""
    with at.open() as memory:
        return [row(memory.get(id))]


@memory_command("list")
def list_(at: Where, namespace: SomeNamespace = None) -> Rows:
    """Print the edits in force, in the order in which they were added."""
    with at.open() as memory:
        return [row(e) for e in memory.list(namespace)]


@memory_command("update")
def update(
    at: Where,
    id: Identity,
    prompt: Annotated[str | None, typer.Option(help="The words before the answer.")] = None,
    target: Annotated[str | None, typer.Option(help="The answer from now on.")] = None,
    subject: Subject = None,
    alias: Aliases = None,
    true: Truth = None,
) -> Rows:
    """Change what an edit says; what is not named stays."""
    said = {"prompt": prompt, "target_new": target, "subject": subject, "target_true": true, "aliases": alias or None}
    named: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if not named:
        raise typer.BadParameter("nothing to change; give --prompt, --target, --subject, --alias or --true")
    with at.open() as memory:
        return [row(memory.update(id, replace(memory.get(id), **named)))]


@memory_command("delete")
def delete(at: Where, ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Which edits.")]) -> Rows:
    """Take edits out of force; the log keeps what they were."""
    with at.open() as memory:
        for id in ids:
            memory.delete(id)
    return []


@memory_command("history")
def history(at: Where, id: Identity) -> Rows:
    """Print everything that happened to an edit."""
    with at.open() as memory:
        changes = memory.history(id)
    return [
        {"time": c.time, "change": c.kind, "namespace": c.namespace, **(row(c.edit) if c.edit else {"id": c.id})}
        for c in changes
    ]


@memory_command("search")
def search(
    at: Where,
    query: Annotated[str, typer.Argument(help="A question as a user would put it.")],
    k: Annotated[int, typer.Option("-k", min=1, help="At most so many.")] = 10,
    namespace: Namespace = "default",
) -> Rows:
    """Print the edits nearest to a query, and whether each is in play: its score has to reach its threshold."""
    with at.open() as memory:
        found = memory.search(query, k, namespace)
    return [
        {"in_play": r.in_play, "score": round(r.score, 3), "threshold": r.threshold, "named": r.mentioned} | row(r.edit)
        for r in found
    ]


@memory_command("import")
def import_(
    at: Where,
    file: Annotated[Path, typer.Argument(help="Edits, one JSON object a line.")],
    namespace: Namespace = "default",
) -> Rows:
    """Add the edits of a file under new ids: all of them, or none."""
    from lte.edits import read_edits

    edits = read_edits(file)  # before the memory: a file that is refused makes no database
    with at.open(make=True) as memory:
        return [row(e) for e in memory.add_many(edits, namespace)]


@memory_command("export")
def export(
    at: Where, file: Annotated[Path, typer.Argument(help="The file to write.")], namespace: SomeNamespace = None
) -> Rows:
    """Write the edits in force to a file, one JSON object a line."""
    with at.open() as memory:
        return [{"file": str(file), "edits": memory.export_jsonl(file, namespace)}]


@memory_command("verify")
def verify(at: Where) -> Rows:
    """Check the file, and that the index is what the log makes it. Exit code 1: each problem is printed."""
    with at.open() as memory:
        problems = memory.verify()
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(CHECK_FAILED)
    return []


@memory_command("rebuild")
def rebuild(at: Where) -> Rows:
    """Encode every edit anew with the encoder of the settings, and build the index from the log."""
    with at.open(rebuild=True) as memory:
        return [{"edits": len(memory), "encoder": memory.encoder.id}]


@memories.command()
def calibrate(
    cases: Annotated[Path, typer.Argument(help="Cases, one JSON object a line: edits and what is asked about them.")],
    max_false_fire: Annotated[float, typer.Option(min=0, max=1, help="Share of other queries that recall any.")] = 0.07,
    k: Annotated[int, typer.Option("-k", min=1, help="Edits recalled at most.")] = 3,
    settings: SettingsFile = None,
    form: Output = Format.table,
) -> None:
    """Measure the thresholds that recall most at few false fires, on your cases. Exit code 1: none is quiet enough."""
    from lte.config import load
    from lte.edits import read_cases
    from lte.memory import MemoryConfig
    from lte.memory.calibrate import calibrate as measure
    from lte.memory.calibrate import queries_of
    from lte.memory.encoder import SentenceTransformerEncoder

    edits, inside, outside = queries_of(read_cases(cases))
    config = load(MemoryConfig, settings)
    encoder = SentenceTransformerEncoder(config.encoder, config.device, config.batch_size)
    found = measure(encoder, edits, inside, outside, max_false_fire, k)
    best, free = found.thresholds, next(t for t in found.without_subject if t.thresholds.free == found.thresholds.free)
    rows = [
        {"setting": name, "value": value, "recall": trial.recall, "false_fire": trial.false_fire}
        for name, value, trial in (
            ("threshold", best.named, found.best),
            ("mention_threshold", best.mentioned, found.best),  # one trial of both
            ("free_threshold", best.free, free),
        )
    ]
    show(rows, form)
    if max(found.best.false_fire, free.false_fire) > max_false_fire:
        raise typer.Exit(CHECK_FAILED)


# --- what is printed -------------------------------------------------------------------------------------------------


def row(edit: Edit) -> dict[str, Any]:
    """An edit as a row, id first."""
    from lte.edits import row_of

    return {"id": edit.id, "prompt": edit.prompt, "target_new": edit.target_new, **row_of(edit)}


def show(rows: Rows, form: Format) -> None:
    """Print rows as a table or as a JSON list; no rows are an empty list and no table."""
    if form is Format.json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    if not rows:
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for r in rows for name in r))
    table = Table(*names, box=SIMPLE_HEAD)
    for r in rows:
        table.add_row(*(Text(cell(r.get(name))) for name in names))  # Text: [brackets] of an edit are no markup
    console().print(table)


def console() -> Console:
    """Where tables go: stdout, and wide where it is no terminal, so that a pipe cuts nothing."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
