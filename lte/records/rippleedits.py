"""RippleEdits (Cohen et al., arXiv:2307.12976): an edit and what it must, and must not, change elsewhere.

Two of the six criteria say what has to stay (locality), four what has to follow (portability). A test of several
queries under OR is one question in several wordings; under AND each query is a question of its own. Its condition
queries are what the unedited model has to know for the test to count. Where this leaves the authors' code: an answer
that names several entities is right here with one of them, there with all; and a condition that asks for the edit's own
new fact is left out, which no unedited model could meet.

The edit comes as a sentence that ends in its answer, and its subject as an id: both are told from the words.
"""

from __future__ import annotations

import re
from dataclasses import replace

from lte.edits import Case, Probe
from lte.records.record import Record, short

STAYS = ("Relation_Specificity", "Forgetfulness")
FOLLOWS = ("Logical_Generalization", "Subject_Aliasing", "Compositionality_I", "Compositionality_II")
SPELT = {"Relation_Specificity": "Relation_Specifity"}  # so in the authors' description of the format
# how a sentence names its relation where that is not the relation's own name
WORDS = {
    "AWARD_RECEIVED": "award",
    "CAPITAL": "capital city",
    "CAPITAL_OF": "country",
    "CAST_MEMBER": "cast members",
    "MEMBER_OF_SPORTS_TEAM": "sports team",
    "NATIVE_LANGUAGE": "mother tongue",
    "SEX_OR_GENDER": "gender",
    "SIBLING": "siblings",
}
LINKS = {"FOLLOWS": " follows ", "FOLLOWED_BY": " is followed by ", "SIBLING": " are ", "CAST_MEMBER": " are "}
BEHIND = r"(?: has| won| plays in| is (?:associated with|a member of|part of|the capital of))?"


def case(record: Record) -> Case | None:
    """The case of {example_type, edit, and a list of tests for each criterion}; None where a name is not known."""
    edit = record.child("edit")
    sentence, relation = edit.text("prompt").removesuffix("."), edit.text("relation")
    before = edit.child(past).text("prompt").removesuffix(".") if (past := _past(edit)) else None
    stem, target = split(sentence, relation, before, _labels(record))
    subject = named(stem, relation)
    if subject is None:
        return edit.refuse(
            "prompt", f"expected {relation} of a subject and then its answer, got {short(sentence)}", None
        )
    if not target.strip() or not subject.strip():
        edit.left_out("prompt", "its subject or its answer has no name")
        return None
    true = before.removeprefix(f"{stem} ").strip() if before and before.startswith(f"{stem} ") else ""
    return Case(
        id=record.name(),
        edit=record.edit(stem, target, subject, true if true and true != target else None),
        portability=tuple(p for name in FOLLOWS for p in tests(record, name)),
        locality=tuple(p for name in STAYS for p in tests(record, name)),
        tags={"relation": relation} | ({"set": str(kind)} if (kind := record.fields.get("example_type")) else {}),
    )


def tests(record: Record, criterion: str) -> list[Probe]:
    """The probes of a criterion's tests {test_queries, test_condition, condition_queries}."""
    spelt = criterion if criterion in record.fields else SPELT.get(criterion, criterion)
    found = []
    for i, test in enumerate(record.children(spelt)):
        queries, how = test.children("test_queries"), test.fields.get("test_condition", "OR")
        if how not in ("OR", "AND"):
            test.refuse("test_condition", f"expected OR or AND, got {how!r}", None)
        given = tuple(asked(q) for q in test.children("condition_queries") if not _states(q, record.fields["edit"]))
        name = f"{criterion} {i}" if how == "OR" and len(queries) > 1 else ""
        found += [asked(q, criterion, name, given) for q in queries]
    return found


def asked(query: Record, aspect: str = "", any_of: str = "", given: tuple[Probe, ...] = ()) -> Probe:
    """The probe of {prompt, answers: [{value, aliases}]}: every name of every answer counts."""
    names = [n for a in query.children("answers") for n in (*a.gold("value"), *a.gold("aliases"))]
    # a name of one letter is in every text; the authors leave it out, too
    answers = tuple(dict.fromkeys(n for n in names if len(n) > 1 or n.isdigit()))
    return Probe(query.text("prompt"), answers, aspect, any_of, given)


def split(sentence: str, relation: str, before: str | None, labels: list[str]) -> tuple[str, str]:
    """The words before the answer, and the answer; "" twice where no place for it is found.

    labels  names of the answer, as the tests give them
    before  the sentence as it was, with another answer
    """
    for label in sorted(labels, key=len, reverse=True):
        if sentence.endswith(f" {label}"):
            return sentence[: -len(label) - 1], label
    link = LINKS.get(relation, " is ")
    if relation in ("FOLLOWS", "FOLLOWED_BY"):
        stem, found, target = sentence.partition(link)
    else:  # the last one: "The name of the country which X is associated with is"
        shared = sentence if before is None else _shared(sentence, before)
        stem, found, _ = shared.rpartition(link)
        target = sentence[len(stem) + len(link) :]
    return (f"{stem}{link.rstrip()}", target.strip()) if found else ("", "")


def named(stem: str, relation: str) -> str | None:
    """The subject in the words before the answer; None where they have not the relation's form."""
    if relation in ("FOLLOWS", "FOLLOWED_BY"):
        return stem.removesuffix(LINKS[relation].rstrip())
    words = re.escape(WORDS.get(relation, relation.lower().replace("_", " ")))
    form = rf"The (?:names? of the )?{words}(?: of| in| by| which)? (.*?){BEHIND} (?:is|are)"
    match = re.fullmatch(form, stem)
    return match[1] if match else None


def _shared(a: str, b: str) -> str:
    """The words that both begin with, and the space behind them."""
    same = []
    for x, y in zip(a.split(" "), b.split(" "), strict=False):
        if x != y:
            break
        same.append(x)
    return " ".join(same) + " "


def _past(edit: Record) -> str | None:
    """The field that holds the fact as it was: so named in the files, or so in the authors' description."""
    return next((name for name in ("original_fact", "previous_fact") if edit.fields.get(name)), None)


def _labels(record: Record) -> list[str]:
    """What the tests call the edit's answer."""
    record = replace(record, found=None if record.found is None else [])  # what is wrong with the tests is told there
    wanted = [record.fields["edit"].get("target_id")] if isinstance(record.fields.get("edit"), dict) else []
    tests = [t for name in FOLLOWS for t in record.children(name)]
    queries = [q for t in tests for q in (*t.children("test_queries"), *t.children("condition_queries"))]
    return [
        label
        for q in queries
        if q.fields.get("query_type") != "two_hop" and q.fields.get("target_ids") == wanted != [None]
        for a in q.children("answers")
        for label in a.gold("value")
    ]


def _states(query: Record, edit: dict[str, object]) -> bool:
    """Whether a query asks for the edit's own new fact."""
    about = ("subject_id", "relation")
    same = all(query.fields.get(key) == edit.get(key) is not None for key in about)
    return same and edit.get("target_id") in (query.fields.get("target_ids") or ())
