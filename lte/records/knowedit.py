"""KnowEdit (Zhang et al., arXiv:2401.01286): ZsRE, WikiData counterfact and recent, WikiBio.

The gold fields differ from file to file: a text, a list, a list of alias lists. All are read, every probe and every
alias counts.
"""

from __future__ import annotations

from lte.edits import Case, Probe
from lte.records.record import Record


def case(record: Record) -> Case:
    """The case of a record; it says itself which of the schemas it has."""
    return biography(record) if "labels" in record.fields else fact(record)


def fact(record: Record) -> Case:
    """The case of {subject, prompt, target_new, ground_truth?, rephrase_prompt?, portability, locality}."""
    return stated(record, record.text("subject"))


def stated(record: Record, subject: str) -> Case:
    """The case of a fact in EasyEdit's field names, about `subject`."""
    new = record.text("target_new")
    true = record.gold("ground_truth")
    return Case(
        id=record.name(),
        edit=record.edit(record.text("prompt"), new, subject, true[0] if true else None),
        generalization=tuple(Probe(p, (new,)) for p in record.gold("rephrase_prompt")),
        portability=record.probes("portability"),
        locality=record.probes("locality"),
    )


def biography(record: Record) -> Case:
    """The case of {concept, text, labels, locality}: after the passage so far, its next sentence."""
    return Case(
        id=record.name(),
        edit=record.edit(record.text("text"), record.text("labels"), record.text("concept")),
        portability=record.probes("portability"),
        locality=record.probes("locality"),
    )
