"""The journals of a run gathered: samples written out, and every figure that they add up to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lte.evaluate.config import EvaluateConfig, EvaluateError
from lte.evaluate.growth import growth, online, told
from lte.evaluate.intervals import estimates
from lte.evaluate.journal import Journal, Key, Row, journals_in
from lte.evaluate.judging import Judged, judged
from lte.evaluate.metrics import case_values
from lte.evaluate.plan import FINAL, IMMEDIATE, PLAIN, Unit
from lte.evaluate.results import samples_name
from lte.evaluate.site import settings_of
from lte.evaluate.texts import TfIdf

if TYPE_CHECKING:
    from lte.evaluate.site import Site

AGES = 10  # groups that retention by age is shown in
Values = Mapping[str, float]
Homes = Mapping[str, Sequence[tuple[Journal, Mapping[Key, Any]]]]  # unit -> the journals that know of it


@dataclass(frozen=True)
class Task:
    """One task's part of the results file."""

    results: dict[str, Any]
    validity: dict[str, Any]
    config: dict[str, Any]
    blocks: dict[str, Any]


@dataclass(frozen=True)
class Collected:
    """What the journals of a folder add up to; `stamp` and `begun` are those of the one that was begun first."""

    stamp: str
    begun: float
    tasks: dict[str, Task] = field(default_factory=dict)


@dataclass(frozen=True)
class _Final:
    """A case that counts, as it stood at the end of its sequence."""

    doc: int
    seed: int
    age: int
    in_force: int
    relation: str
    values: Values


@dataclass
class _Seen:
    """What is kept of the rows of a task while they pass by."""

    values: dict[str, list[Values]] = field(default_factory=dict)  # point -> values of each case that counts
    clusters: dict[str, list[int]] = field(default_factory=dict)  # point -> the cases they are of
    finals: list[_Final] = field(default_factory=list)
    online: list[tuple[int, int, Values]] = field(default_factory=list)  # right after a step: in force, case, values
    added: list[float] = field(default_factory=list)
    cases: int = 0
    scored: int = 0
    refused: int = 0
    unchanged: int = 0
    why: dict[str, int] = field(default_factory=dict)


def collected(
    site: Site, folder: Path, units: Sequence[Unit], unfinished: Mapping[str, str], wait: bool
) -> Collected | None:
    """Every task of the run; `None` where `wait` and some shard is still at work."""
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal(path, True, {})) for path in journals_in(folder)]
        begun = min(journals, key=lambda j: j.about["begun"])
        if any(j.about["weights"] != site.proof.weights for j in journals):
            raise EvaluateError(f"{folder}: its journals are of different models; give each model a folder of its own")
        homes = {unit.id: [(j, done) for j in journals if (done := j.done(unit.id))] for unit in units}
        tasks: dict[str, list[Unit]] = {}
        for unit in units:
            tasks.setdefault(unit.task, []).append(unit)
        if wait and any(_rest(site, unit, homes) for unit in units):
            return None
        verdicts = judged(site.config.judge, lambda: _rows(units, homes), journals)
        found = Collected(begun.about["begun"], begun.about["seconds"])
        for task, own in tasks.items():
            found.tasks[task] = _task(site, folder / samples_name(task, found.stamp), own, homes, unfinished, verdicts)
        return found


def _rest(site: Site, unit: Unit, homes: Homes) -> int:
    """How many sequences of a unit are not done."""
    ended = {key.chain for _, done in homes[unit.id] for key in done if key.kind == "end"}
    return sum(chain.index not in ended for chain in site.chains(unit))


def _rows(units: Sequence[Unit], homes: Homes) -> Iterator[Row]:
    """The rows of finished sequences, by unit, sequence and point, whichever shard they are of."""
    for unit in units:
        ends = {key.chain: (j, end) for j, done in homes[unit.id] for key, end in done.items() if key.kind == "end"}
        for index in sorted(index for index in ends if index >= 0):
            journal, end = ends[index]
            for _, rows in journal.rows(unit.id, index):
                for row in rows:
                    row["weights"]["after"] = end["after"]
                    row["invalid"] = row["invalid"] or end["invalid"]
                    row["valid"] = row["invalid"] is None
                    yield row


