"""`lte align`: build the data, and teach a model to heed the edits in its prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lte.cli_evaluate import Overrides, progress_bars
from lte.cli_memory import QUIET, RunLeftOut

if TYPE_CHECKING:
    from lte.align.data import Base, DataConfig


alignments = typer.Typer(cls=RunLeftOut, **QUIET)


@alignments.command("run")
def run(
    config: Annotated[Path, typer.Argument(help="Settings (YAML), e.g. configs/align/pocket.yaml.")],
    overrides: Overrides = [],  # noqa: B006  typer reads it and never writes
    preview: Annotated[int, typer.Option(min=0, help="Print N rendered samples, the learned part in ⟦ ⟧.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
    resume: Annotated[str, typer.Option(metavar="auto|none|PATH", help="Which checkpoint to go on from.")] = "auto",
) -> None:
    """Teach a model to heed the edits in its prompt. Over several devices: deepspeed launch/align.sh CONFIG"""
    from lte.align.train import main as align_main

    made = align_main(config, overrides, preview, dry_run, resume, _encode, progress_bars)
    if int(os.environ.get("RANK", 0)):
        return  # one of the ranks tells it
    for sample in made.pop("samples", ()):
        typer.echo(f"{sample}\n")
    typer.echo(json.dumps(made, ensure_ascii=False, indent=1))


@alignments.command("data")
def data(
    config: Annotated[Path, typer.Argument(help="Settings (YAML), e.g. configs/align/data/pocket.yaml.")],
    output: Annotated[Path, typer.Option(help="Folder for Parquet files and the data card; the same again goes on.")],
    overrides: Overrides = [],  # noqa: B006
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server to answer.")] = None,
    served: Annotated[str | None, typer.Option("--endpoint-model", help="Its name there; left out: model.")] = None,
    key: Annotated[str | None, typer.Option(metavar="VARIABLE", help="Holds the server's API key.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at once, here or there.")] = 64,
) -> None:
    """Build the parallel dataset: questions with edits that concern them, with edits that do not, and with none.

    A run that was killed goes on with the same command. Prints the figures of the data card.
    """
    from lte.align.data import DataConfig, build_data
    from lte.config import load

    chosen = load(DataConfig, config, overrides)

    def base() -> Base:
        if endpoint:
            return _served(chosen, endpoint, served or chosen.model, key, batch_size)
        from lte.align.data import base_of
        from lte.models import load_model

        return base_of(load_model(chosen.model), chosen.max_new_tokens, batch_size)

    with progress_bars() as report:
        figures = build_data(chosen, output, base, _encode(chosen), report)
    told = {k: v for k, v in figures.items() if k not in ("samples", "settings")}
    typer.echo(json.dumps(told, ensure_ascii=False, indent=1))


@alignments.command("merge")
def merge(
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder, as `lte align` or PEFT wrote it.")],
    output: Annotated[Path, typer.Option(help="New folder for the whole model, its tokenizer and lte.json.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="The base; left out: the one the adapter names.")] = "",
    dtype: Annotated[str, typer.Option(help="Of the merged weights; left out: the base's, as stored.")] = "",
    device: Annotated[str, typer.Option(help="Where it is computed.")] = "cpu",
) -> None:
    """Write an adapter into its base model: a checkpoint that any server loads, with the adapter always on.

    Prints the manifest.
    """
    from lte.align.merge import merge as merge_adapter
    from lte.models.adapter import MANIFEST

    made = merge_adapter(adapter, output, model, dtype, device)
    typer.echo((made / MANIFEST).read_text(encoding="utf-8"), nl=False)


def _encode(config: DataConfig) -> Callable[[Sequence[str]], Any] | None:
    """The memory's own encoder, where near misses are wanted."""
    if not config.rates.near_miss:
        return None
    from lte.memory.encoder import SentenceTransformerEncoder, checked_vectors

    encoder = SentenceTransformerEncoder(config.encoder)
    return lambda texts: checked_vectors(encoder, texts)


def _served(config: DataConfig, url: str, model: str, key: str | None, workers: int) -> Base:
    """The model behind a server; tokens are counted by the tokenizer of the settings' model."""
    from lte.align.data import Base
    from lte.align.data.answers import counter
    from lte.evaluate.client import Client
    from lte.evaluate.config import EndpointConfig, EvaluateError
    from lte.models.load import load_tokenizer

    client = Client(
        EndpointConfig(url=url, model=model, key=key, workers=workers), mend="What was answered is kept: start again"
    )
    tokenizer, _ = load_tokenizer(config.model)
    if not tokenizer.chat_template:
        raise typer.BadParameter(f"{config.model}: its tokenizer has no chat template; name an instruct model")

    def one(query: str) -> str | None:
        body = {"model": model, "messages": [{"role": "user", "content": query}], "temperature": 0,
                "max_tokens": config.max_new_tokens}  # fmt: skip
        return client.ask("/chat/completions", body, query[:80], read)

    def read(found: Any) -> str | None:
        try:
            [choice] = found["choices"]
            return str(choice["message"]["content"] or "") if choice["finish_reason"] != "length" else None
        except (KeyError, TypeError, ValueError):
            raise EvaluateError(f"wanted choices of one message, it answered {client.shown(str(found))}") from None

    def render(query: str) -> str:
        turns = [{"role": "user", "content": query}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    count = counter(tokenizer, render)
    return Base(f"{client.url} {model}", model, lambda queries: client.each(one, queries), count)
