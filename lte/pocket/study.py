"""`python -m lte.pocket.study FOLDER`: alignment recipes side by side on the pocket model, resumable at any point.

An adapter is trained for each dataset and seed, each recipe is measured with its own, and figures, a table and a
drawing are made of what is there. `launch/recipe_study.sh` runs it, with the C library's settings that training wants.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lte.config import ConfigError, load
from lte.edits import Case, read_cases, write_jsonl
from lte.evaluate import EvaluateConfig
from lte.evaluate.plan import Shard
from lte.memory.encoder import SentenceTransformerEncoder, checked_vectors
from lte.models import LM, load_model
from lte.models.adapter import MANIFEST
from lte.pocket import home
from lte.pocket.asked import to_align, with_hard, with_hops
from lte.pocket.recipes import Served, StudyConfig

if TYPE_CHECKING:
    from lte.align.data import DataConfig

log = logging.getLogger(__name__)
CONFIG = "configs/align/study/recipes.yaml"


class Study:
    """The steps, each skipped where its result is there."""

    def __init__(self, config: StudyConfig, folder: Path) -> None:
        self.config, self.folder = config, folder

    @cached_property
    def encoder(self) -> SentenceTransformerEncoder:
        """The memory's, which keeps the vectors of what it has met."""
        return SentenceTransformerEncoder(self.config.memory.encoder)

    @cached_property
    def lm(self) -> LM:
        """The model before alignment."""
        return load_model("pocket", device="cpu")

    def units(self) -> Iterator[tuple[Path, int]]:
        """(settings of an alignment, seed): all seeds of one before the next, in the order of the recipes."""
        for adapter in dict.fromkeys(recipe.adapter for recipe in self.config.recipes.values()):
            for seed in self.config.seeds:
                yield adapter, seed

    def prepare(self) -> None:
        """Write what is aligned on and what is asked; refuse a folder that other settings were worked on in."""
        self._sign()
        files = [self.folder / name for name in ("align.jsonl", "cases.jsonl", "facts.jsonl")]
        if all(file.exists() for file in files):
            return
        from lte.pocket.facts import load_facts
        from lte.pocket.knowledge import knowledge_cases

        c, known = self.config, load_facts(home() / "facts.tsv")
        cases, others = with_hops(read_cases(c.cases), known, c.size, 0)
        asked = with_hard(cases, others, known, self.encoder.encode, 0)
        made = (
            to_align(read_cases(c.align), known, c.add, self.lm.answer),
            asked,
            knowledge_cases(c.facts, 0, asked),
        )
        for file, what in zip(files, made, strict=True):
            part = file.with_suffix(".part")
            write_jsonl(part, what)
            part.replace(file)

    def adapter(self, settings: Path, seed: int) -> Path:
        """The folder of an alignment's adapter, trained where it is not there."""
        output = self.folder / "adapters" / f"{settings.stem}-{seed}"
        if (output / MANIFEST).exists():
            return output
        from lte.align.train import main as align

        source = {"facts": {"kind": "cases", "path": str(self.folder / "align.jsonl")}}
        told = [f"data.sources={json.dumps(source)}", f"data.cache={self.folder / 'answers'}", f"seed={seed}"]
        told += [f"output={output}", f"work={self.folder / 'work' / output.name}", *self.config.align_settings]
        made = align(settings, told, encoder=self._nearest)
        if "stopped_at_step" in made:
            raise SystemExit(0)  # SIGTERM: the same command goes on
        if (data := made["data"])["rows"] < (data.get("limit") or 0):
            raise ConfigError(
                f"{settings}: its dataset has {data['rows']} rows, fewer than limit={data['limit']}: it would train "
                "less than others do; lower `limit` for all, or raise data.items"
            )
        return output

    def measure(self, name: str, seed: int, adapter: Path) -> None:
        """Ask everything of a recipe with an adapter."""
        file = self.folder / "measured" / f"{name}-{seed}.json"
        if file.exists():
            return
        from lte.evaluate.ability import read_text
        from lte.evaluate.recipes import measured

        recipe = self.config.recipes[name]
        editor = Served(recipe, self.config.memory, adapter, self.encoder)
        config = EvaluateConfig(scorings=("generated",), cache=self.folder / "answers")
        cases = self._read("cases")
        named = [case.edit.subject for case in cases]
        apart = [line for line in read_text(self.config.text).splitlines() if not any(s in line for s in named)]
        found = measured(self.lm, editor, cases, config, self._read("facts"), apart[: self.config.texts])
        manifest = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))
        told = {"recipe": name, "seed": seed, "settings": recipe.model_dump(mode="json"), "aligned": manifest}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps({**told, **found}, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(file)

    def report(self) -> None:
        """Write figures, table and drawing of what was measured."""
        from lte.evaluate.report.recipes import figures, plot, table

        measured = {n: [self._run(n, seed) for seed in self.config.seeds] for n in self.config.recipes}
        runs = {n: there for n, of in measured.items() if (there := [run for run in of if run])}
        if not runs:
            raise ConfigError(f"{self.folder}: nothing was measured yet; run the study, and report on it then")
        labels = {name: recipe.label for name, recipe in self.config.recipes.items()}
        found = figures(runs, labels, "ours" if "ours" in runs else next(iter(runs)))
        texts = {"json": json.dumps(found, indent=1) + "\n", "md": table(found), "svg": plot(found)}
        for ending, text in texts.items():
            (self.folder / f"recipes.{ending}").write_text(text, encoding="utf-8")
        log.info("%s", texts["md"])

    def _sign(self) -> None:
        from lte.align.settings import AlignConfig

        adapters = {str(r.adapter): load(AlignConfig, r.adapter) for r in self.config.recipes.values()}
        told = {"study": self.config.model_dump(mode="json", exclude={"recipes": {"__all__": {"label"}}})}
        told["adapters"] = {name: settings.model_dump(mode="json") for name, settings in adapters.items()}
        file = self.folder / "settings.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        elif json.loads(file.read_text(encoding="utf-8")) != told:
            raise ConfigError(f"{self.folder}: begun with other settings ({file}); name another folder")

    def _nearest(self, config: DataConfig) -> Any:
        """What finds a dataset's near misses, where it wants some."""
        return partial(checked_vectors, self.encoder) if config.rates.near_miss else None

    def _run(self, name: str, seed: int) -> dict[str, Any] | None:
        file = self.folder / "measured" / f"{name}-{seed}.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def _read(self, name: str) -> list[Case]:
        return read_cases(self.folder / f"{name}.jsonl")


def work(study: Study, shard: Shard) -> None:
    """Do a shard's share of the work."""
    for i, (settings, seed) in enumerate(study.units()):
        if i % shard.count != shard.index:
            continue
        adapter = study.adapter(settings, seed)
        for name, recipe in study.config.recipes.items():
            if recipe.adapter == settings:
                study.measure(name, seed, adapter)
                log.info("measured: %s, seed %d", name, seed)


def side_by_side(folder: Path, processes: int, arguments: Sequence[str]) -> None:
    """The work in so many processes, each with a log of its own; the first that fails ends them all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # by way of `finally`
    told = [folder / f"shard-{i}.log" for i in range(processes)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for i, file in enumerate(told):
            command = [sys.executable, "-m", "lte.pocket.study", *arguments, "--shard", f"{i}/{processes}"]
            with file.open("ab") as log_:
                running.append(subprocess.Popen(command, stdout=log_, stderr=subprocess.STDOUT))
        while any(one.poll() is None for one in running) and not any(one.poll() for one in running):
            time.sleep(0.5)
    finally:
        for one in running:
            one.terminate()  # training takes it for a wish to save; one that is done does not mind
        codes = [one.wait() for one in running]
    if failed := [str(file) for file, code in zip(told, codes, strict=True) if code]:
        raise SystemExit(f"the study stopped; see {', '.join(failed)}; the same command goes on")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m lte.pocket.study", description=__doc__)
    parser.add_argument("folder", type=Path, help="for everything that is made; the same one again goes on")
    parser.add_argument("config", nargs="?", default=CONFIG, type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the file")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that work side by side")
    parser.add_argument("--shard", type=Shard.of, metavar="I/N", help="this part of the work alone, and no report")
    parser.add_argument("--report", action="store_true", help="on what is measured, and do no more")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study = Study(load(StudyConfig, options.config, options.set), options.folder)
    if options.report:
        return study.report()
    study.prepare()
    if options.shard:
        return work(study, options.shard)
    if options.processes < 2:
        work(study, Shard())
    else:
        settings = [word for setting in options.set for word in ("--set", setting)]
        side_by_side(options.folder, options.processes, [str(options.folder), str(options.config), *settings])
    study.report()


if __name__ == "__main__":
    main()
