"""`lte edit locate`: which layer of a model to edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lte.cli_evaluate import Overrides
from lte.cli_memory import Format, show
from lte.cli_statistics import Device, Dtype, Layers, Model, Output, layer_list

if TYPE_CHECKING:
    from lte.models import LM


def locate(
    config: Annotated[
        str, typer.Argument(help="Settings of an editor of one layer or several (YAML), or its name.")
    ] = "rome",
    cases: Annotated[Path | None, typer.Option(help="Cases to edit and to trace, or a benchmark's file.")] = None,
    model: Model = "pocket",
    benchmark: Annotated[str, typer.Option(help="Whose file it is; cases: the format of lte itself.")] = "cases",
    limit: Annotated[int | None, typer.Option(min=1, help="Take N of the cases, drawn by the seed.")] = 32,
    layers: Layers = None,
    output: Annotated[Path, typer.Option(help="Folder for each layer's run, locate.json and locate.svg.")] = Path(
        "runs/locate"
    ),
    tracing: Annotated[bool, typer.Option(help="Trace the facts that the model knows.")] = True,
    sweep: Annotated[bool, typer.Option(help="Edit layer by layer.")] = True,
    samples: Annotated[int, typer.Option(min=1, help="Tracing: draws of noise for each fact.")] = 10,
    noise: Annotated[float, typer.Option(min=0, help="Tracing: its size, in deviations of the embeddings.")] = 3.0,
    window: Annotated[
        int | None, typer.Option(min=1, help="Tracing: layers restored together; left out: a fifth of all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of cases and of the noise.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in the folder.")] = False,
    overrides: Overrides = [],  # noqa: B006
    device: Device = "auto",
    dtype: Dtype = "auto",
    form: Output = Format.table,
) -> None:
    """Find the layer to edit: single edits in every layer, the highest S is chosen; and causal tracing beside it.

    ES, PS, NS and S are those of `lte evaluate`, in percent. The last columns are average indirect effects of what is
    restored: MLPs at the subject's last token, attention and states at the prompt's last.
    """
    import json

    if cases is None:
        raise typer.BadParameter("name a file of cases, e.g. data/pocket/align.jsonl", param_hint="--cases")
    if not (sweep or tracing):
        raise typer.BadParameter("--no-sweep --no-tracing: nothing is left to do", param_hint="--no-sweep")
    from lte.evaluate.benchmarks import load_cases

    chosen = load_cases(benchmark, cases, limit, shuffle=True, seed=seed)
    make, fields = _editors_of(config, overrides)
    if sweep:
        make(0)  # settings that cannot be used are known before the model is loaded

    from lte.models import load_model

    lm = load_model(model, device, dtype)
    wanted = layer_list(layers, len(lm.blocks))
    traced: dict[str, Any] = {}
    if tracing:
        from lte.editors.tracing import TracingConfig, averages, trace_facts

        how = TracingConfig(samples=samples, noise=noise, window=window, seed=seed)
        facts = list(trace_facts(lm, [case.edit for case in chosen], how))
        traced = {
            "settings": how.model_dump(),
            "facts": len(facts),
            "clean": sum(f.clean for f in facts) / len(facts),
            "noised": sum(f.noised for f in facts) / len(facts),
            "effects": averages(facts),
        }
    rows = _swept(lm, wanted, make, chosen, output, resume) if sweep else []
    effects = traced.get("effects", {})
    found = _choice(rows, effects)
    told: dict[str, Any] = {
        "layer": found,
        "set": f"{fields}=[{found}]" if fields == "layers" else f"{fields}={found}",
        "cases": len(chosen),
        "sweep": rows,
        "tracing": traced,
        "plot": str(output / "locate.svg"),
    }
    from lte.evaluate.report.located import plot

    output.mkdir(parents=True, exist_ok=True)
    title = f"{lm.name}: where to edit ({Path(config).stem}, {len(chosen)} cases)"
    (output / "locate.svg").write_text(plot(rows, effects, title, found if rows else None), encoding="utf-8")
    (output / "locate.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if form is Format.json:
        typer.echo(json.dumps(told, ensure_ascii=False, indent=1))
        return
    show(_table(rows, effects), form)
    if traced:
        typer.echo(
            f"{traced['facts']} known facts traced: P(answer) {traced['clean']:.3f}, {traced['noised']:.3f} noised"
        )
    typer.echo(f"plot: {told['plot']}")
    typer.echo(f"layer {found} ({'highest S' if rows else 'MLPs around it matter most'}): --set '{told['set']}'")


def _editors_of(config: str, overrides: Sequence[str]) -> tuple[Any, str]:
    """What makes the editor of a layer, and the setting that names its layer."""
    from lte.config import ConfigError
    from lte.editors import EDITORS, editor, editor_from

    def made(more: Sequence[str]) -> Any:
        return editor(config, None, more) if config in EDITORS else editor_from(config, more)

    known = type(made(overrides).config).model_fields
    fields = next((name for name in ("layer", "layers") if name in known), None)
    if fields is None:
        raise ConfigError(f"{config}: edits no layer that could be chosen; name an editor that does, e.g. rome")
    return lambda n: made([*overrides, f"{fields}=[{n}]" if fields == "layers" else f"{fields}={n}"]), fields


def _swept(lm: LM, layers: Sequence[int], make: Any, cases: Any, output: Path, resume: bool) -> list[dict[str, Any]]:
    """The rows of the sweep; statistics of all layers are taken in one pass before it."""
    from lte.cli_evaluate import progress_bars
    from lte.evaluate.sweep import sweep

    if hasattr(config := make(layers[0]).config, "statistics"):
        from lte.editors.statistics import moments

        for _ in moments(lm, layers, config.statistics):
            pass  # kept in the cache, where each layer's editor finds its own
    with progress_bars() as report:
        done = 0

        def tell(task: str, finished: int, total: int) -> None:
            report("single edits", done * total + finished, len(layers) * total)

        rows = []
        for row in sweep(lm, layers, make, cases, output, resume=resume, progress=tell):
            rows.append(row)
            done += 1
    return rows


def _choice(rows: Sequence[dict[str, Any]], effects: Any) -> int:
    """The layer of the highest S; without a sweep, where restored MLPs bring most back at the subject's last token."""
    if rows:
        from lte.evaluate.sweep import best

        return int(best(rows)["layer"])
    values = effects["mlp"]["last subject"]
    return int(max(range(len(values)), key=values.__getitem__))


def _table(rows: Sequence[dict[str, Any]], effects: Any) -> list[dict[str, Any]]:
    """A row a layer: scores, and the effects where the paper finds facts read (MLP) and answered (attention)."""
    columns = {
        f"{kind}, {role}": effects[kind][role]
        for kind, role in (("mlp", "last subject"), ("attention", "last"), ("state", "last"))
        if role in effects.get(kind, {})
    }
    scored = {row["layer"]: row for row in rows}
    shown = sorted(scored) if rows else range(len(next(iter(columns.values()))))
    return [
        {
            "layer": n,
            **{
                k: None if v is None else f"{v:.1f}"
                for k, v in scored.get(n, {}).items()
                if k not in ("layer", "refused")
            },
            **({"refused": scored[n]["refused"]} if n in scored and scored[n]["refused"] else {}),
            **{name: f"{values[n]:.3f}" for name, values in columns.items()},
        }
        for n in shown
    ]
