"""`lte memory`: what was changed, by whom and why; what was; conflicts; whether the log still is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lte.cli_memory import (
    CHECK_FAILED,
    Aliases,
    From,
    Identity,
    Namespace,
    Rows,
    Subject,
    Until,
    Where,
    as_time,
    memory_command,
    record_line,
    when,
)
from lte.cli_memory_gate import memories

if TYPE_CHECKING:
    from lte.memory import Change

__all__ = ["memories"]


@memory_command("history")
def history(at: Where, id: Identity) -> Rows:
    """Print everything that happened to an edit: when, who and why."""
    with at.open() as memory:
        return [change_line(change) for change in memory.history(id)]


@memory_command("log")
def log(
    at: Where,
    after: Annotated[int, typer.Option(min=0, help="Only what came behind the change of this number.")] = 0,
    count: Annotated[int | None, typer.Option("-n", min=1, help="At most so many.")] = None,
) -> Rows:
    """Print everything that happened to the memory: when, who and why."""
    with at.open() as memory:
        return [change_line(change) for change in memory.changes(after, count)]


@memory_command("rollback")
def rollback(
    at: Where,
    by: Any,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Only these edits.")] = None,
    to: Annotated[str | None, typer.Option(help="As it was after the change of this number, or at a time.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Undo one write: the batch that history shows.")] = None,
) -> Rows:
    """Write again what was: all, or IDs, as at --to; or without one --batch; or without the last change of IDs."""
    if not ids and to is None and batch is None:
        raise typer.BadParameter("nothing to roll back; give IDs, --to or --batch")
    with at.open() as memory:
        return [change_line(change) for change in memory.rollback(when(to), ids or None, batch, by=by)]


@memory_command("conflicts")
def conflicts(
    at: Where,
    prompt: Annotated[str, typer.Argument(help="The words before the answer.")],
    target: Annotated[str, typer.Argument(help="The answer.")],
    subject: Subject = None,
    alias: Aliases = None,
    valid_from: From = None,
    valid_until: Until = None,
    namespace: Namespace = "default",
) -> Rows:
    """Print the edits that this one would contradict or repeat; nothing is written."""
    from lte.edits import Edit

    edit = Edit(prompt, target, subject or "", aliases=tuple(alias or ()))
    times: dict[str, Any] = {"valid_from": as_time(valid_from), "valid_until": as_time(valid_until)}
    with at.open() as memory:
        found = memory.conflicts(edit, namespace, **times)
    return [{"conflict": c.kind, "score": round(c.score, 3)} | record_line(c.record) for c in found]


@memory_command("verify")
def verify(
    at: Where,
    anchor: Annotated[Path | None, typer.Option(help="A file that `lte memory anchor` wrote.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="PEM of the only key whose checkpoints count.")] = None,
) -> Rows:
    """Check file, log and checkpoints, and that the log makes the index. Exit code 1: each problem is printed."""
    pem = None if public_key is None else public_key.read_text(encoding="utf-8")
    with at.open() as memory:
        problems = memory.verify(anchor, pem)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(CHECK_FAILED)
    return []


@memory_command("checkpoint")
def checkpoint(
    at: Where,
    public_key: Annotated[Path | None, typer.Option(help="Write the key that checks it to this file, as PEM.")] = None,
) -> Rows:
    """Sign the state of the log; the key is made with the first checkpoint, beside the memory."""
    with at.open() as memory:
        made = memory.checkpoint()
        if public_key is not None:
            public_key.write_text(memory.public_key(), encoding="utf-8")
    return [{"seq": made.seq, "time": made.time, "key": made.key_id, "digest": made.digest}]


@memory_command("anchor")
def anchor(at: Where, file: Annotated[Path, typer.Argument(help="A file to be kept elsewhere.")]) -> Rows:
    """Sign the state of the log and add that to a file, against which a log rewritten as a whole shows."""
    with at.open() as memory:
        made = memory.anchor(file)
    return [{"file": str(file), "seq": made.seq, "time": made.time, "key": made.key_id}]


def change_line(change: Change) -> dict[str, Any]:
    """A change of the log as a row: when, what, who and why, and the record that it left."""
    why = {name: getattr(change.by, name) for name in ("reason", "ticket", "source") if getattr(change.by, name)}
    left = record_line(change.record) if change.record else {"id": change.id}
    told = {"seq": change.seq, "batch": change.batch, "time": change.time, "change": change.kind}
    return told | {"namespace": change.namespace, "actor": change.by.actor, **why, **left}
