"""Your own data: one JSON object a line, in our own form or in the field names of the published benchmarks.

Our own form, as `lte.edits.write_jsonl` writes it. Of `edit`, prompt and target_new are needed; everything else may be
left out (an id is then the line's number):

    {"id": "lake-1", "edit": {"prompt": "Lake Ilmen flows into", "target_new": "the Neva", "subject": "Lake Ilmen",
     "target_true": "the Volkhov"}, "generalization": [{"prompt": "Into what does Lake Ilmen flow?"}],
     "portability": [{"prompt": "Which city lies where the river out of Lake Ilmen ends?",
     "answers": ["Saint Petersburg", "St Petersburg"], "aspect": "Reasoning"}],
     "locality": [{"prompt": "Lake Onega flows into", "answers": ["the Svir"]}], "tags": {"relation": "outflow"}}

    edit, also       {prompt, target_new, subject, target_true, aliases of the subject}; also: a list of more edits
    generalization   [{prompt, answers}]: other wordings; without answers the edit's own counts
    portability      [{prompt, answers, aspect, any_of, given}]: what follows from the edit; every answer is an alias
    locality         the same: what it does not touch; right is what the unedited model says
    any_of, given    probes of one name are one question; given: [{prompt, answers}] the unedited model has to know
    generation       [text]: openings of longer texts, for fluency and consistency
    references       [text]: texts of other subjects of which target_new is true, for consistency
    tags             {name: text}; "relation" groups the cases in the report

EasyEdit's and KnowEdit's form, one edit a line. Of these, prompt and target_new are needed:

    prompt, subject, target_new, ground_truth, rephrase_prompt (a text or a list),
    locality, portability: {aspect: [{prompt, ground_truth}, ...]} or {aspect: {prompt, ground_truth}},
    locality_prompt, locality_ground_truth, portability_prompt, portability_ground_truth (a text each, or lists)

Records of CounterFact (full), WikiBio, ZsRE (MEND), MQuAKE and RippleEdits are known by their fields, and may stand
beside these in one file. `lte evaluate validate FILE` names every line and field that cannot be read.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from lte.edits import PROBED, Case, Edit, EditError, Probe
from lte.records import counterfact, knowedit, mquake, rippleedits, zsre
from lte.records.reading import Maker
from lte.records.record import Record, short

OWN = tuple(f.name for f in fields(Case))
EASYEDIT = (
    "case_id", "id", "prompt", "subject", "target_new", "ground_truth", "rephrase_prompt", "portability", "locality",
    "locality_prompt", "locality_ground_truth", "portability_prompt", "portability_ground_truth", "cond",
)  # fmt: skip


def case(record: Record) -> Case | None:
    """The case of a line in any of the forms above."""
    maker = recognised(record.fields)
    if maker is None:
        known = ", ".join(sorted(record.fields)) or "nothing"
        wanted = "edit (our own form), prompt and target_new (EasyEdit, KnowEdit) or a published benchmark's fields"
        return record.refuse("", f"not a case: it has {known}; wanted {wanted}", None)
    return maker(record)


def recognised(row: dict[str, Any]) -> Maker | None:
    """What makes a case of a record with these fields; None where none does."""
    if "requested_rewrite" in row:
        return mquake.case if isinstance(row["requested_rewrite"], list) else counterfact.full
    if "edit" in row:
        return rippleedits.case if "example_type" in row or set(rippleedits.FOLLOWS) & set(row) else own
    if "src" in row or "alt" in row:
        return zsre.case
    if "labels" in row:
        return knowedit.biography
    return easyedit if "prompt" in row or "target_new" in row else None


def easyedit(record: Record) -> Case:
    """The case of a line in EasyEdit's field names."""
    made = knowedit.stated(record, record.text("subject") if record.fields.get("subject") else "")
    return replace(
        made,
        id=_id(record, record.fields.get("case_id", record.fields.get("id"))),
        portability=(*made.portability, *_parallel(record, "portability")),
        locality=(*made.locality, *_parallel(record, "locality")),
    )


def own(record: Record) -> Case:
    """The case of a line in our own form."""
    tags = record.fields.get("tags") or {}
    if not isinstance(tags, dict) or any(not isinstance(v, str) for v in tags.values()):
        tags = record.refuse("tags", f"expected an object of texts, got {short(tags)}", {})
    return Case(
        id=_id(record, record.fields.get("id")),
        edit=_edit(record.child("edit")),
        tags=tags,
        also=tuple(_edit(e) for e in record.children("also")),
        generation=record.texts("generation"),
        references=record.texts("references"),
        **{kind: tuple(_probe(p) for p in record.children(kind)) for kind in PROBED},
    )


def _id(record: Record, name: Any) -> str:
    if name is None:
        return str(record.number if record.line is None else record.line)
    return str(name) if isinstance(name, str | int) else record.refuse("id", f"expected text, got {short(name)}", "?")


def _edit(record: Record) -> Edit:
    known = [f.name for f in fields(Edit)]
    if unknown := [name for name in record.fields if name not in known]:
        record.refuse(unknown[0], f"no such field; an edit has {', '.join(known)}", None)
    row = {name: value for name, value in record.fields.items() if name in known and value is not None}
    row |= {"prompt": record.text("prompt"), "target_new": record.text("target_new")}
    try:
        return Edit(**row)
    except (EditError, TypeError) as error:
        field, _, problem = str(error).partition(": ")
        return record.refuse(field, problem or "not an edit", Edit("?", "?"))


def _probe(record: Record) -> Probe:
    words = {}
    for name in ("aspect", "any_of"):
        words[name] = record.fields.get(name) or ""
        if not isinstance(words[name], str):
            words[name] = record.refuse(name, f"expected text, got {short(words[name])}", "")
    given = tuple(_probe(g) for g in record.children("given"))
    return Probe(record.text("prompt"), record.gold("answers"), words["aspect"], words["any_of"], given)


def _parallel(record: Record, kind: str) -> list[Probe]:
    """The probes of `locality_prompt` and `locality_ground_truth`, or those of portability."""
    if not record.fields.get(f"{kind}_prompt"):
        return []
    item = {"prompt": record.fields[f"{kind}_prompt"], "ground_truth": record.fields.get(f"{kind}_ground_truth")}
    return record.asked(kind, item, "", sign="_")
