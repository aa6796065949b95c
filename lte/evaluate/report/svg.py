"""Drawings without a library and without anything they need: lines, words, and panels of curves, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, FAINT, GRID = "#1f2430", "#667085", "#e4e7ec"
COLOURS = ("#2457d6", "#c2410c", "#15803d", "#9333ea", "#be185d", "#0e7490", "#8a6100", "#475569")


@dataclass(frozen=True)
class Curve:
    """Points in the units of a panel, drawn from left to right; `name` stands in the legend, "" does not."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.75
    dash: str = ""


def page(parts: Sequence[str], title: str, width: float, height: float) -> str:
    """The drawing of all parts on white, with a title."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{text(56, 24, title, size=15, weight=600)}'
        + "".join(parts)
        + "</svg>\n"
    )


def panel(
    curves: Sequence[Curve],
    title: str,
    box: tuple[float, float, float, float],
    unit: str,
    *,
    logarithmic: bool = False,
    top: float | None = None,
    ticks: Sequence[float] | None = None,
) -> str:
    """Curves over a common axis from 0 up.

    box     x, y, width and height of the plot; the title stands above it, the axis below
    unit    what the horizontal axis counts
    top     the highest value of the vertical axis; None: what the curves reach, and more
    ticks   of the horizontal axis; None: the curves' own places
    """
    x, y, width, height = box
    places = sorted({a for curve in curves for a, _ in curve.points})
    parts = [text(x, y - 10, title, weight=600)]
    if not places:
        return "".join([*parts, text(x, y + 20, "no figures", FAINT)])
    most = top or _round_up(max(b for curve in curves for _, b in curve.points))

    def at(a: float, b: float) -> tuple[float, float]:
        return across_at(a), y + height * (1 - min(b, most) / most)

    def across_at(a: float) -> float:
        return across(a, places[0], places[-1], box, logarithmic)

    for share in (0, 0.25, 0.5, 0.75, 1):
        level = y + height * (1 - share)
        parts += [line(x, level, x + width, level, GRID), text(x - 6, level + 4, f"{share * most:g}", FAINT, "end", 11)]
    for tick in _spaced(places if ticks is None else ticks, logarithmic):
        parts.append(text(across_at(tick), y + height + 16, f"{tick:g}", FAINT, "middle", 11))
    parts.append(text(x + width / 2, y + height + 32, unit, FAINT, "middle", 11))
    for curve in curves:
        points = [at(a, b) for a, b in sorted(curve.points)]
        parts.append(path(points, curve.colour, curve.width, curve.dash))
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{curve.width + 0.75:g}" fill="{curve.colour}"/>' for a, b in points
        ]
    return "".join(parts)


def across(
    place: float, low: float, high: float, box: tuple[float, float, float, float], logarithmic: bool = False
) -> float:
    """Where a place of a panel's horizontal axis, which goes from `low` to `high`, lies on the page."""
    scale = math.log if logarithmic else float
    first, last = scale(low), scale(high)
    return box[0] + 8 + (scale(place) - first) / ((last - first) or 1) * (box[2] - 16)


def legend(curves: Sequence[Curve], x: float, y: float, step: float = 110) -> str:
    """The names of the curves beside each other."""
    parts = []
    for n, curve in enumerate(c for c in curves if c.name):
        left = x + n * step
        parts += [
            line(left, y, left + 22, y, curve.colour, curve.width, curve.dash),
            text(left + 28, y + 4, curve.name),
        ]
    return "".join(parts)


def path(points: Sequence[tuple[float, float]], colour: str, width: float = 1.75, dash: str = "") -> str:
    """A line through points of the page."""
    told = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="{width:g}"{_dashed(dash)}/>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    """A straight line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"'
        f"{_dashed(dash)}/>"
    )


def text(
    x: float, y: float, words: str, colour: str = INK, anchor: str = "start", size: int = 12, weight: int = 400
) -> str:
    """Words at a place; `anchor`: start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _round_up(value: float) -> float:
    """1, 2, 4 or 8 times a power of ten, at least the value; its quarters are short numbers."""
    if value <= 0:
        return 1.0
    ten = 10.0 ** math.floor(math.log10(value))
    return next(ten * m for m in (1, 2, 4, 8, 10) if ten * m >= value)


def _spaced(places: Sequence[float], logarithmic: bool) -> list[float]:
    """At most eight of the places."""
    ordered = sorted(set(places))
    if len(ordered) <= 8:
        return ordered
    if logarithmic:
        kept = [p for p in ordered if math.log(p, 4).is_integer()]
        return kept if 2 <= len(kept) <= 8 else ordered[:: -(-len(ordered) // 8)]
    return ordered[:: -(-len(ordered) // 8)]
