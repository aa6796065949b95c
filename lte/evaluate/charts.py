"""Plots of an evaluation as inline SVG, in the page's own colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lte.evaluate.report import Figure

# matplotlib knows no CSS variables: it draws in these colours, and they are then replaced by the page's.
INK, LINE, ACCENT, MUTED = "#010101", "#020202", "#030303", "#040404"
THEME = {INK: "var(--ink)", LINE: "var(--line)", ACCENT: "var(--accent)", MUTED: "var(--muted)"}
STYLE: Any = {  # to matplotlib's checker, every key is a literal of its own
    "svg.fonttype": "none",
    "svg.hashsalt": "lte",  # the same results give the same file
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def dots(panels: Mapping[str, Mapping[str, Figure]], editors: Sequence[str], plain: str = "none") -> str:
    """A panel a metric: a point an editor on 0-100%, with its 95% interval and its value; `plain` is drawn muted."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(
            figsize=(1.2 + 2.6 * len(panels), 0.75 + 0.42 * len(editors)), layout=ConstrainedLayoutEngine(wspace=0.06)
        )
        axes = canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (name, figures) in zip(axes, panels.items(), strict=True):
            axis.set_title(name)
            _percent(axis, "x")
            axis.grid(axis="x", linewidth=0.8)
            axis.set_axisbelow(True)
            axis.tick_params(length=0)
            axis.tick_params(axis="y", pad=10)  # a point at zero stays clear of its name
            axis.set_yticks(range(len(editors)), editors)
            axis.set_ylim(len(editors) - 0.5, -0.5)
            for row, editor in enumerate(editors):
                if found := figures.get(editor):
                    colour = MUTED if editor == plain else ACCENT
                    _interval(axis, found, row, colour)
                    axis.plot([100 * found.mean], [row], "o", color=colour, markersize=7, clip_on=False, zorder=3)
                    axis.text(1.05, row, found.text, va="center", transform=axis.get_yaxis_transform(), color=INK)
        return _svg(canvas)


def _interval(axis: Axes, found: Figure, row: int, colour: str) -> None:
    if found.low is not None and found.high is not None:
        axis.plot([100 * found.low, 100 * found.high], [row, row], color=colour, linewidth=2.4, clip_on=False)


def trade_off(points: Mapping[str, tuple[Figure, Figure]], across: str, up: str, plain: str = "none") -> str:
    """Each editor at (what it left alone, what it changed), with both 95% intervals; top right is best."""
    with matplotlib.rc_context(STYLE | {"axes.spines.left": True}):
        canvas = Canvas(figsize=(5.6, 4.2), layout="constrained")
        axis = canvas.subplots()
        for which, name in (("x", across), ("y", up)):
            _percent(axis, which)
            (axis.set_xlabel if which == "x" else axis.set_ylabel)(name)
        axis.grid(linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(length=0, labelcolor=MUTED)
        taken: list[tuple[float, float]] = []
        for editor, (x, y) in sorted(points.items(), key=lambda p: p[1][1].mean):
            colour = MUTED if editor == plain else ACCENT
            at = (100 * x.mean, 100 * y.mean)
            if x.low is not None and x.high is not None:
                axis.plot([100 * x.low, 100 * x.high], [at[1]] * 2, color=colour, linewidth=1.6, clip_on=False)
            if y.low is not None and y.high is not None:
                axis.plot([at[0]] * 2, [100 * y.low, 100 * y.high], color=colour, linewidth=1.6, clip_on=False)
            axis.plot(*([v] for v in at), "o", color=colour, markersize=8, clip_on=False, zorder=3)
            left = at[0] > 75  # names stay inside the plot
            height = at[1] + 3.5
            while any(abs(height - h) < 6 and abs(at[0] - w) < 25 for w, h in taken):
                height += 1
            taken.append((at[0], height))
            axis.text(at[0] + (-1.5 if left else 1.5), height, editor, ha="right" if left else "left", weight="bold")
        return _svg(canvas)


def _percent(axis: Axes, which: str) -> None:
    set_limits, set_ticks = (axis.set_xlim, axis.set_xticks) if which == "x" else (axis.set_ylim, axis.set_yticks)
    set_limits(0, 100)
    set_ticks([0, 25, 50, 75, 100], ["0", "", "50", "", "100%"])


def _svg(canvas: Canvas) -> str:
    out = io.StringIO()
    canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in THEME.items():
        text = text.replace(colour, variable)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} class="plot" aria-hidden="true">{rest}'
