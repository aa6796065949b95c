"""Recipes side by side: figures with their intervals, as a Markdown table and as a drawing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lte.evaluate.intervals import clustered, draws, harmonic_means, weighted
from lte.evaluate.metrics import harmonic_mean
from lte.evaluate.recipes import values
from lte.evaluate.report.svg import COLOURS, FAINT, GRID, line, page, text
from lte.evaluate.report.tables import cell_text
from lte.evaluate.report.tables import line as table_line

HARMONIC = {  # name -> what it is the harmonic mean of
    "H": ("reliability", "generalization", "portability", "locality"),
    "H without portability": ("reliability", "generalization", "locality"),
}
COLUMNS = {  # of the table -> a figure
    "reliability": "reliability", "generalization": "generalization", "portability": "portability",
    "locality": "locality", "same subject": "locality.same_subject", "same relation": "locality.same_relation",
    "unrelated": "locality.unrelated", "H": "H", "H without portability": "H without portability",
    "false fire": "false_fire",
}  # fmt: skip
DRAWN = {  # a figure -> what stands above its panel
    "H": "H", "H without portability": "H without portability", "reliability": "reliability",
    "generalization": "generalization", "portability": "portability", "locality": "locality",
    "false_fire": "false fire: less is better",
}  # fmt: skip
RESAMPLES = 2000
WIDE, GAP, ROW, LEFT, TOP = 138, 44, 30, 230, 96  # of a panel, to the next, of a recipe's line; where they begin
Found = dict[str, Any]


@dataclass(frozen=True)
class _Measured:
    """A recipe's figures: over all seeds, of each seed, and in each draw of the bootstrap."""

    whole: dict[str, float]
    seeds: list[dict[str, float]]
    drawn: dict[str, np.ndarray]


def figures(runs: Mapping[str, Sequence[Mapping[str, Any]]], labels: Mapping[str, str], against: str) -> Found:
    """What recipes come to: `runs` holds each one's (`lte.evaluate.recipes.measured`), one a seed.

    Every figure has its mean over cases and seeds, a 95% interval, and its mean in each seed. The interval is of a
    bootstrap that draws cases with all their seeds; every recipe is measured in the same draws, so that a difference to
    the recipe `against`, in the seeds that both have, has its interval too. Shares are from 0 to 1.
    """
    seeds = {name: [run["seed"] for run in of_recipe] for name, of_recipe in runs.items()}
    rows: list[Found] = []
    for name, of_recipe in runs.items():
        got = _measured(of_recipe)
        told = {
            key: {"mean": mean, **_interval(got.drawn[key]), "seeds": [s[key] for s in got.seeds if key in s]}
            for key, mean in got.whole.items()
        }
        alike = [run for run in runs.get(against, ()) if run["seed"] in seeds[name]]
        base = _measured(alike) if alike and name != against else None
        less = {
            key: {"mean": got.whole[key] - base.whole[key], **_interval(got.drawn[key] - base.drawn[key])}
            for key in HARMONIC
            if base and key in got.whole and key in base.whole
        }
        ability = [run["ability"] for run in of_recipe]
        able = {
            key: {when: float(np.mean([a[when][key] for a in ability])) for when in ("before", "after")}
            for key in ability[0]["after"]
        }
        about = {"recipe": name, "label": labels[name], "seeds": seeds[name]}
        rows.append({**about, "figures": told, "less": less, "ability": able})
    first = next(iter(runs.values()))[0]
    every = sorted({seed for of_recipe in seeds.values() for seed in of_recipe})
    return {"against": against, "seeds": every, "cases": len(first["cases"]), "recipes": rows}


def _measured(runs: Sequence[Mapping[str, Any]]) -> _Measured:
    seeds = [[_named(values(case["probes"])) for case in run["cases"]] for run in runs]
    entries = [entry for of_seed in seeds for entry in of_seed]
    clusters: list[Hashable] = [case["doc"]["id"] for run in runs for case in run["cases"]]
    keys = list(dict.fromkeys(key for entry in entries for key in entry))
    sums, counts = clustered(entries, keys, clusters)
    table = np.concatenate([weighted(w, sums, counts) for w in draws(len(sums), RESAMPLES, 0)])
    drawn = {key: table[:, i] for i, key in enumerate(keys)}
    for name, parts in HARMONIC.items():
        if set(parts) <= set(keys):
            drawn[name] = harmonic_means(np.stack([drawn[part] for part in parts], -1))
    return _Measured(_means(entries), [_means(of_seed) for of_seed in seeds], drawn)


