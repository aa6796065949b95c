"""`lte edit statistics`: what ordinary keys of a model look like, measured before it is edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lte.cli_evaluate import Overrides
from lte.cli_memory import Format, show

if TYPE_CHECKING:
    from lte.editors.statistics import StatisticsConfig

Model = Annotated[str, typer.Option(help="The model: a folder, a hub id, or pocket.")]
Layers = Annotated[
    str | None, typer.Option(metavar="0-15|1,5|all", help="Of these blocks; left out: all, or the settings' own.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="Of the model's weights; auto: bfloat16 on CUDA, else float32.")]
Output = Annotated[Format, typer.Option("-o", help="How to print.")]


def statistics(
    config: Annotated[
        str | None, typer.Argument(help="Settings of an editor (YAML), whose layers and text are taken.")
    ] = None,
    model: Model = "pocket",
    layers: Layers = None,
    text: Annotated[Path | None, typer.Option(help="A .txt or .jsonl file, or a folder of them.")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="ID", help="A dataset of the hub, or a local folder.")] = None,
    name: Annotated[str | None, typer.Option(help="The dataset's configuration, e.g. 20231101.en.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Budget; left out: ten per key dimension.")] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="Texts to read at most; the papers: 100000.")] = None,
    layers_per_pass: Annotated[
        int | None, typer.Option(min=1, help="Layers held at a time, d_k² · 8 bytes each; left out: all, in one pass.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006  typer reads it and never writes
    device: Device = "auto",
    dtype: Dtype = "auto",
    form: Output = Format.table,
) -> None:
    """Measure the second moment of the keys of some layers, E[kkᵀ], in one pass over a text; it is kept in a cache.

    Settings of a CONFIG's `statistics` may be set, as in --set statistics.bos=exclude. trace is the mean of ‖k‖²; the
    condition number is at least what is printed.
    """
    from dataclasses import asdict

    given = {
        "text": text,
        "dataset.path": dataset,
        "dataset.name": name,
        "tokens": tokens,
        "documents": documents,
        "layers_per_pass": layers_per_pass,
    }
    more = [*overrides, *(f"statistics.{key}={value}" for key, value in given.items() if value is not None)]
    wanted, of_editor = _statistics_of(config, more)

    from lte.editors.statistics import measures
    from lte.models import load_model

    lm = load_model(model, device, dtype)
    chosen = layer_list(layers, len(lm.blocks)) if layers or of_editor is None else of_editor(lm)
    rows = [asdict(measured) for measured in measures(lm, chosen, wanted)]
    rows = [{**row, "file": str(row["file"])} for row in sorted(rows, key=lambda row: row["layer"])]
    if form is Format.table:
        rows = [{**row, "condition": f"{row['condition']:.2e}", "trace": f"{row['trace']:.4g}"} for row in rows]
    show(rows, form)


def layer_list(text: str | None, depth: int) -> list[int]:
    """The blocks that "0-3", "1,5", "0-3,7" or "all" names, of `depth` there are."""
    if text in (None, "all"):
        return list(range(depth))
    found: list[int] = []
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        try:
            found += range(int(first), int(last if dash else first) + 1)
        except ValueError as error:
            raise _bad_layers(text, depth) from error
    if not found or max(found) >= depth or len(set(found)) < len(found):
        raise _bad_layers(text, depth)
    return found


def _bad_layers(text: str | None, depth: int) -> typer.BadParameter:
    return typer.BadParameter(
        f"{text}: wanted blocks of 0 to {depth - 1}, each once, as 0-{depth - 1}, 0,{depth - 1} or all",
        param_hint="--layers",
    )


def _statistics_of(config: str | None, overrides: Sequence[str]) -> tuple[StatisticsConfig, Any]:
    """The settings of the statistics and, where an editor's settings are named, the call that tells its layers."""
    from lte.config import Config, ConfigError, load
    from lte.editors import EDITORS, editor, editor_from
    from lte.editors.statistics import StatisticsConfig

    class Statistics(Config):
        statistics: StatisticsConfig = StatisticsConfig()

    if config is None:
        return load(Statistics, None, overrides).statistics, None
    made: Any = editor(config, None, overrides) if config in EDITORS else editor_from(config, overrides)
    if not hasattr(made.config, "statistics"):
        raise ConfigError(f"{config}: the editor {made.name} takes no statistics; name one that does, e.g. memit")
    return made.config.statistics, made.layers
