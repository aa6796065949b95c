"""Where to edit, drawn: scores by layer beside maps of what tracing found, as one SVG without anything it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, TOP, LEFT = 1080, 56, 56
INK, FAINT, GRID = "#1f2430", "#667085", "#e4e7ec"
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
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 24}" width="{WIDTH}" '
        f'height="{height + 24}" font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{_text(LEFT, 24, title, size=15, weight=600)}'
        + "".join(parts)
        + "</svg>\n"
    )


def _lines(
    rows: Sequence[Mapping[str, Any]], chosen: int | None, x: int, y: int, width: int, height: int
) -> tuple[str, int]:
    """(the panel of scores, the lowest point of it)."""
    layers = [row["layer"] for row in rows]
    first, span = min(layers), max(max(layers) - min(layers), 1)

    def across(layer: int) -> float:
        return x + 10 + (layer - first) / span * (width - 20)

    def up(score: float) -> float:
        return y + height - score / 100 * height

    parts = [_text(x, y - 10, "Single edits, one layer at a time", weight=600)]
    for score in (0, 25, 50, 75, 100):
        parts.append(_line(x, up(score), x + width, up(score), GRID))
        parts.append(_text(x - 8, up(score) + 4, str(score), FAINT, "end"))
    if chosen is not None:
        parts.append(_line(across(chosen), y, across(chosen), y + height, "#98a2b3", dash="4 4"))
    step = max(1, -(-len(layers) // 16))
    for layer in layers[::step]:
        parts.append(_text(across(layer), y + height + 18, str(layer), FAINT, "middle"))
    parts.append(_text(x + width / 2, y + height + 38, "layer", FAINT, "middle"))
    for n, (name, colour) in enumerate(LINES.items()):
        points = [(across(row["layer"]), up(row[name])) for row in rows if row[name] is not None]
        wide = 3 if name == "S" else 1.75
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{wide + 1}" fill="{colour}"/>' for a, b in points]
        at = x + 4 + n * 58
        parts.append(_line(at, y + height + 62, at + 20, y + height + 62, colour, wide))
        parts.append(_text(at + 26, y + height + 66, name))
    if chosen is not None:
        told = f"chosen: layer {chosen}, S {next(r['S'] for r in rows if r['layer'] == chosen):.1f}"
        parts.append(_text(x + 4 + 4 * 58 + 8, y + height + 66, told, weight=600))
    return "".join(parts), y + height + 70


def _maps(maps: Maps, x: int, y: int, width: int) -> tuple[str, int]:
    """(the maps below each other, the lowest point of them); one scale for all, so that they can be compared."""
    most = max((max(values) for roles in maps.values() for values in roles.values()), default=0.0)
    parts = [_text(x - 94, y - 10, "Average indirect effect on P(answer), by token and layer", weight=600)]
    tall = 17
    for kind, roles in maps.items():
        name, colour = MAPS[kind]
        depth = len(next(iter(roles.values())))
        wide = width / depth
        parts.append(_text(x, y + 14, name, colour, weight=600))
        peak = max((value, role, layer) for role, values in roles.items() for layer, value in enumerate(values))
        told = f"highest {peak[0]:.3f}: {peak[1]}, layer {peak[2]}"
        parts.append(_text(x + width, y + 14, told, FAINT, "end"))
        y += 20
        for role, values in roles.items():
            parts.append(_text(x - 8, y + 12.5, role, INK, "end"))
            for layer, value in enumerate(values):
                share = max(value, 0.0) / most if most > 0 else 0.0
                parts.append(
                    f'<rect x="{x + layer * wide:.1f}" y="{y}" width="{wide:.2f}" height="{tall}" fill="{colour}" '
                    f'fill-opacity="{share:.3f}" stroke="{GRID}" stroke-width="0.5">'
                    f"<title>{escape(name)}, {escape(role)}, layer {layer}: {value:.4f}</title></rect>"
                )
                if depth <= NUMBERED:
                    ink = "white" if share > 0.55 else INK
                    parts.append(_text(x + (layer + 0.5) * wide, y + 12, str(round(100 * value)), ink, "middle", 10))
            y += tall
        step = max(1, -(-depth // 16))
        for layer in range(0, depth, step):
            parts.append(_text(x + (layer + 0.5) * wide, y + 13, str(layer), FAINT, "middle", 10))
        y += 24
    note = "hundredths of probability, " if depth <= NUMBERED else ""
    parts.append(_text(x, y + 8, f"{note}one scale for all; layers below each map", FAINT, size=11))
    return "".join(parts), y + 12


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"'
        f"{dashed}/>"
    )


def _text(
    x: float, y: float, text: str, colour: str = INK, anchor: str = "start", size: int = 12, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
