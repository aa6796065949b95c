"""The results file: what the samples add up to, under the names and keys of lm-evaluation-harness."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lte import __version__
from lte.evaluate.config import EvaluateConfig, EvaluateError
from lte.evaluate.intervals import estimates
from lte.evaluate.journal import Row
from lte.evaluate.metrics import version_id

VERSION = 1  # of what a task asks; raise it when the same cases are asked otherwise


@dataclass(frozen=True)
class Results:
    """A results file as read or written, and the folder it lies in."""

    folder: Path
    data: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Whether every answer came from the model it is said to come from."""
        return all(check["valid"] for check in self.data["validity"].values())

    def samples(self, task: str) -> Path:
        """The samples file of a task."""
        return self.folder / samples_name(task, self.data["timestamp"])


def timestamp() -> str:
    """Now, as it stands in file names."""
    return datetime.now(timezone.utc).replace(tzinfo=None).isoformat().replace(":", "-")


def samples_name(task: str, stamp: str) -> str:
    """The name of a samples file."""
    return f"samples_{task}_{stamp}.jsonl"


def last_stamp(folder: Path) -> str | None:
    """The timestamp of the newest run in a folder: the one to resume or to report."""
    found = [p.stem.rpartition("_")[2] for kind in ("results_*.json", "samples_*.jsonl") for p in folder.glob(kind)]
    return max(found, default=None)


def task_results(alias: str, rows: Iterable[Row], config: EvaluateConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of one task from its rows, and what the rows say about themselves. Invalid rows count nowhere."""
    values: list[Mapping[str, float]] = []
    seconds: list[float] = []
    added: list[float] = []
    total = refused = 0
    reasons: dict[str, int] = {}
    for row in rows:
        total += 1
        refused += row["error"] is not None
        if row["valid"]:
            values.append(row["values"])
        if row["valid"] and row["seconds_per_edit"] is not None:  # an edit was in force
            seconds.append(row["seconds_per_edit"])
            added.append(row["prompt_tokens_added"])
        if reason := row["error"] or row["invalid"]:
            reasons[reason] = reasons.get(reason, 0) + 1
    found: dict[str, Any] = {"alias": alias}
    for key, estimate in estimates(values, config.resamples, config.seed).items():
        name, _, scoring = key.partition(",")
        found[key] = estimate.mean
        found[f"{name}_stderr,{scoring}"] = estimate.stderr
        found[f"{name}_ci95,{scoring}"] = [estimate.low, estimate.high]
        found[f"{name}_n,{scoring}"] = estimate.n
    if seconds:
        found["seconds_per_edit,none"] = sum(seconds) / len(seconds)
    if added:
        found["prompt_tokens_added,none"] = sum(added) / len(added)
    check = {"valid": len(values) == total, "cases": total, "scored": len(values), "refused": refused, "why": reasons}
    return found, check


def write_results(
    folder: Path,
    stamp: str,
    config: EvaluateConfig,
    tasks: Mapping[str, tuple[str, Iterable[Row], Any]],
    unfinished: Mapping[str, str],
    about: Mapping[str, Any],
) -> Results:
    """Write results_<stamp>.json and return it. `tasks`: name -> (editor, rows, the editor's settings).

    `unfinished` says of a task why not all of it was asked; `about` goes into the file as it is.
    """
    data: dict[str, Any] = {"results": {}, "configs": {}, "versions": {}, "n-shot": {}, "n-samples": {}, "validity": {}}
    for task, (editor, rows, settings) in tasks.items():
        data["results"][task], check = task_results(editor, rows, config)
        if task in unfinished:
            check |= {"valid": False, "why": check["why"] | {unfinished[task]: 1}}
        data["validity"][task] = check
        data["versions"][task], data["n-shot"][task] = VERSION, 0
        data["n-samples"][task] = {"original": check["cases"], "effective": check["scored"]}
        data["configs"][task] = {
            "task": task,
            "dataset_path": str(config.path) if config.path else config.benchmark,
            "output_type": list(config.scorings),
            "editor": editor,
            "editor_settings": settings,
            "protocol": config.protocol,
        }
    keys = {k for r in data["results"].values() for k in r if "," in k and f"{k.replace(',', '_n,', 1)}" in r}
    data["metric_versions"] = {key: version_id(key) for key in sorted(keys)}
    data["higher_is_better"] = {
        task: {k.partition(",")[0]: True for k in r if k in keys} for task, r in data["results"].items()
    }
    data["config"] = config.model_dump(mode="json")
    data |= {
        "model_name": config.model,
        "model_name_sanitized": config.model.replace("/", "__"),
        "date": time.time(),
        "timestamp": stamp,
        "git_hash": git_hash(),
        "lte_version": __version__,
        "library_versions": {name: _version(name) for name in ("torch", "transformers", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **about,
    }
    path = folder / f"results_{stamp}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return Results(folder, data)


def read_results(folder: str | Path) -> Results:
    """The newest results file of a folder."""
    files = sorted(Path(folder).glob("results_*.json"))
    if not files:
        raise EvaluateError(f"{folder}: no results_*.json in it; name the --output folder of a finished `lte evaluate`")
    try:
        data = json.loads(files[-1].read_text(encoding="utf-8"))
        _ = data["results"], data["validity"], data["timestamp"], data["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluateError(f"{files[-1]}: not a results file ({error!r}); run `lte evaluate` again") from error
    return Results(Path(folder), data)


def git_hash() -> str | None:
    """The commit of the working directory, where there is one."""
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
