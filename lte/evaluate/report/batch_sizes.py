"""Is a bigger batch better? Figures by batch size of one run: at once, and the same edits in batches in turn.

After Yoon et al., arXiv:2405.00664, who score each batch right after it came ("immediate" here); what the model still
says after the last batch ("final") and by the edits' age stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lte.evaluate.config import EvaluateError
from lte.evaluate.plan import FINAL, IMMEDIATE, PLAIN
from lte.evaluate.report.figures import check, figure
from lte.evaluate.report.svg import COLOURS, Curve, legend, page, panel
from lte.evaluate.report.tables import cell_text, line
from lte.evaluate.results import Results

THREE = ("ES", "PS", "NS", "S")
WIDE, HIGH = 220, 170  # of a panel


@dataclass
class Editor:
    """An editor's tasks of one benchmark: `at_once` and `in_turn` by batch size."""

    name: str
    at_once: dict[int, str] = field(default_factory=dict)
    in_turn: dict[int, str] = field(default_factory=dict)


def editors_of(results: Results) -> list[Editor]:
    """The editors whose tasks differ in batch size; a run of one benchmark is wanted.

    The largest batch of all counts in both places where it is as long as the sequences: it is a sequence of one.
    """
    about = {task: c for task, c in results.data["configs"].items() if task in results.data["results"]}
    if len(benchmarks := {c["benchmark"] for c in about.values()}) != 1:
        raise EvaluateError(f"batch sizes are compared on one benchmark; this run has {', '.join(sorted(benchmarks))}")
    found: dict[str, Editor] = {}
    for task, config in about.items():
        if config["editor"] == PLAIN:
            continue
        editor = found.setdefault(config["editor"], Editor(config["editor"]))
        protocol = config["protocol"]
        if once := re.fullmatch(r"batch:(\d+)", protocol):
            editor.at_once[int(once[1])] = task
        elif turn := re.fullmatch(r"sequential-batch:(\d+)x\w+", protocol):
            editor.in_turn[int(turn[1])] = task
        elif protocol.startswith("sequential:"):
            editor.in_turn[1] = task
    longest = max((check(results, t)["cases"] for e in found.values() for t in e.in_turn.values()), default=0)
    for editor in found.values():
        if longest in editor.at_once:
            editor.in_turn.setdefault(longest, editor.at_once[longest])
    if not any(len(e.at_once) > 1 or len(e.in_turn) > 1 for e in found.values()):
        raise EvaluateError(
            "no editor has tasks of several batch sizes; wanted protocols such as batch:16 and batch:64, or "
            "sequential-batch:16x256 (configs/evaluate/batch-size/)"
        )
    return list(found.values())


