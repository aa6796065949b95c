"""Benchmarks by name: a file becomes cases."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lte.edits import Case
from lte.evaluate.benchmarks import cases as own
from lte.evaluate.benchmarks import counterfact, knowedit
from lte.evaluate.config import EvaluateError


@dataclass(frozen=True)
class Benchmark:
    """A loader, one sentence on what it holds, and where the records are published."""

    load: Callable[[Path], list[Case]]
    about: str
    source: str


KNOWEDIT = "zjunlp/KnowEdit on the Hugging Face hub"
BENCHMARKS: dict[str, Benchmark] = {
    "pocket": Benchmark(own.load, "held-out facts of the pocket model", "bundled with lte"),
    "cases": Benchmark(own.load, "your own cases, one JSON object a line", "written with lte.edits.write_jsonl"),
    "counterfact": Benchmark(
        counterfact.load,
        "counterfactual facts with a paraphrase and neighbours, full or reduced schema",
        "https://memit.baulab.info/data/dsets/counterfact.json (full), or EasyEdit's data folder (reduced)",
    ),
    "zsre": Benchmark(knowedit.load, "questions with one hop on (ZsRE)", f"{KNOWEDIT}: ZsRE"),
    "wiki_counterfact": Benchmark(knowedit.load, "WikiData facts turned", f"{KNOWEDIT}: wiki_counterfact"),
    "wiki_recent": Benchmark(knowedit.load, "WikiData facts of late", f"{KNOWEDIT}: wiki_recent"),
    "wikibio": Benchmark(knowedit.load, "next sentences of biographies", f"{KNOWEDIT}: WikiBio"),
}


def load_cases(
    benchmark: str, path: str | Path | None, limit: int | None = None, shuffle: bool = False, seed: int = 0
) -> list[Case]:
    """The cases of a benchmark file: all, or the first `limit` of them, after a seeded shuffle if asked for."""
    if benchmark not in BENCHMARKS:
        raise EvaluateError(f"benchmark {benchmark!r}: no such benchmark; there are {', '.join(sorted(BENCHMARKS))}")
    entry = BENCHMARKS[benchmark]
    if path is None:
        raise EvaluateError(
            f"benchmark {benchmark!r}: no file named, and nothing is downloaded here; fetch the records "
            f"({entry.source}) and set path, e.g. --set path=data/{benchmark}.json"
        )
    if not Path(path).is_file():
        raise EvaluateError(
            f"benchmark {benchmark!r}: {path}: no such file; fetch the records ({entry.source}) and set path to them"
        )
    found = entry.load(Path(path))
    if not found:
        raise EvaluateError(f"{path}: holds no records; wanted at least one")
    if shuffle:
        random.Random(seed).shuffle(found)
    return found[:limit]
