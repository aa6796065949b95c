"""MQuAKE (Zhong et al., arXiv:2305.14795): one or more edits, and questions that need them and facts beside them.

The three questions of a record are one in three wordings, right where one is answered, as its authors score it.
"""

from __future__ import annotations

from lte.edits import Case, Probe
from lte.records.record import Record

MULTI_HOP, SINGLE_HOP = "Multi_Hop", "Single_Hop"


def case(record: Record) -> Case:
    """The case of {case_id, requested_rewrite: [...], questions, new_answer, new_answer_alias, new_single_hops}.

    A hop that asks what an edit states is another wording of that edit's prompt, hence generalization; the others have
    to be known for the chain to be walked, hence portability.
    """
    rewrites = record.children("requested_rewrite")
    if not rewrites:
        record.refuse("requested_rewrite", "empty; expected at least one edit", None)
    edits = [r.rewrite() for r in rewrites] or [record.edit("?", "?")]
    own = {r.text("question"): e.target_new for r, e in zip(rewrites, edits, strict=False) if "question" in r.fields}
    new = unique(record.text("new_answer"), *record.gold("new_answer_alias"))
    hops = {
        h.text("question"): unique(h.text("answer"), *h.gold("answer_alias"))
        for h in record.children("new_single_hops")
    }
    relations = [r.fields["relation_id"] for r in rewrites if r.fields.get("relation_id")]
    return Case(
        id=record.name(),
        edit=edits[0],
        also=tuple(edits[1:]),
        generalization=tuple(Probe(q, unique(answer, *hops.get(q, ()))) for q, answer in own.items()),
        portability=(
            *(Probe(q, new, MULTI_HOP, any_of=MULTI_HOP) for q in record.texts("questions")),
            *(Probe(q, answers, SINGLE_HOP) for q, answers in hops.items() if q not in own),
        ),
        # a chain of several edits has no one relation
        tags={"hops": str(len(hops))} | ({"relation": str(relations[0])} if len(relations) == 1 == len(edits) else {}),
    )


def unique(*answers: str) -> tuple[str, ...]:
    """The answers, each once."""
    return tuple(dict.fromkeys(answers))
