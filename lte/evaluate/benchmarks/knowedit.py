"""KnowEdit (Zhang et al., arXiv:2401.01286): ZsRE, WikiData counterfact and recent, WikiBio.

The gold fields differ from file to file: a text, a list, a list of alias lists. All are read, every probe and every
alias counts.
"""

from __future__ import annotations

from pathlib import Path

from lte.edits import Case, Probe
from lte.evaluate.benchmarks.records import Record, read_cases


def load(path: Path) -> list[Case]:
    """Every case of a KnowEdit file; the records say themselves which of the schemas they have."""
    return read_cases(path, lambda r: biography(r) if "labels" in r.fields else fact(r))


def fact(record: Record) -> Case:
    """The case of {subject, prompt, target_new, ground_truth?, rephrase_prompt?, portability, locality}."""
    new = record.text("target_new")
    true = record.gold("ground_truth", record.fields.get("ground_truth"))
    rephrased = record.gold("rephrase_prompt", record.fields.get("rephrase_prompt"))
    return Case(
        id=str(record.fields.get("case_id", record.number)),
        edit=record.edit(record.text("prompt"), new, record.text("subject"), true[0] if true else None),
        generalization=tuple(Probe(p, (new,)) for p in rephrased),
        portability=record.probes("portability"),
        locality=record.probes("locality"),
    )


def biography(record: Record) -> Case:
    """The case of {concept, text, labels, locality}: after the passage so far, its next sentence."""
    return Case(
        id=str(record.number),
        edit=record.edit(record.text("text"), record.text("labels"), record.text("concept")),
        portability=record.probes("portability"),
        locality=record.probes("locality"),
    )
