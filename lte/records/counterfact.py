"""CounterFact (Meng et al., arXiv:2202.05262): the full schema, and the reduced one that EasyEdit distributes.

MultiCounterFact (arXiv:2210.07229) has the full one. Beside a full file may lie `attribute_snippets.json` of the same
authors: texts about other subjects of which an edit's new answer is true, the references for consistency.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lte.edits import Case, Probe
from lte.records.record import Record, RecordError

SNIPPETS = "attribute_snippets.json"
NEIGHBOURS, ATTRIBUTES = "neighborhood", "attribute"  # aspects of locality
CHUNK = 1 << 22  # characters of the snippets read at a time: the published file is 0.9 GB


def case(record: Record) -> Case:
    """The case of a record of either schema; both may stand in one file."""
    return full(record) if "requested_rewrite" in record.fields else reduced(record)


def full(record: Record) -> Case:
    """The case of {case_id, requested_rewrite, paraphrase_prompts, neighborhood_prompts, attribute_prompts, ...}.

    Neighbours have an own answer to keep: NS compares it with the edit's. Attribute prompts ask about subjects of which
    the edit's new answer is true; no answer of theirs is given, and locality holds them to what was said before.
    """
    rewrite = record.child("requested_rewrite")
    edit = rewrite.rewrite()
    true = (edit.target_true,) if edit.target_true else ()
    tags = {"relation": rewrite.fields.get("relation_id"), "target": _id(rewrite.fields.get("target_new"))}
    return Case(
        id=record.name(),
        edit=edit,
        generalization=tuple(Probe(p, (edit.target_new,)) for p in record.texts("paraphrase_prompts")),
        portability=record.probes("portability"),
        locality=(
            *(Probe(p, true, NEIGHBOURS) for p in record.texts("neighborhood_prompts")),
            *(Probe(p, (), ATTRIBUTES) for p in record.texts("attribute_prompts")),
        ),
        generation=record.texts("generation_prompts"),
        tags={key: str(value) for key, value in tags.items() if value},
    )


def reduced(record: Record) -> Case:
    """The case of {case_id, prompt, target_new, subject, ground_truth, rephrase_prompt, locality_prompt, ...}."""
    new = record.text("target_new")
    return Case(
        id=record.name(),
        edit=record.edit(record.text("prompt"), new, record.text("subject"), record.text("ground_truth")),
        generalization=(Probe(record.text("rephrase_prompt"), (new,)),),
        locality=(Probe(record.text("locality_prompt"), (record.text("locality_ground_truth"),)),),
    )


def with_references(cases: Sequence[Case], path: Path) -> list[Case]:
    """The cases with the texts of the snippets beside `path`; as they are where there is no such file."""
    beside = path.with_name(SNIPPETS)
    if not beside.is_file():
        return list(cases)
    wanted = {(c.tags.get("relation", ""), c.tags.get("target", "")) for c in cases}
    texts: dict[tuple[str, str], list[str]] = {}
    for relation, target, samples in _snippets(beside):
        if (relation, target) in wanted:
            texts.setdefault((relation, target), []).extend(samples)
    return [
        replace(c, references=tuple(texts.get((c.tags.get("relation", ""), c.tags.get("target", "")), ())))
        for c in cases
    ]


def _snippets(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Relation id, target id and texts of [{relation_id, target_id, samples: [{text}]}], read piece by piece."""
    for number, row in enumerate(_pieces(path)):
        try:
            yield str(row["relation_id"]), str(row["target_id"]), [str(s["text"]) for s in row["samples"]]
        except (KeyError, TypeError) as error:
            raise RecordError(
                f"{path}: record {number}: {error}; wanted relation_id, target_id and samples of {{text}}; fetch the "
                "file again, or remove it: without it nothing is said of consistency"
            ) from error


def _pieces(path: Path) -> Iterator[Any]:
    """The values of a JSON array, never held all at once."""
    decode = json.JSONDecoder().raw_decode
    try:
        with path.open(encoding="utf-8") as file:
            rest, at = file.read(CHUNK).lstrip().removeprefix("["), 0
            while True:
                while rest[at : at + 1] in tuple(", \n\r\t"):
                    at += 1
                try:
                    value, at = decode(rest, at)
                except json.JSONDecodeError:
                    read = file.read(max(CHUNK, len(rest) - at))  # at least twice as much: few values are begun often
                    if not read and rest[at:].strip() == "]":
                        return
                    if not read:
                        raise
                    rest, at = rest[at:] + read, 0
                else:
                    yield value
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); fetch the file again, or remove it") from error


def _id(target: Any) -> str | None:
    return target.get("id") if isinstance(target, dict) else None