def batch_sizes(results: Results) -> str:
    """A Markdown table: a row an editor and batch size; ES / PS / NS / S, retention, growth, knowledge and time."""
    lines = [
        f"{cell_text(results.data['model_name'])}: ES / PS / NS / S in percent, right after each batch and at the end; "
        "ES of the oldest and newest tenth at the end",
        "",
        line(
            ["editor", "batch", "edits", "immediate", "final", "oldest → newest", "‖ΔW‖/‖W‖", "knowledge", "ms an edit"]
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for editor in editors_of(results):
        for size, task in sorted(editor.at_once.items()):
            if task not in editor.in_turn.values():
                lines.append(_row(results, editor.name, size, size, task))
        for size, task in sorted(editor.in_turn.items()):
            lines.append(_row(results, editor.name, size, check(results, task)["cases"], task))
    return "\n".join(lines) + "\n"


def _row(results: Results, name: str, size: int, edits: int, task: str) -> str:
    own, result = results.data["lte"], results.data["results"][task]
    ages = [group["values"]["ES,preference"]["mean"] for group in _block(own, "ages", task)]
    able = (own.get("ability") or {}).get(task) or {}
    known = [able.get(when, {}).get("knowledge") for when in ("before", "after")]
    grown = _block(own, "growth", task)
    seconds = result.get("seconds_per_edit,none")
    return line(
        [
            cell_text(name),
            str(size),
            str(edits),
            _four(result, IMMEDIATE),
            _four(result, FINAL),
            f"{100 * ages[-1]:.0f} → {100 * ages[0]:.0f}" if len(ages) > 1 else "–",
            f"{grown[-1]['change']:.1f}" if grown else "–",
            " → ".join(f"{100 * k:.0f}" for k in known) if None not in known else "–",
            f"{1000 * seconds:.0f}" if seconds is not None else "–",
        ]
    )


def _four(result: Mapping[str, Any], point: str) -> str:
    found = [figure(result, f"{name},preference", point) for name in THREE]
    return " / ".join(f"{100 * f.mean:.1f}" if f else "–" for f in found) if any(found) else "–"


def _block(own: Mapping[str, Any], name: str, task: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = own.get(name, {}).get(task) or []
    return found


def batch_size_plots(results: Results) -> str:
    """The same as a drawing: one row of panels for edits at once, one for the same edits in batches in turn."""
    editors, own, of = editors_of(results), results.data["lte"], results.data["results"]
    colours = {e.name: COLOURS[n % len(COLOURS)] for n, e in enumerate(editors)}

    def by_size(tasks: Mapping[int, str], name: str, point: str = FINAL) -> list[tuple[float, float]]:
        found = [(size, figure(of[task], f"{name},preference", point)) for size, task in sorted(tasks.items())]
        return [(size, 100 * f.mean) for size, f in found if f]

    def place(column: int, row: int) -> tuple[float, float, float, float]:
        return 56 + column * (WIDE + 56), 100 + row * (HIGH + 130), WIDE, HIGH

    parts = [legend([Curve(e.name, [], colours[e.name], 2.5) for e in editors], 56, 52)]
    for column, name in enumerate(THREE):
        curves = [Curve(e.name, by_size(e.at_once, name), colours[e.name]) for e in editors if e.at_once]
        parts.append(
            panel(curves, f"At once: {name}", place(column, 0), "edits in the batch", logarithmic=True, top=100)
        )
    final = [Curve(e.name, by_size(e.in_turn, "S"), colours[e.name]) for e in editors if e.in_turn]
    now = [Curve("", by_size(e.in_turn, "S", IMMEDIATE), colours[e.name], dash="4 3") for e in editors if e.in_turn]
    parts.append(
        panel(
            [*final, *now],
            "In turn: S, final (dashed: immediate)",
            place(0, 1),
            "batch size",
            logarithmic=True,
            top=100,
        )
    )
    ways = (
        ("In turn, batch {}: S immediate", "online", "S,preference"),
        ("In turn, batch {}: ES by age", "ages", "ES,preference"),
        ("‖ΔW‖ / ‖W‖, batch {}", "growth", ""),
    )
    for column, (name, block, key) in enumerate(ways, 1):
        size = _common(editors, 1 if column == 2 else 64)
        drawn = []
        for e in editors:
            groups = _block(own, block, e.in_turn.get(size, ""))
            if block == "growth":
                points = [(float(g["in_force"]), g["change"]) for g in groups]
            elif block == "ages":
                points = [
                    (round(sum(g["age"]) / 2), 100 * g["values"][key]["mean"]) for g in groups if key in g["values"]
                ]
            else:
                points = [(float(g["in_force"]), 100 * g["values"][key]["mean"]) for g in groups if key in g["values"]]
            if points:
                drawn.append(Curve(e.name, points, colours[e.name]))
        across = "edits made after it" if block == "ages" else "edits in force"
        parts.append(
            panel(
                drawn,
                name.format(size),
                place(column, 1),
                across,
                logarithmic=block != "ages",
                top=None if block == "growth" else 100,
            )
        )
    return page(
        parts,
        f"{results.data['model_name']}: one batch, and the same edits in batches in turn",
        56 + 4 * (WIDE + 56),
        100 + 2 * (HIGH + 130) - 50,
    )


def _common(editors: list[Editor], wanted: int) -> int:
    """The batch size nearest to the wanted one that most editors have a sequence of."""
    sizes = [size for e in editors for size in e.in_turn]
    return max(dict.fromkeys(sizes), key=lambda s: (sizes.count(s), -abs(s - wanted)), default=wanted)
