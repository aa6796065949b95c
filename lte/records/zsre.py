"""ZsRE as MEND asks it (Mitchell et al., arXiv:2110.11309): a question, another wording, a question of another kind.

The edit's answer is `alt`, as in MEND and EasyEdit. ROME, MEMIT and AlphaEdit write `answers[0]`, the true one: their
ZsRE numbers say how well a model learns what it may know already, and do not compare with these.
"""

from __future__ import annotations

from lte.edits import Case, Probe
from lte.records.record import Record

NQ = "nq question: "


def case(record: Record) -> Case | None:
    """The case of {subject, src, pred, rephrase, alt, answers, loc, loc_ans, cond}; None where `alt` is empty."""
    if record.fields.get("alt") == "":
        record.left_out("alt", "empty: no new answer")
        return None
    new, true = record.text("alt").strip(), record.gold("answers")
    apart = record.text("loc").removeprefix(NQ).strip()
    return Case(
        id=record.name(),
        edit=record.edit(record.text("src"), new, record.text("subject"), true[0] if true else None),
        generalization=tuple(Probe(p, (new,)) for p in record.gold("rephrase")),
        portability=record.probes("portability"),
        # their questions come without the mark that the others have
        locality=(Probe(apart if apart.endswith("?") else f"{apart}?", record.gold("loc_ans")),),
    )
