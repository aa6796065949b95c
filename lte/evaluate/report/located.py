"""Where to edit, drawn: scores by layer beside maps of what tracing found, as one SVG without anything it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lte.evaluate.report.svg import FAINT, GRID, INK, Curve, across, legend, line, page, panel, text

WIDTH, TOP, LEFT = 1080, 56, 56
LINES = {"ES": "#2f6fde", "PS": "#1f9d70", "NS": "#c07a12", "S": "#1f2430"}
MAPS = {"state": ("hidden state", "#5b2a86"), "mlp": ("MLP", "#0b6e4f"), "attention": ("attention", "#b3261e")}
NUMBERED = 16  # layers, at most, in whose cells the numbers stand
Maps = Mapping[str, Mapping[str, Sequence[float]]]  # kind -> role -> of each layer


def plot(rows: Sequence[Mapping[str, Any]], maps: Maps, title: str = "", chosen: int | None = None) -> str:
    """The page: rows hold layer, ES, PS, NS and S in percent; a panel without data is left out."""
    parts, height = [], 0
    if rows:
        made, height = _lines(rows, chosen, LEFT, TOP, (430 if maps else WIDTH - 2 * LEFT), 330)
        parts.append(made)
    if maps:
        x = 660 if rows else 150
        made, low = _maps(maps, x, TOP, WIDTH - x - 36)
        parts.append(made)
        height = max(height, low)
    return page(parts, title, WIDTH, height + 24)


def _lines(
    rows: Sequence[Mapping[str, Any]], chosen: int | None, x: int, y: int, width: int, height: int
) -> tuple[str, int]:
    """(the panel of scores, the lowest point of it)."""
    curves = [
        Curve(name, [(r["layer"], r[name]) for r in rows if r[name] is not None], colour, 3 if name == "S" else 1.75)
        for name, colour in LINES.items()
    ]
    layers = [row["layer"] for row in rows]
    box = (x, y, width, height)
    parts = [panel(curves, "Single edits, one layer at a time", box, "layer", top=100, ticks=layers)]
    parts.append(legend(curves, x + 4, y + height + 62, 58))
    if chosen is not None:
        at = across(chosen, min(layers), max(layers), box)
        parts.append(line(at, y, at, y + height, "#98a2b3", dash="4 4"))
        told = f"chosen: layer {chosen}, S {next(r['S'] for r in rows if r['layer'] == chosen):.1f}"
        parts.append(text(x + 4 + 4 * 58 + 8, y + height + 66, told, weight=600))
    return "".join(parts), y + height + 70


def _maps(maps: Maps, x: int, y: int, width: int) -> tuple[str, int]:
    """(the maps below each other, the lowest point of them); one scale for all, so that they can be compared."""
    most = max((max(values) for roles in maps.values() for values in roles.values()), default=0.0)
    parts = [text(x - 94, y - 10, "Average indirect effect on P(answer), by token and layer", weight=600)]
    tall = 17
    for kind, roles in maps.items():
        name, colour = MAPS[kind]
        depth = len(next(iter(roles.values())))
        wide = width / depth
        parts.append(text(x, y + 14, name, colour, weight=600))
        peak = max((value, role, layer) for role, values in roles.items() for layer, value in enumerate(values))
        told = f"highest {peak[0]:.3f}: {peak[1]}, layer {peak[2]}"
        parts.append(text(x + width, y + 14, told, FAINT, "end"))
        y += 20
        for role, values in roles.items():
            parts.append(text(x - 8, y + 12.5, role, INK, "end"))
            for layer, value in enumerate(values):
                share = max(value, 0.0) / most if most > 0 else 0.0
                parts.append(
                    f'<rect x="{x + layer * wide:.1f}" y="{y}" width="{wide:.2f}" height="{tall}" fill="{colour}" '
                    f'fill-opacity="{share:.3f}" stroke="{GRID}" stroke-width="0.5">'
                    f"<title>{escape(name)}, {escape(role)}, layer {layer}: {value:.4f}</title></rect>"
                )
                if depth <= NUMBERED:
                    ink = "white" if share > 0.55 else INK
                    parts.append(text(x + (layer + 0.5) * wide, y + 12, str(round(100 * value)), ink, "middle", 10))
            y += tall
        step = max(1, -(-depth // 16))
        for layer in range(0, depth, step):
            parts.append(text(x + (layer + 0.5) * wide, y + 13, str(layer), FAINT, "middle", 10))
        y += 24
    note = "hundredths of probability, " if depth <= NUMBERED else ""
    parts.append(text(x, y + 8, f"{note}one scale for all; layers below each map", FAINT, size=11))
    return "".join(parts), y + 12
