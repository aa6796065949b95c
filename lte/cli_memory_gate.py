"""`lte memory`: why the gate lets an edit in or not, and how its thresholds are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lte.cli_memory import CHECK_FAILED, Database, Format, Namespace, Output, SettingsFile, Where, memories, show

__all__ = ["memories"]


@memories.command()
def explain(
    query: Annotated[str, typer.Argument(help="A question as a user would put it.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Edits recalled at most.")] = 3,
    namespace: Namespace = "default",
    db: Database = Path("memory.db"),
    settings: SettingsFile = None,
    form: Output = Format.table,
) -> None:
    """Print why edits are recalled for a query, or are not: what each stage of the gate says, and the nearest miss."""
    with Where(db, settings).open() as memory:
        said = memory.explain(query, k, namespace)
    if form is Format.json:
        typer.echo(json.dumps(said.as_dict(), ensure_ascii=False, indent=1))
        return
    show(
        [
            {"id": c.id, "prompt": c.edit.prompt, "named": c.mentioned, "score": round(c.score, 3)}
            | {"threshold": c.threshold, "margin": round(c.margin, 3), "why": c.why}
            for c in said.candidates
        ],
        form,
    )
    if (miss := said.nearest_miss) is not None:
        typer.echo(f"nearest miss: {miss.id}, {miss.outcome}, by {abs(miss.margin):.3f}")
    for reason, count in said.kept_out.items():
        typer.echo(f"not looked at: {count} ({reason})")


@memories.command()
def calibrate(
    cases: Annotated[Path | None, typer.Argument(help="Cases: edits and what is asked about them (JSONL).")] = None,
    max_false_fire: Annotated[float, typer.Option(min=0, max=1, help="Share of other queries that recall any.")] = 0.07,
    k: Annotated[int, typer.Option("-k", min=1, help="Edits recalled at most.")] = 3,
    settings: SettingsFile = None,
    data: Annotated[
        Path | None, typer.Option(help="Scope data in place of cases: the learned check is measured on it (JSONL).")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit a check on the data's part 'fit' and 'choose' first.")
    ] = False,
    max_hard: Annotated[float, typer.Option(min=0, max=1, help="False fire of each kind of hard negative.")] = 0.05,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the bounds.")] = 0.95,
    output: Annotated[Path | None, typer.Option("--write", help="Where to write the fitted check.")] = None,
    form: Output = Format.table,
) -> None:
    """Measure the thresholds that recall most at few false fires, on your cases. Exit code 1: none is quiet enough.

    With --data, what both stages do on its part "held_out", with exact bounds. Exit code 1: unrelated ones fire more.
    """
    if (cases is None) == (data is None):
        raise typer.BadParameter("wanted a file of cases or --data FILE, one of them")
    if (fit or output) and (data is None or not fit or output is None):
        raise typer.BadParameter("--fit wants --data FILE and --write FILE, and --write wants --fit")
    if data is not None:
        _scope(data, output, max_false_fire, max_hard, confidence, k, settings, form)
        return
    assert cases is not None
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


def _scope(
    data: Path,
    output: Path | None,
    max_false_fire: float,
    max_hard: float,
    confidence: float,
    k: int,
    settings: Path | None,
    form: Format,
) -> None:
    from lte.config import load
    from lte.memory import MemoryConfig
    from lte.memory.encoder import SentenceTransformerEncoder
    from lte.memory.scope import ScopeCheck
    from lte.memory.scope_fit import fit_check
    from lte.memory.scope_measure import apart, judged, shares, table
    from lte.memory.scope_rows import HELD_OUT, read_scope
    from lte.memory.stages import gate_of

    rows, config = read_scope(data), load(MemoryConfig, settings)
    encoder = SentenceTransformerEncoder(config.encoder, config.device, config.batch_size)
    if output is not None:
        model = fit_check(encoder, rows, max_false_fire, max_hard)
        model.write(output)
        checks = [ScopeCheck(model, encoder)]
    else:
        checks = [c for c in gate_of(encoder, config.scope, None, 0.5).checks if isinstance(c, ScopeCheck)]
    held_out, _ = apart([row for row in rows if row.part == HELD_OUT])
    gates = ("always", "stage 1", "both") if checks else ("always", "stage 1")
    found = shares(judged(encoder, checks[0] if checks else None, held_out), config.thresholds, gates, confidence, k)
    show(table(found), form)
    if any(one.share > max_false_fire for one in found if one.gate == gates[-1] and one.kind == "unrelated"):
        raise typer.Exit(CHECK_FAILED)
