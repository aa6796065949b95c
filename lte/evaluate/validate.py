"""Everything that is wrong with a file of cases, each place named, in one reading."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lte.edits import Case, Probe
from lte.evaluate.benchmarks import benchmark as known
from lte.records.cases import EASYEDIT, OWN, case, easyedit, own, recognised
from lte.records.reading import read_records
from lte.records.record import Problem, Record

__all__ = ["Problem", "validate"]


@dataclass
class Seen:
    """What the records so far have stated, to tell contradictions by: the place of each."""

    ids: dict[str, str] = field(default_factory=dict)
    targets: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # of subject and prompt


def validate(path: str | Path, benchmark: str | None = None) -> list[Problem]:
    """The problems of a file in the order of its records; empty where there are none.

    benchmark  the schema its records should have; None: each is known by its fields, as own data are read

    An error is what the file cannot be loaded with. A warning is what can be loaded and is seldom meant: an answer
    that stands in its own question, the edit's own prompt among those it must not touch, an id twice, one prompt about
    one subject with two answers, a question one hop on without an answer, a field that nothing reads. A question of
    locality needs no answer: right is what the unedited model says. A file that cannot be opened is a `RecordError`.
    """
    maker = known(benchmark).case if benchmark else case
    found: list[Problem] = []
    records = read_records(Path(path), found)
    if not records and not found:
        return [Problem("error", "", "", "holds no records", "wanted at least one")]
    seen, problems = Seen(), found[:]
    for record in records:
        found.clear()
        made = maker(record)
        problems += dict.fromkeys(found)
        if made is not None and not any(p.kind == "error" for p in found):
            problems += doubts(made, record, seen)
    return sorted(problems, key=lambda p: int(p.where.rpartition(" ")[2] or 0))


def doubts(made: Case, record: Record, seen: Seen) -> Iterator[Problem]:
    """The warnings of a record that can be read."""

    def doubt(name: str, problem: str, remedy: str) -> Problem:
        return Problem("warning", record.where, name, problem, remedy)

    yield from unread(record)
    if made.id in seen.ids:
        yield doubt("id", f"{made.id!r} is also the id of {seen.ids[made.id]}", "give each its own: results name it")
    seen.ids.setdefault(made.id, record.where)
    for i, edit in enumerate(made.edits):
        name = "edit" if i == 0 else f"also[{i - 1}]"
        stated = (edit.subject or "", edit.prompt)
        target, where = seen.targets.setdefault(stated, (edit.target_new, record.where))
        if target != edit.target_new:
            problem = f"{edit.prompt!r} is answered by {edit.target_new!r} here and by {target!r} at {where}"
            yield doubt(name, problem, "keep one: in force together, they contradict each other")
        if holds(edit.prompt, edit.target_new):
            yield doubt(name, f"the answer {edit.target_new!r} stands in its prompt", "ask without giving it away")
    for name, probe in probes(made):
        if answer := next((a for a in probe.answers if holds(probe.prompt, a)), None):
            yield doubt(name, f"the answer {answer!r} stands in its prompt", "ask without giving it away")
        if name.startswith("portability") and not probe.answers:
            yield doubt(name, "has no answer", "give one, or remove it: it is not asked")
        own_prompt = probe.prompt.strip() in {e.prompt.strip() for e in made.edits}
        if name.startswith("locality") and own_prompt:
            yield doubt(name, "is the edit's own prompt", "ask something that the edit leaves alone")


def unread(record: Record) -> Iterator[Problem]:
    """The fields of a record of own data that nothing reads."""
    maker = recognised(record.fields)
    names = OWN if maker is own else EASYEDIT if maker is easyedit else ()
    for name in record.fields if names else ():
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            yield Problem("warning", record.where, name, "no such field; it is not read", remedy)


def probes(made: Case) -> Iterator[tuple[str, Probe]]:
    """The questions of a case by their fields' names."""
    for kind in ("generalization", "portability", "locality"):
        for i, probe in enumerate(getattr(made, kind)):
            yield f"{kind}[{i}]", probe


def holds(prompt: str, answer: str) -> bool:
    """Whether the answer stands in the prompt as words of its own."""
    a, b = answer.casefold(), prompt.casefold()
    return a in b and re.search(rf"(?<!\w){re.escape(a)}(?!\w)", b) is not None
