"""The command line: it parses, imports the room a command needs, and prints; it decides nothing itself.

stdout is data, stderr is progress and logs. Exit codes: 0 ok, 1 a check failed, 2 usage or bad input.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lte.cli_align import alignments
from lte.cli_edit import edits
from lte.cli_evaluate import evaluations
from lte.cli_memory import QUIET
from lte.cli_memory_check import memories
from lte.cli_serve import servings

BAD_INPUT = 2
EXTRAS = {
    **dict.fromkeys(("trl", "peft", "datasets", "accelerate", "deepspeed"), "align"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "httpx", "prometheus_client", "limits"), "serve"),
}


def fail(error: Exception) -> str | None:
    """What to tell the operator; nothing where the error is a mistake of ours and deserves its traceback."""
    if type(error).__module__.split(".")[0] == "lte" and isinstance(error, (ValueError, RuntimeError)):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"this command needs {error.name}; pip install 'lte[{EXTRAS[error.name]}]'"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


class Commands(TyperGroup):
    """Commands whose refusals are one message on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` lets a refusal through with its traceback."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = None if ctx.params.get("debug") else fail(error)
            if message is None:
                raise
            typer.echo(f"lte: {message}", err=True)
            raise typer.Exit(BAD_INPUT) from error


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, **QUIET)
app.add_typer(alignments, name="align", help="Teach a model to heed the edits in its prompt; build the data for it.")
app.add_typer(edits, name="edit", help="Write edits into a model's weights, and save what they make of it.")
app.add_typer(evaluations, name="evaluate", help="Ask every editor the same questions, and report.")
app.add_typer(memories, name="memory", help="Keep edits, recall those a query touches.")
app.add_typer(servings, name="serve", help="Serve a model that keeps up with its edits; make keys to it.")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more to stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Keep a language model's knowledge current: state a fact, and the model answers by it."""
    if version:
        from lte import __version__

        typer.echo(f"lte {__version__}")
        raise typer.Exit
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("lte").setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    if not verbose:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for each small model that is loaded


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report.html"),
    cases: Annotated[int, typer.Option(min=1, help="Held-out cases in the comparison.")] = 100,
) -> None:
    """Show the whole of it on the bundled pocket model: edit, ask, take back, compare. Offline, about 3 minutes."""
    from lte.pocket.demo import run

    run(output, cases)


def main() -> None:
    """Run the command line."""
    app(prog_name="lte")


if __name__ == "__main__":  # launch/align.sh runs the module
    main()
