"""`lte memory`: keep edits, recall those a query touches."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from lte.edits import Edit
    from lte.memory import EditMemory
    from lte.memory.record import Record

CHECK_FAILED = 1
CONFLICT = 3
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


class OnConflict(str, Enum):
    """What becomes of an edit that contradicts or repeats others."""

    refuse = "refuse"
    coexist = "coexist"
    supersede = "supersede"


class State(str, Enum):
    """Whether an edit is recalled: an active one is."""

    active = "active"
    shadow = "shadow"
    quarantined = "quarantined"
    disabled = "disabled"


Namespace = Annotated[str, typer.Option(help="Edits of one namespace are invisible to another.")]
Database = Annotated[Path, typer.Option("--db", envvar="LTE_MEMORY", help="The memory's file.")]
SettingsFile = Annotated[Path | None, typer.Option("--config", help="Settings of the memory (YAML).")]
Output = Annotated[Format, typer.Option("-o", help="How to print.")]
SomeNamespace = Annotated[str | None, typer.Option("--namespace", help="Of this namespace alone.")]
Identity = Annotated[str, typer.Argument(metavar="ID", help="The id that the memory gave the edit.")]
Subject = Annotated[str | None, typer.Option(help="The words of the prompt that name what the fact is about.")]
Aliases = Annotated[list[str] | None, typer.Option("--alias", help="Another name of the subject; may be repeated.")]
Truth = Annotated[str | None, typer.Option("--true", help="What the world said before.")]
Keys = Annotated[list[str] | None, typer.Option("--key", help="A question it is found by; may be repeated.")]
From = Annotated[str | None, typer.Option("--valid-from", help="When it begins to hold: 2027-01-31T09:00+01:00.")]
Until = Annotated[str | None, typer.Option("--valid-until", help="When it holds no more, a time or a date.")]
Clash = Annotated[OnConflict, typer.Option("--on-conflict", help="Where it contradicts or repeats others; exit 3.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="As it was: after the change of this number, or at a time.")]
Prompt = Annotated[str | None, typer.Option(help="The words before the answer.")]
Target = Annotated[str | None, typer.Option(help="The answer from now on.")]
Identities = Annotated[list[str], typer.Argument(metavar="ID...", help="Which edits.")]


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
        from lte.memory import ConflictFault, EditMemory, MemoryConfig

        with EditMemory.open(self.db, load(MemoryConfig, self.settings), rebuild=rebuild) as memory:
            try:
                yield memory
            except ConflictFault as fault:
                typer.echo(f"lte: {fault}", err=True)
                raise typer.Exit(CONFLICT) from fault


def memory_command(name: str) -> Callable[[Callable[..., Rows]], Callable[..., Rows]]:
    """Register a command that is handed a `Where` and returns rows; it gets --db, --config and -o, and is printed.

    One that takes `by`, an `Author`, gets --actor, --reason, --ticket and --source.
    """

    def shared(
        db: Database = Path("memory.db"), settings: SettingsFile = None, form: Output = Format.table
    ) -> None: ...

    def author(
        actor: Annotated[str, typer.Option(envvar="LTE_ACTOR", help="Who makes the change.")] = "local",
        reason: Annotated[str, typer.Option(help="Why.")] = "",
        ticket: Annotated[str, typer.Option(help="Where it was asked for.")] = "",
        source: Annotated[str, typer.Option(help="What the fact is taken from.")] = "",
    ) -> None: ...

    def register(command: Callable[..., Rows]) -> Callable[..., Rows]:
        _where, *own = inspect.signature(command, eval_str=True).parameters.values()
        who = list(inspect.signature(author, eval_str=True).parameters.values())
        writes = any(p.name == "by" for p in own)

        def run(db: Path, settings: Path | None, form: Format, **arguments: Any) -> None:
            if writes:
                from lte.memory import Author

                arguments["by"] = Author(**{p.name: arguments.pop(p.name) for p in who})
            show(command(Where(db, settings), **arguments), form)

        both = [*(p for p in own if p.name != "by"), *(who if writes else ())]
        both += inspect.signature(shared, eval_str=True).parameters.values()
        run.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {p.name: p.annotation for p in both}
        memories.command(name, help=command.__doc__)(run)
        return command

    return register


@memory_command("add")
def add(
    at: Where,
    by: Any,
    prompt: Annotated[str, typer.Argument(help="The words before the answer: 'The capital of Vemmel is'.")],
    target: Annotated[str, typer.Argument(help="The answer from now on.")],
    subject: Subject = None,
    alias: Aliases = None,
    true: Truth = None,
    key: Keys = None,
    valid_from: From = None,
    valid_until: Until = None,
    state: Annotated[State, typer.Option(help="Only an active one is recalled.")] = State.active,
    namespace: Namespace = "default",
    on_conflict: Clash = OnConflict.coexist,
) -> Rows:
    """Add an edit; it is printed under its id once it is on disk and searchable."""
    from lte.edits import Edit
    from lte.memory import Record

    edit = Edit(prompt, target, subject or "", true, tuple(alias or ()))
    made = Record("", namespace, edit, tuple(key or ()), as_time(valid_from), as_time(valid_until), state.value)
    with at.open(make=True) as memory:
        return [record_line(r) for r in memory.add_records([made], by=by, on_conflict=on_conflict.value)]


@memory_command("get")
def get(at: Where, id: Identity, as_of: AsOf = None) -> Rows:
    """Print an edit."""
    with at.open() as memory:
        return [record_line(memory.record(id, when(as_of)))]


@memory_command("list")
def list_(
    at: Where,
    namespace: SomeNamespace = None,
    as_of: AsOf = None,
    state: Annotated[list[State] | None, typer.Option(help="In this state alone; may be repeated.")] = None,
) -> Rows:
    """Print the edits that are not deleted, in the order in which they were added."""
    with at.open() as memory:
        some: Any = [one.value for one in state] if state else None
        return [record_line(r) for r in memory.records(namespace, when(as_of), some)]


@memory_command("update")
def update(
    at: Where,
    by: Any,
    id: Identity,
    prompt: Prompt = None,
    target: Target = None,
    subject: Subject = None,
    alias: Aliases = None,
    true: Truth = None,
    key: Keys = None,
    valid_from: From = None,
    valid_until: Until = None,
    on_conflict: Clash = OnConflict.coexist,
) -> Rows:
    """Change what an edit says; what is not named stays."""
    said = named(prompt, target, subject, alias, true)
    more = kept(key, valid_from, valid_until)
    if not said and not more:
        raise typer.BadParameter(
            "nothing to change; give --prompt, --target, --subject, --alias, --true, --key, --valid-from, --valid-until"
        )
    with at.open() as memory:
        if said:
            more["edit"] = replace(memory.get(id), **said)
        return [record_line(memory.change(id, by=by, on_conflict=on_conflict.value, **more))]


@memory_command("supersede")
def supersede(
    at: Where,
    by: Any,
    id: Identity,
    prompt: Prompt = None,
    target: Target = None,
    subject: Subject = None,
    alias: Aliases = None,
    true: Truth = None,
    key: Keys = None,
    valid_from: From = None,
    valid_until: Until = None,
    on_conflict: Clash = OnConflict.coexist,
) -> Rows:
    """Put a new edit in the place of one: at once, or from --valid-from on. What is not named is as in the old one."""
    said = named(prompt, target, subject, alias, true)
    if not said:
        raise typer.BadParameter("nothing new; give --prompt, --target, --subject, --alias or --true")
    with at.open() as memory:
        old = memory.record(id)
        more = {"keys": old.keys, "tests": old.tests} | kept(key, valid_from, valid_until)
        new = replace(old.edit, **said)
        return [record_line(memory.supersede(id, new, by=by, on_conflict=on_conflict.value, **more))]


@memory_command("disable")
def disable(at: Where, by: Any, ids: Identities) -> Rows:
    """Let edits be recalled no more, until they are activated again."""
    return in_state(at, by, ids, "disabled")


@memory_command("quarantine")
def quarantine(at: Where, by: Any, ids: Identities) -> Rows:
    """Let edits be recalled no more, since something is wrong with them."""
    return in_state(at, by, ids, "quarantined")


@memory_command("activate")
def activate(at: Where, by: Any, ids: Identities) -> Rows:
    """Let edits be recalled again."""
    return in_state(at, by, ids, "active")


@memory_command("delete")
def delete(at: Where, by: Any, ids: Identities) -> Rows:
    """Take edits away, all of them or none; the log keeps what they were."""
    with at.open() as memory:
        memory.delete_many(ids, by=by)
    return []


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
    by: Any,
    file: Annotated[Path, typer.Argument(help="Edits, one JSON object a line.")],
    namespace: Namespace = "default",
    on_conflict: Clash = OnConflict.coexist,
) -> Rows:
    """Add the edits of a file under new ids: all of them, or none."""
    from lte.memory.memory import read_records

    records = read_records(file, namespace)  # before the memory: a file that is refused makes no database
    with at.open(make=True) as memory:
        return [record_line(r) for r in memory.add_records(records, by=by, on_conflict=on_conflict.value)]


@memory_command("export")
def export(
    at: Where, file: Annotated[Path, typer.Argument(help="The file to write.")], namespace: SomeNamespace = None
) -> Rows:
    """Write the edits that are not deleted to a file, one JSON object a line."""
    with at.open() as memory:
        return [{"file": str(file), "edits": memory.export_jsonl(file, namespace)}]


@memory_command("rebuild")
def rebuild(at: Where) -> Rows:
    """Encode every edit anew with the encoder of the settings, and build the index from the log."""
    with at.open(rebuild=True) as memory:
        return [{"edits": len(memory), "encoder": memory.encoder.id}]


# --- what is printed -------------------------------------------------------------------------------------------------


def row(edit: Edit) -> dict[str, Any]:
    """An edit as a row, id first."""
    from lte.edits import row_of

    return {"id": edit.id, "prompt": edit.prompt, "target_new": edit.target_new, **row_of(edit)}


def record_line(record: Record) -> dict[str, Any]:
    """A record as a row, id first."""
    from lte.memory.record import record_row

    return row(record.edit) | record_row(record)


def named(
    prompt: str | None, target: str | None, subject: str | None, alias: list[str] | None, true: str | None
) -> dict[str, Any]:
    """The fields of an edit that options name."""
    said = {"prompt": prompt, "target_new": target, "subject": subject, "target_true": true, "aliases": alias or None}
    return {name: value for name, value in said.items() if value is not None}


def kept(key: list[str] | None, valid_from: str | None, valid_until: str | None) -> dict[str, Any]:
    """The further fields of a record that options name."""
    said = {"keys": tuple(key or ()) or None, "valid_from": as_time(valid_from), "valid_until": as_time(valid_until)}
    return {name: value for name, value in said.items() if value is not None}


def as_time(text: str | None) -> datetime | None:
    """A moment as an option names it."""
    from lte.memory.validity import moment

    return None if text is None else moment("time", text)


def when(text: str | None) -> int | datetime | None:
    """A change by its number, or a moment."""
    return int(text) if text and text.isascii() and text.isdigit() else as_time(text)


def in_state(at: Where, by: Any, ids: list[str], state: Any) -> Rows:
    """Put edits into a state, one after the other."""
    with at.open() as memory:
        return [record_line(memory.set_state(id, state, by=by)) for id in ids]


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
