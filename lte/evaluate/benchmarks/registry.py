"""Benchmarks by name: what reads their records, what their files are called, where they are published."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lte.edits import Case
from lte.evaluate.benchmarks.download import Source
from lte.evaluate.config import EvaluateError
from lte.records import cases as own
from lte.records import counterfact, knowedit, mquake, rippleedits, zsre
from lte.records.reading import Maker, read_cases


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    case     a record's case
    about    one sentence on what it holds
    files    names under which it is looked for in a folder of data, the ones to be preferred first
    home     where it is published; None: nowhere, it is bundled or your own
    licence  of the records, where their authors state one; "": not known
    also     what is added to the cases that are asked, from files beside theirs
    """

    case: Maker
    about: str
    files: tuple[str, ...] = ()
    home: Source | None = None
    licence: str = ""
    also: Callable[[list[Case], Path], list[Case]] | None = None
    own: str = ""

    @property
    def source(self) -> str:
        """Where the records come from, and under which licence."""
        return f"{self.home or self.own}{f' (licence {self.licence})' if self.licence else ''}"

    def load(self, path: Path) -> list[Case]:
        """Every case of a file; a `RecordError` names file, place and field of the first that cannot be read."""
        return read_cases(path, self.case)


def places(folders: tuple[str, ...], *names: str) -> tuple[str, ...]:
    """Every name in every folder and in none; an earlier name goes before an earlier folder."""
    return tuple(f"{folder}/{name}" if folder else name for name in names for folder in (*folders, ""))


def _baulab(name: str) -> Source:
    """A file of the authors of ROME and MEMIT; their server has no revisions and states no hashes."""
    return Source(f"https://memit.baulab.info/data/dsets/{name}")


def _knowedit(about: str, folder: str, *names: str) -> Benchmark:
    file = f"benchmark/{folder}/{names[0]}"
    home = Source(repo="zjunlp/KnowEdit", file=file, revision="c3a6bccb5fc37a59dea3197ac36526d44606acd0")
    folders = (f"benchmark/{folder}", folder, "knowedit")
    return Benchmark(knowedit.case, about, places(folders, *names), home, "MIT")


def _mquake(about: str, name: str) -> Benchmark:
    url = f"https://github.com/princeton-nlp/MQuAKE/raw/{{revision}}/datasets/{name}"
    home = Source(url, revision="fb43dadc2d8cd19d08ce81c63d957b59deb3f3cd")
    return Benchmark(mquake.case, about, places(("datasets", "mquake", "MQuAKE"), name), home)


def _ripple(about: str, name: str, sha256: str | None = None) -> Benchmark:
    # this form of address leads to the file also where the repository holds a pointer to it
    url = f"https://github.com/edenbiran/RippleEdits/raw/{{revision}}/data/benchmark/{name}.json"
    home = Source(url, revision="21182d13b6ddaa50f023052d13ff59e279deec05", sha256=sha256)
    folders = ("data/benchmark", "rippleedits", "RippleEdits", "ripple_edits")
    return Benchmark(rippleedits.case, about, places(folders, f"{name}.json", f"{name.upper()}.json"), home, "MIT")


_COUNTERFACT = "counterfactual facts with two paraphrases, ten neighbours, attributes and openings of texts"
BENCHMARKS: dict[str, Benchmark] = {
    "pocket": Benchmark(own.case, "held-out facts of the pocket model", own="bundled with lte"),
    "cases": Benchmark(
        own.case, "your own, one JSON object a line", ("cases.jsonl",), own="the format: lte.records.cases"
    ),
    "counterfact": Benchmark(
        counterfact.case,
        f"{_COUNTERFACT}; or the reduced form with one of each",
        places(
            ("counterfact",), "counterfact.json", "counterfact_edit.json", "counterfact-edit.json",
            "counterfact_val.json", "counterfact-val.json", "counterfact_train.json", "counterfact-train.json",
        ),
        _baulab("counterfact.json"),
        "MIT",
        counterfact.with_references,
    ),
    "multi_counterfact": Benchmark(
        counterfact.case,
        f"{_COUNTERFACT}, chosen so that many can be in force at once",
        places(("counterfact",), "multi_counterfact.json"),
        _baulab("multi_counterfact.json"),
        "MIT",
        counterfact.with_references,
    ),
    "zsre_mend": Benchmark(
        zsre.case,
        "questions with a rephrasing and an unrelated question (ZsRE as MEND asks it)",
        places(("zsre", "ZsRE"), "zsre_mend_eval.json", "zsre_mend_eval_portability_gpt4.json"),
        _baulab("zsre_mend_eval.json"),
    ),
    "zsre": _knowedit("questions with one hop on (ZsRE in KnowEdit)", "ZsRE", "ZsRE-test-all.json", "zsre_test.json"),
    "wiki_counterfact": _knowedit(
        "WikiData facts turned", "wiki_counterfact",
        "test_cf.json", "wiki_counterfact_test.json", "wiki_counterfact_train.json", "train_cf.json",
    ),
    "wiki_recent": _knowedit(
        "WikiData facts of late", "wiki_recent",
        "recent_test.json", "wiki_recent_test.json", "wiki_recent_train.json", "recent_train.json",
    ),
    "wikibio": _knowedit(
        "next sentences of biographies", "WikiBio",
        "wikibio-test-all.json", "wikibio_test.json", "wikibio_train.json", "wikibio-train-all.json",
    ),
    "mquake_cf_3k": _mquake(
        "counterfactual chains of 2 to 4 hops, first version: some edits contradict others", "MQuAKE-CF-3k.json"
    ),
    "mquake_cf_3k_v2": _mquake("counterfactual chains of 2 to 4 hops", "MQuAKE-CF-3k-v2.json"),
    "mquake_cf": _mquake("counterfactual chains of 2 to 4 hops, all 9 218", "MQuAKE-CF.json"),
    "mquake_t": _mquake("chains through facts that have really changed", "MQuAKE-T.json"),
    "rippleedits_popular": _ripple("edits of much-read subjects by six criteria", "popular"),
    "rippleedits_random": _ripple("edits of random subjects by six criteria", "random"),
    "rippleedits_recent": _ripple(
        "recent facts by six criteria", "recent", "bc71807ea72280e2587bd1974fc79ae7e23aa24b1d5887bcdced40d448910547"
    ),
}  # fmt: skip


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name; an unknown one is an error that names the nearest."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    close = difflib.get_close_matches(name, BENCHMARKS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise EvaluateError(f"benchmark {name!r}: no such benchmark; there are {', '.join(sorted(BENCHMARKS))}{hint}")


def load_cases(
    name: str, path: str | Path | None, limit: int | None = None, shuffle: bool = False, seed: int = 0
) -> list[Case]:
    """The cases of a benchmark file: all, or the first `limit` of them, after a seeded shuffle if asked for."""
    entry = benchmark(name)
    if path is None or not Path(path).is_file():
        named = "no file named" if path is None else f"{path}: no such file"
        raise EvaluateError(f"benchmark {name!r}: {named}; set path to the records ({entry.source})")
    found = entry.load(Path(path))
    if not found:
        raise EvaluateError(f"{path}: holds no records; wanted at least one")
    if shuffle:
        random.Random(seed).shuffle(found)
    return entry.also(found[:limit], Path(path)) if entry.also else found[:limit]
