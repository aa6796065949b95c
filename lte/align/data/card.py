"""The data card: what a dataset holds, where it is from, what was left out of it, and a row of each role."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WHY = {
    "twice": "would have stood twice",
    "leaked": "held an evaluation prompt",
    "unfinished": "own answer longer than max_new_tokens",
    "empty": "own answer empty",
    "no_gold": "no gold answer in the source",
    "too_long": "longer than max_length",
    "cut": "written with fewer edits, to keep within max_length",
}
HEAD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---
"""


def card(figures: Mapping[str, Any]) -> str:
    """A README.md, with the head by which `datasets` and the hub find the rows."""
    settings, roles = figures["settings"], figures["roles"]
    sources = [
        [name, s["kind"], s["path"], figures["licences"][name], *figures["sources"][name].values(),
         sum(figures["rows_by_source"][name].values())]
        for name, s in settings["sources"].items()
    ]  # fmt: skip
    of = figures["rows_by_source"]
    by_role = [
        [role, n, f"{n / figures['rows']:.1%}", *(of[name].get(role, 0) for name in settings["sources"])]
        for role, n in roles.items()
    ]
    tokens = [[name.replace("_", " "), *spread.values()] for name, spread in figures["tokens"].items()]
    lost = [[WHY[name], n] for name, n in figures["lost"].items() if name in WHY and n]
    removed = [[name, n] for name, n in figures["removed"].items()]
    parts = [
        HEAD + "# Parallel dataset for knowledge editing",
        f"{figures['rows']} rows, built by `lte align data` with seed {settings['seed']} under template "
        f"`{figures['template']}`. SHA-256 of the rows: `{figures['sha256']}`.",
        f"Answers where no edit concerns the question: out of scope {settings['targets']['out_of_scope']}, general "
        f"{settings['targets']['general']} (own: greedy, of `{figures['model']}`, `{figures['base'][:16]}`).",
        "## Sources\n\n"
        + table(["source", "kind", "path", "licence", "read", "unusable", "removed", "items", "rows"], sources),
        "## Rows by role\n\n" + table(["role", "rows", "share", *settings["sources"]], by_role) + _missing(figures),
        "## Tokens\n\n" + table(["", "mean", "median", "95%", "99%", "longest", "all"], tokens),
        "## Left out\n\n" + (table(["why", "rows"], lost) if lost else "No row."),
        "## Kept apart from evaluation\n\n" + _apart(figures, removed),
        "## A row of each role\n\n" + "\n\n".join(_sample(r, s) for r, s in figures["samples"].items()),
        "## Settings\n\n" + fenced(json.dumps(settings, indent=1, ensure_ascii=False)),
    ]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def fenced(text: str) -> str:
    """Text that Markdown leaves alone, whatever it holds."""
    fence = "`" * max(3, 1 + max((len(run) for run in _runs(text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _missing(figures: Mapping[str, Any]) -> str:
    names = figures["missing"]
    return f"\n\nNo source has an item for: {', '.join(names)}." if names else ""


def _apart(figures: Mapping[str, Any], removed: Sequence[Sequence[object]]) -> str:
    if not figures["held_out"]:
        return "No evaluation file was named (held_out)."
    named = ", ".join(figures["held_out"])
    if not removed:
        return f"Nothing of {named} was found in the sources."
    counted = table(["evaluation file: what", "times"], removed)
    return f"Removed because of {named}; each is in removed.jsonl.\n\n{counted}"


def _sample(role: str, sample: Mapping[str, str]) -> str:
    return f"**{role}**\n\n" + fenced(f"{sample['prompt']}\n=> {sample['answer']}")


def _runs(text: str) -> list[str]:

    return re.findall(r"`+", text)