def _task(
    site: Site,
    path: Path,
    units: Sequence[Unit],
    homes: Homes,
    unfinished: Mapping[str, str],
    verdicts: Judged,
) -> Task:
    unit, config = units[0], site.config
    weigh = TfIdf.fit(t for case in site.cases[unit.benchmark] for t in case.references)
    seen = _Seen()
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as samples:
        for row in _rows(units, homes):
            verdicts.into(row)
            row["values"] = case_values(row["probes"], site.cases[unit.benchmark][row["doc_id"]].references, weigh)
            samples.write(json.dumps(row, ensure_ascii=False) + "\n")
            _note(seen, row)
    os.replace(part, path)
    found: dict[str, Any] = {"alias": unit.editor}
    for point in (FINAL, IMMEDIATE):
        found |= _figures(seen, point, config.resamples, config.seed)
    by_seed = [[(key, value) for _, done in homes[u.id] for key, value in done.items()] for u in units]
    records = [record for each in by_seed for record in each]
    found |= _costs(by_seed, seen)
    check: dict[str, Any] = {
        "valid": seen.scored == seen.cases,
        "cases": seen.cases,
        "scored": seen.scored,
        "refused": seen.refused,
        "unchanged": seen.unchanged,
        "why": seen.why,
    }
    whole = [value["invalid"] for key, value in records if key.kind == "end" and key.chain < 0 and value["invalid"]]
    rest = sum(_rest(site, u, homes) for u in units)
    reasons = [*whole, *([unfinished[unit.task]] if unit.task in unfinished else [])]
    if rest and not reasons:
        reasons = [f"{rest} sequences of edits were not asked to the end"]
    if reasons:
        check |= {"valid": False, "why": check["why"] | dict.fromkeys(reasons, 1)}
    [chosen] = [b for b in config.benchmarks if b.name == unit.benchmark]
    about = {
        "task": unit.task,
        "dataset_path": str(chosen.path) if chosen.path else chosen.name,
        "dataset_sha256": site.files.get(unit.benchmark),
        "output_type": list(config.scorings),
        "benchmark": unit.benchmark,
        "editor": unit.editor,
        "editor_settings": settings_of(site.editors[unit.editor]),
        "protocol": unit.protocol,
        "seeds": list(config.seeds),
    }
    sequential = unit.protocol.startswith("sequential") and unit.editor != PLAIN
    blocks = {
        "ages": _ages(seen, config) if sequential else [],
        "curves": _curves(seen, config) if sequential else [],
        "online": online(seen.online, config.resamples, config.seed) if sequential else [],
        "growth": growth(by_seed),
        "relations": _relations(seen),
        "seeds": _seeds(seen) if len(config.seeds) > 1 else {},
        "ability": next((value for key, value in records if key.kind == "ability"), None),
    }
    return Task(found, check, about, blocks)


def _note(seen: _Seen, row: Row) -> None:
    point = row["point"]
    if point == FINAL:
        seen.cases += 1
        seen.refused += row["error"] is not None
        weights = row["weights"]
        named = isinstance(weights["of"], list) and weights["of"]
        seen.unchanged += bool(named) and weights["during"] == weights["before"]
        if reason := row["error"] or row["invalid"]:
            seen.why[reason] = seen.why.get(reason, 0) + 1
    if not row["valid"]:
        return
    seen.values.setdefault(point, []).append(row["values"])
    seen.clusters.setdefault(point, []).append(row["doc_id"])
    if point == IMMEDIATE:
        seen.online.append((row["in_force"], row["doc_id"], row["values"]))
    if point == FINAL:
        seen.scored += 1
        relation = row["doc"].get("tags", {}).get("relation", "")
        final = _Final(row["doc_id"], row["seed"], row["age"], row["in_force"], relation, row["values"])
        seen.finals.append(final)
        if row["error"] is None and row["editor"] != PLAIN and row["prompt_tokens_added"] is not None:
            seen.added.append(row["prompt_tokens_added"])


