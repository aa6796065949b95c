"""`lte memory test`: ask the questions that belong to edits, and say which edits fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lte.cli_memory import CHECK_FAILED, Database, Format, Output, SettingsFile, SomeNamespace, show
from lte.cli_memory_log import memories

if TYPE_CHECKING:
    from lte.serve.tested import Tested

__all__ = ["memories"]


@memories.command("test")
def check(
    edit: Annotated[list[str] | None, typer.Option(metavar="ID", help="Of this edit; may be repeated.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of every edit that is not disabled; so without any.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Of those that have not passed as they are now, on this model.")
    ] = False,
    namespace: SomeNamespace = None,
    junit: Annotated[Path | None, typer.Option(help="Write the outcomes to this file, as JUnit has them.")] = None,
    model: Annotated[str, typer.Option(help="The model that is asked: pocket, a folder or a hub id.")] = "pocket",
    adapter_path: Annotated[
        str | None, typer.Option(help="Folder of its adapter; the pocket model brings its own.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Ask a running `lte serve`, its memory.")] = None,
    key: Annotated[str | None, typer.Option(envvar="LTE_API_KEY", help="The key to it, of scope write.")] = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Let edits that fail be recalled no more.")] = False,
    actor: Annotated[str, typer.Option(envvar="LTE_ACTOR", help="Who quarantines.")] = "local",
    reason: Annotated[str, typer.Option(help="Why.")] = "its tests failed",
    db: Database = Path("memory.db"),
    settings: SettingsFile = None,
    form: Output = Format.table,
) -> None:
    """Run the tests of edits, each question with the edit in force. Exit code 1: some fail, or cannot be run."""
    if sum((bool(edit), every, changed)) > 1:
        raise typer.BadParameter("--all, --edit and --changed: give one of them")
    if endpoint is not None:
        if changed:
            raise typer.BadParameter("--changed: is known for a memory on this machine; leave out --endpoint")
        tested = _remote(endpoint, key, edit, namespace, quarantine, {"reason": reason})
    else:
        tested = _local(db, settings, model, adapter_path, edit or ("changed" if changed else "all"), namespace,
                        quarantine, actor, reason)  # fmt: skip
    if junit is not None:
        from lte.memory.junit import write_junit

        write_junit(junit, {t.id: t.outcomes for t in tested}, {t.id: t.error for t in tested if t.error})
    show([row for one in tested for row in _rows(one)], form)
    if not all(one.passed for one in tested):
        raise typer.Exit(CHECK_FAILED)


def _remote(
    url: str, key: str | None, ids: list[str] | None, namespace: str | None, quarantine: bool, why: dict[str, str]
) -> list[Tested]:
    from lte.serve.remote import RemoteEdits

    with RemoteEdits(url, key) as edits:
        return [edits.test(id, quarantine, why) for id in ids or edits.ids(namespace)]


def _local(
    db: Path,
    settings: Path | None,
    model: str,
    adapter_path: str | None,
    which: Any,
    namespace: str | None,
    quarantine: bool,
    actor: str,
    reason: str,
) -> list[Tested]:
    if not db.exists():
        raise typer.BadParameter(f"{db}: no such memory; `lte memory add` or `import` makes one")
    from lte.config import load
    from lte.memory import Author, MemoryConfig
    from lte.models import load_model
    from lte.serve import ServeConfig
    from lte.serve.tested import run_edit_tests

    config = ServeConfig(
        model=model, adapter_path=adapter_path, memory=str(db), recall=load(MemoryConfig, settings)
    )  # as it is served
    lm = lambda: load_model(config.model, config.device, config.dtype, config.adapter_path)  # noqa: E731
    return run_edit_tests(config, lm, which, namespace, quarantine, Author(actor, reason))


def _rows(tested: Tested) -> list[dict[str, Any]]:
    """A row for each test of an edit; one for tests that could not be run."""
    if tested.error:
        return [{"id": tested.id, "passed": False, "why": tested.error, "state": tested.state}]
    return [
        {"id": tested.id, "question": one.test.prompt, "passed": one.passed, "why": one.why, "state": tested.state}
        for one in tested.outcomes
    ]
