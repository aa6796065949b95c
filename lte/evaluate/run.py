"""Ask every editor the same questions: cases -> answers -> metrics, a unit of edits at a time, always undone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lte.config import Config
from lte.edits import Case, row_of
from lte.evaluate.benchmarks import load_cases
from lte.evaluate.config import EvaluateConfig, EvaluateError
from lte.evaluate.journal import Journal, Row
from lte.evaluate.metrics import case_values
from lte.evaluate.probes import ask, baseline
from lte.evaluate.proof import Proof
from lte.evaluate.results import Results, last_stamp, samples_name, timestamp, write_results

if TYPE_CHECKING:
    from lte.editors.base import Editor
    from lte.models import LM

log = logging.getLogger(__name__)
# None: the unedited model, asked anew like any other; its locality shows what the machine's rounding alone changes
Editors = Mapping[str, "Editor | None"]
Progress = Callable[[str, int, int], None]  # task, cases done, cases in all


@dataclass(frozen=True)
class Unit:
    """Cases whose edits are in force together; `key` changes with whatever could change the answers."""

    key: str
    cases: tuple[tuple[int, Case], ...]


def build_editors(config: EvaluateConfig, make: Callable[[str, Any], Editor]) -> dict[str, Editor | None]:
    """The editors that the settings name; `make(name, settings)` builds one, "none" is the unedited model.

    Settings of an editor that is not asked are left alone: a run of some editors takes the file of all of them.
    """
    return {n: None if n == "none" else make(n, config.editor_settings.get(n)) for n in config.editors}


def evaluate_main(
    config: EvaluateConfig,
    lm: LM,
    editors: Editors,
    output: str | Path | None = None,
    pocket: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Results:
    """Load the benchmark's cases and evaluate. `pocket`: the bundled cases' file; `command`: what the report shows."""
    path = config.path or (pocket if config.benchmark == "pocket" else None)
    cases = load_cases(config.benchmark, path, config.limit, config.shuffle, config.seed)
    return evaluate(lm, editors, cases, config, output or config.output, resume, progress, command)


def evaluate(
    lm: LM,
    editors: Editors,
    cases: Sequence[Case],
    config: EvaluateConfig,
    output: str | Path,
    resume: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Results:
    """Ask the questions of `cases` under every editor, write samples and results into `output`, return the results.

    `resume=True` goes on with the newest run in `output`: its finished units are not asked again.
    """
    if not cases:
        raise EvaluateError("no cases; wanted at least one")
    begun, folder = perf_counter(), Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = (last_stamp(folder) if resume else None) or timestamp()
    proof = Proof.of(lm)
    plan: dict[str, tuple[str, Editor | None, list[Unit], Journal]] = {}
    for name, editor in editors.items():
        task = f"{config.benchmark}_{name}"
        units = units_of(cases, config, [name, settings_of(editor), proof.weights])
        journal = Journal(folder / samples_name(task, stamp), {u.key: len(u.cases) for u in units})
        plan[task] = (name, editor, units, journal)

    known = {p["prompt"]: p["before"] for *_, j in plan.values() for r in j.rows() for p in r["probes"] if p["before"]}
    due = {i: case for *_, units, j in plan.values() for u in units if u.key not in j.done for i, case in u.cases}
    before = baseline(lm, [due[i] for i in sorted(due)], config, known)

    unfinished: dict[str, str] = {}
    broken = ""
    for task, (name, editor, units, journal) in plan.items():
        for unit in units:
            if unit.key in journal.done:
                continue
            if broken:
                unfinished[task] = f"not asked: {broken} left the model changed"
                break
            rows = run_unit(lm, name, editor, unit, before, config, proof)
            journal.write(rows)
            if rows[0]["invalid"]:
                broken = name
                log.error("%s: %s; what follows is not asked", name, rows[0]["invalid"])
            if progress:
                progress(task, sum(len(u.cases) for u in units if u.key in journal.done), len(cases))
        if not broken and (difference := proof.difference(lm)):
            broken, unfinished[task] = name, difference
            log.error("%s: %s", name, difference)

    return write_results(
        folder,
        stamp,
        config,
        {task: (name, journal.rows(), settings_of(editor)) for task, (name, editor, _, journal) in plan.items()},
        unfinished,
        {"weights": proof.weights, "command": command, "total_evaluation_time_seconds": perf_counter() - begun},
    )


def run_unit(
    lm: LM,
    name: str,
    editor: Editor | None,
    unit: Unit,
    before: Mapping[str, str],
    config: EvaluateConfig,
    proof: Proof,
) -> list[Row]:
    """The rows of one unit: its edits applied, every question of its cases asked, the edits undone.

    An edit that the editor refuses is not in force: its questions are asked all the same, and the row says why.
    """
    cases = [case for _, case in unit.cases]
    handle, error, start = None, None, perf_counter()
    if editor is not None:
        try:
            handle = editor.apply(lm, [case.edit for case in cases])
            _settle(lm)
        except ValueError as refusal:
            error = f"{type(refusal).__name__}: {refusal}"
            log.warning("%s: %s", name, error)
    seconds = (perf_counter() - start) / len(cases)
    # one edit is cheap, a hash of the whole model is not: what it touched is enough until the editor's last check
    names = None if len(cases) > 1 else tuple(handle.touched) if handle else ()
    try:
        during = proof.now(lm, names)
        added = tokens_added(lm, [case.edit.prompt for case in cases])
        probes = list(ask(lm, cases, before, config))
    finally:
        if handle is not None:
            handle.undo()
    after = proof.now(lm, names)
    invalid = proof.difference(lm, names, after)
    return [
        {
            "doc_id": i,
            "doc": row_of(case),
            "doc_hash": hashlib.sha256(json.dumps(row_of(case), sort_keys=True).encode()).hexdigest(),
            "target": case.edit.target_new,
            "editor": name,
            "unit": unit.key,
            "valid": invalid is None,
            "invalid": invalid,
            "error": error,
            "seconds_per_edit": seconds if handle else None,
            "prompt_tokens_added": added[j],
            "weights": {
                "of": "all" if names is None else names,
                "before": proof.before(names),
                "during": during,
                "after": after,
            },
            "probes": probes[j],
            "values": case_values(probes[j]),
        }
        for j, (i, case) in enumerate(unit.cases)
    ]


def units_of(cases: Sequence[Case], config: EvaluateConfig, about: Sequence[Any]) -> list[Unit]:
    """The cases in the protocol's portions; `about` (editor, weights) enters each unit's key beside the settings."""
    size = config.size(len(cases))
    asked = config.model_dump(mode="json", include={"protocol", "scorings", "max_new_tokens", "fluency_tokens"})
    units = []
    for start in range(0, len(cases), size):
        part = tuple(enumerate(cases[start : start + size], start))
        told = json.dumps([*about, asked, [(i, row_of(case)) for i, case in part]], sort_keys=True, default=str)
        units.append(Unit(hashlib.sha256(told.encode()).hexdigest()[:16], part))
    return units


def settings_of(editor: Editor | None) -> Any:
    """The editor's settings as JSON, where it keeps them in `config`."""
    config = getattr(editor, "config", None)
    return config.model_dump(mode="json") if isinstance(config, Config) else None


def tokens_added(lm: LM, prompts: Sequence[str]) -> list[float]:
    """How many tokens longer each prompt becomes on its way to the model; 0 where no route stands in the way."""
    if not lm.routes:
        return [0.0] * len(prompts)
    lengths = [
        len(lm.tokenizer(lm.render(q), add_special_tokens=False)["input_ids"])
        for pair in zip(prompts, (p.query for p in lm.prompts(prompts)), strict=True)
        for q in pair
    ]
    return [float(long - short) for short, long in zip(lengths[::2], lengths[1::2], strict=True)]


def _settle(lm: LM) -> None:
    """Wait for the accelerator, so that the clock sees what an edit really cost."""
    if lm.device.type == "cuda":
        import torch

        torch.cuda.synchronize(lm.device)