def _figures(seen: _Seen, point: str, resamples: int, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    values = seen.values.get(point, [])
    for key, estimate in estimates(values, resamples, seed, seen.clusters.get(point)).items():
        name, _, scoring = key.partition(",")
        name = name if point == FINAL else f"{name}@{point}"
        found[f"{name},{scoring}"] = estimate.mean
        found[f"{name}_stderr,{scoring}"] = estimate.stderr
        found[f"{name}_ci95,{scoring}"] = [estimate.low, estimate.high]
        found[f"{name}_n,{scoring}"] = estimate.n
    return found


def _costs(by_seed: Sequence[Sequence[tuple[Key, Any]]], seen: _Seen) -> dict[str, float]:
    """Means over edits, answers and sequences; of memory, the highest of all steps."""
    steps: list[dict[str, Any]] = []
    kept: list[int] = []
    for records in by_seed:
        made = sorted((key.chain, key.first, value) for key, value in records if key.kind == "step" and value["edits"])
        steps += [value for *_, value in made]
        kept += {chain: value["bytes"] for chain, _, value in made}.values()  # of the last step: all edits in force
    edits = sum(step["edits"] for step in steps)
    alone = [value for records in by_seed for key, value in records if key.kind == "latency" and value is not None]
    peaks = [step["peak"] for step in steps if step["peak"] is not None]
    found = {
        "seconds_per_edit": sum(step["seconds"] for step in steps) / edits if edits else None,
        "seconds_per_answer": sum(alone) / len(alone) if alone else None,
        "peak_bytes": max(peaks, default=None),
        "artefact_bytes": sum(kept) / len(kept) if kept else None,
        "prompt_tokens_added": sum(seen.added) / len(seen.added) if seen.added else None,
    }
    return {f"{name},none": value for name, value in found.items() if value is not None}


def _group(finals: Sequence[_Final], config: EvaluateConfig) -> dict[str, Any]:
    values = [final.values for final in finals]
    return {"n": len(values), "values": told(values, [f.doc for f in finals], config.resamples, config.seed)}


def _ages(seen: _Seen, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Retention: the final figures of edits by how many cases were edited after them, in ten groups of like size."""
    ages = sorted({final.age for final in seen.finals})
    groups = [ages[i * len(ages) // AGES : (i + 1) * len(ages) // AGES] for i in range(AGES)]
    return [
        {"age": [group[0], group[-1]], **_group([f for f in seen.finals if group[0] <= f.age <= group[-1]], config)}
        for group in groups
        if group
    ]


def _curves(seen: _Seen, config: EvaluateConfig) -> list[dict[str, Any]]:
    """How all edits so far stand after every so many, and at the end of the longest sequences."""
    found = {
        int(point): {"n": len(values), "values": told(values, seen.clusters[point], config.resamples, config.seed)}
        for point, values in seen.values.items()
        if point.isdigit()
    }
    if found:
        last = max(final.in_force for final in seen.finals)
        found.setdefault(last, _group([f for f in seen.finals if f.in_force == last], config))
    return [{"in_force": n, **found[n]} for n in sorted(found)]


def _relations(seen: _Seen) -> dict[str, Any]:
    groups: dict[str, list[Values]] = {}
    for final in seen.finals:
        if final.relation:
            groups.setdefault(final.relation, []).append(final.values)
    return {name: {"n": len(rows), "values": _means(rows)} for name, rows in sorted(groups.items())}


def _seeds(seen: _Seen) -> dict[str, Any]:
    groups: dict[str, list[Values]] = {}
    for final in seen.finals:
        groups.setdefault(str(final.seed), []).append(final.values)
    return {name: _means(rows) for name, rows in groups.items()}


def _means(rows: Sequence[Values]) -> dict[str, float]:
    keys = dict.fromkeys(key for row in rows for key in row)
    each = {key: [row[key] for row in rows if key in row] for key in keys}
    return {key: sum(values) / len(values) for key, values in each.items()}
