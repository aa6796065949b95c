"""`lte serve`: a model behind the OpenAI API; the keys to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lte.cli_evaluate import Overrides
from lte.cli_memory import QUIET, Format, Output, RunLeftOut, show

if TYPE_CHECKING:
    from lte.serve.keys import Key


class ServeGroup(RunLeftOut):
    """`lte serve` alone serves the pocket model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the left-out `run` in its place, without a config too."""
        return super().parse_args(ctx, args or ["run"])


servings = typer.Typer(cls=ServeGroup, **QUIET)
keyring = typer.Typer(**QUIET)
servings.add_typer(keyring, name="keys", help="Make, list and withdraw the keys that a server asks for.")

KeyPath = Annotated[Path, typer.Option("--keys", envvar="LTE_KEYS", help="The file of the keys; of a server: `keys`.")]


@servings.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="Settings (YAML); left out: the pocket model.")] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(help="Put the edits in front of this OpenAI-compatible server; may be repeated for its replicas."),
    ] = None,
    vllm: Annotated[
        bool, typer.Option("--vllm", help="Start a vLLM, put the edits in front of it, end with it.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Serve a model that keeps up with its edits, behind the OpenAI API."""
    from lte.config import load
    from lte.models import load_model
    from lte.serve.config import ServeConfig, VllmConfig
    from lte.serve.logs import install
    from lte.serve.run import serve as listen

    chosen = load(ServeConfig, config, overrides)
    if upstream:
        chosen = chosen.model_copy(update={"upstreams": tuple(upstream)})
    if vllm:
        chosen = chosen.model_copy(update={"vllm": chosen.vllm or VllmConfig()})
    install(chosen.log)
    logging.getLogger("lte").setLevel(logging.INFO)  # where it listens is what one wants to know
    listen(chosen, lambda: load_model(chosen.model, chosen.device, chosen.dtype, chosen.adapter_path))


@keyring.command()
def create(
    name: Annotated[str, typer.Option(help="Who or what it is for; shown in lists alone.")],
    scope: Annotated[str, typer.Option(help="read: ask, and see edits. write: change them too. admin: all.")] = "read",
    namespace: Annotated[
        list[str] | None, typer.Option(help="It reaches this one alone; may be repeated, the first is its default.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After 90d, 12h or 30m; left out: never.")] = None,
    path: KeyPath = Path("keys.json"),
    form: Output = Format.table,
) -> None:
    """Make a key and print it: this once, the file keeps a digest. From the first key on, the server asks for one."""
    from lte.serve.keys import KeyFile, Scope, lasting

    if scope not in list(Scope):
        raise typer.BadParameter(f"{scope!r}; wanted {', '.join(Scope)}", param_hint="--scope")
    spaces = tuple(namespace) if namespace else None
    key, token = KeyFile(path).create(name, Scope(scope), spaces, lasting(expires) if expires else None)
    if form is Format.json:
        show([_row(key) | {"key": token}], form)
        return
    show([_row(key)], form)
    typer.echo(token)  # on a line of its own: a table would break it


@keyring.command("list")
def list_(path: KeyPath = Path("keys.json"), form: Output = Format.table) -> None:
    """Print what is known of every key that was made."""
    from lte.serve.keys import KeyFile

    show([_row(key) for key in KeyFile(path).every()], form)


@keyring.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id, as `list` prints it.")],
    path: KeyPath = Path("keys.json"),
    form: Output = Format.table,
) -> None:
    """Withdraw a key: a running server refuses it from the next request on."""
    from lte.serve.keys import KeyFile

    show([_row(KeyFile(path).revoke(id))], form)


def _row(key: Key) -> dict[str, Any]:
    from datetime import datetime, timezone

    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope.value,
        "namespaces": "all" if key.namespaces is None else list(key.namespaces),
        "state": key.state(datetime.now(timezone.utc)),
        "expires": key.expires and key.expires.isoformat(timespec="seconds"),
    }
