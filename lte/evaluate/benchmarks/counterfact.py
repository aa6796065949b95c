"""CounterFact (Meng et al., arXiv:2202.05262): the full schema, and the reduced one that EasyEdit distributes."""

from __future__ import annotations

from pathlib import Path

from lte.edits import Case, Probe
from lte.evaluate.benchmarks.records import Record, read_cases


def load(path: Path) -> list[Case]:
    """Every case of a CounterFact file; records of both schemas may stand in one file."""
    return read_cases(path, lambda r: full(r) if "requested_rewrite" in r.fields else reduced(r))


def full(record: Record) -> Case:
    """The case of {case_id, requested_rewrite, paraphrase_prompts, neighborhood_prompts, ...}."""
    if not isinstance(record.fields["requested_rewrite"], dict):
        raise record.error("requested_rewrite", f"expected an object, got {record.fields['requested_rewrite']!r}")
    rewrite = Record(record.fields["requested_rewrite"], record.path, record.number)
    subject, template = rewrite.text("subject"), rewrite.text("prompt")
    if "{}" not in template:
        raise record.error("requested_rewrite.prompt", f"expected {{}} where the subject stands, got {template!r}")
    new, true = _target(rewrite, "target_new"), _target(rewrite, "target_true")
    return Case(
        id=_id(record),
        edit=record.edit(template.replace("{}", subject, 1), new, subject, true),
        generalization=tuple(Probe(p, (new,)) for p in record.texts("paraphrase_prompts")),
        locality=tuple(Probe(p, (true,)) for p in record.texts("neighborhood_prompts")),
        tags={"relation": str(rewrite.fields["relation_id"])} if "relation_id" in rewrite.fields else {},
    )


def reduced(record: Record) -> Case:
    """The case of {case_id, prompt, target_new, subject, ground_truth, rephrase_prompt, locality_prompt, ...}."""
    new = record.text("target_new")
    return Case(
        id=_id(record),
        edit=record.edit(record.text("prompt"), new, record.text("subject"), record.text("ground_truth")),
        generalization=(Probe(record.text("rephrase_prompt"), (new,)),),
        locality=(Probe(record.text("locality_prompt"), (record.text("locality_ground_truth"),)),),
    )


def _target(rewrite: Record, field: str) -> str:
    value = rewrite.fields.get(field)
    return Record(value, rewrite.path, rewrite.number).text("str") if isinstance(value, dict) else rewrite.text(field)


def _id(record: Record) -> str:
    return str(record.fields.get("case_id", record.number))
