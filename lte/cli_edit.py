"""`lte edit`: write edits into a model's weights, and save what they make of it."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lte.cli_evaluate import Overrides
from lte.cli_locate import locate
from lte.cli_memory import QUIET, Format, RunLeftOut, show
from lte.cli_statistics import statistics

if TYPE_CHECKING:
    from lte.editors.base import Handle

logger = logging.getLogger("lte")


class Export(str, Enum):
    """What edits are saved as."""

    delta = "delta"
    model = "model"
    lora = "lora"


class Dtype(str, Enum):
    """How a LoRA adapter is stored."""

    float32 = "float32"
    bfloat16 = "bfloat16"


edits = typer.Typer(cls=RunLeftOut, **QUIET)
Model = Annotated[str, typer.Option(help="The model to edit: a folder, a hub id, or pocket.")]
OutputFolder = Annotated[Path, typer.Option(help="Folder for what is saved; it must be new or empty.")]
Form = Annotated[
    Export,
    typer.Option(help="model: a checkpoint. lora: an adapter for PEFT and vLLM. delta: for `lte edit apply`."),
]
MaxRank = Annotated[int, typer.Option(min=1, help="lora: columns at most; vLLM takes 16 unless told.")]
AdapterDtype = Annotated[Dtype, typer.Option(help="lora: how it is stored.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


@edits.command("run")
def run(
    config: Annotated[str, typer.Argument(help="Settings of an editor (YAML), or an editor's name for its defaults.")],
    edits: Annotated[Path, typer.Option(help="The edits, one JSON object a line.")],
    model: Model,
    output: OutputFolder,
    export: Form = Export.model,
    max_rank: MaxRank = 64,
    adapter_dtype: AdapterDtype = Dtype.float32,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="Of the model's weights; auto: bfloat16 on CUDA, else float32.")] = "auto",
    overrides: Overrides = [],  # noqa: B006  typer reads it and never writes
) -> None:
    """Edit a model and save the result; `lte edit CONFIG` is enough."""
    from lte.edits import read_edits

    facts = read_edits(edits)

    from lte.editors import EDITORS, editor, editor_from
    from lte.editors.folders import check_new
    from lte.models import load_model

    check_new(output)  # before anything is computed
    method = editor(config, None, overrides) if config in EDITORS else editor_from(config, overrides)
    lm = load_model(model, device, dtype)
    with method.apply(lm, facts) as handle:
        save(handle, output, export, max_rank, adapter_dtype)


@edits.command("apply")
def apply(
    deltas: Annotated[list[Path], typer.Argument(metavar="DELTA...", help="Folders of deltas, in order.")],
    model: Model,
    output: OutputFolder,
    export: Form = Export.model,
    max_rank: MaxRank = 64,
    adapter_dtype: AdapterDtype = Dtype.float32,
    device: Device = "auto",
) -> None:
    """Put saved deltas into the model that they were made of, and save the result."""
    from lte.editors.artefact import load_artefact
    from lte.editors.folders import check_new
    from lte.editors.manifest import read_artefact
    from lte.models import load_model

    check_new(output)
    first = read_artefact(deltas[0]).manifest
    lm = load_model(model, device, first.model["dtype"])
    handle, *more = (load_artefact(lm, folder, compose=True) for folder in deltas)
    for newer in more:
        handle.join(newer)
    save(handle, output, export, max_rank, adapter_dtype)


@edits.command("show")
def show_delta(
    delta: Annotated[Path, typer.Argument(help="The folder of a delta.")],
    form: Annotated[Format, typer.Option("-o", help="How to print; json is the whole of it.")] = Format.table,
) -> None:
    """Print what a saved delta is: its edits, the model it belongs to, and how each weight's change is kept."""
    from lte.editors.manifest import read_artefact

    manifest = read_artefact(delta).manifest
    if form is Format.json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    typer.echo(f"delta   {manifest.id}")
    typer.echo(f"base    {manifest.base}  ({manifest.model['name']}, {manifest.model['dtype']})")
    for under in manifest.under:
        typer.echo(f"under   {under or 'a change never saved'}")
    for part in manifest.made:
        typer.echo(
            f"editor  {part.editor}, {len(part.edits)} edits {'in weights' if part.touched else 'in the prompt'}"
        )
    show([{"edit": e.statement, "subject": e.subject} for e in manifest.edits], form)
    kept = [
        {"weight": name, "form": w.form, "rank": w.rank or "", "left out": f"{w.left_out:.1e}", "mended": w.patched}
        for name, w in manifest.parameters.items()
    ]
    if kept:
        show(kept, form)


edits.command("statistics")(statistics)
edits.command("locate")(locate)


def save(handle: Handle, output: Path, export: Export, max_rank: int, dtype: Dtype) -> None:
    """Save what a handle did as asked, and print where; what an adapter leaves out is said on stderr."""
    from lte.editors.export import export_lora, export_model

    if export is Export.delta:
        handle.save(output)
    elif export is Export.model:
        export_model(handle.lm, output)
    else:
        for path, module in export_lora(handle, output, max_rank, dtype.value).items():
            if module.cut:
                left = f"{module.error:.2%} of the change (Frobenius) is left out"
                typer.echo(f"{path}: cut to rank {module.rank}: {left}", err=True)
    logger.info("%d edits in %s", len(handle.edits), output)
    typer.echo(output)