def _named(found: Mapping[str, float]) -> dict[str, float]:
    """The figures of generated answers by their names, and false fire."""
    plain = {key.removesuffix(",generated"): value for key, value in found.items() if key.endswith(",generated")}
    return plain | {key: value for key, value in found.items() if key.startswith("false_fire")}


def _means(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's mean over the cases that have it, and the harmonic means of those."""
    keys = dict.fromkeys(key for entry in entries for key in entry)
    found = {key: float(np.mean([entry[key] for entry in entries if key in entry])) for key in keys}
    return found | {
        name: harmonic_mean([found[part] for part in parts])
        for name, parts in HARMONIC.items()
        if set(parts) <= set(found)
    }


def _interval(drawn: np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def table(found: Found) -> str:
    """A row a recipe: percent, half of the interval's width; abilities before and after; H less that of one recipe."""
    heads = ["recipe", *COLUMNS, "known facts", "perplexity", f"H less {_label(found)}"]
    lines = [table_line(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for row in found["recipes"]:
        cells = [_cell(row["figures"].get(key)) for key in COLUMNS.values()]
        able = row["ability"]
        known, text_ = ([able[name][when] for when in ("before", "after")] for name in ("knowledge", "perplexity"))
        cells += [f"{100 * known[0]:.1f} → {100 * known[1]:.1f}", f"{text_[0]:.1f} → {text_[1]:.1f}"]
        less = row["less"].get("H")
        cells.append(f"{100 * less['mean']:+.1f} [{100 * less['low']:+.1f}, {100 * less['high']:+.1f}]" if less else "")
        lines.append(table_line([cell_text(_named_row(row, found)), *cells]))
    return "\n".join(lines) + "\n"


def _named_row(row: Found, found: Found) -> str:
    """A recipe's label, and how many seeds it was measured with where others were with more."""
    few = len(row["seeds"]) < len(found["seeds"])
    return f"{row['label']} ({len(row['seeds'])} of {len(found['seeds'])} seeds)" if few else str(row["label"])


def _label(found: Found) -> str:
    return next((str(row["label"]) for row in found["recipes"] if row["recipe"] == found["against"]), "")


def _cell(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "–"
    return f"{100 * figure['mean']:.1f} ±{50 * (figure['high'] - figure['low']):.1f}"


def plot(found: Found, title: str = "Alignment recipes on the pocket model, end to end") -> str:
    """A panel a figure, a line a recipe: the mean with its interval, and a small dot for each seed."""
    rows = found["recipes"]
    bottom = TOP + ROW * len(rows)
    about = f"{found['cases']} edits in force at once, {len(found['seeds'])} seeds; bars: 95% over cases; dots: seeds"
    parts = [text(56, 46, about, FAINT)]
    for n, row in enumerate(rows):
        parts.append(text(LEFT - 18, TOP + ROW * (n + 0.5) + 4, _named_row(row, found), anchor="end"))
    for column, key in enumerate(DRAWN):
        left = LEFT + column * (WIDE + GAP)
        parts.append(text(left, TOP - 14, DRAWN[key], weight=600))
        for share in (0, 0.5, 1):
            at = left + WIDE * share
            parts += [line(at, TOP, at, bottom, GRID), text(at, bottom + 16, f"{100 * share:g}", FAINT, "middle", 11)]
        for n, row in enumerate(rows):
            if key in row["figures"]:
                parts.append(_mark(row["figures"][key], left, TOP + ROW * (n + 0.5), COLOURS[n % len(COLOURS)]))
    return page(parts, title, LEFT + len(DRAWN) * (WIDE + GAP), bottom + 36)


def _mark(figure: Mapping[str, Any], left: float, y: float, colour: str) -> str:
    low, high, mean = (left + WIDE * figure[name] for name in ("low", "high", "mean"))
    seeds = [
        f'<circle cx="{left + WIDE * seed:.1f}" cy="{y + 7:.1f}" r="1.75" fill="{colour}" fill-opacity="0.5"/>'
        for seed in figure["seeds"]
    ]
    return (
        line(left, y, mean, y, colour, 7)
        + line(low, y, high, y, "#1f2430", 1.25)
        + text(high + 5, y + 4, f"{100 * figure['mean']:.0f}", size=10)
        + "".join(seeds)
    )
