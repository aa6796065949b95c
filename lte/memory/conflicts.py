"""Which records an edit would contradict or repeat: found and told, never settled; the operator decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lte.edits import Edit
from lte.memory.encoder import Vectors
from lte.memory.gate import words
from lte.memory.index import Index
from lte.memory.record import Record
from lte.memory.validity import overlap, window

Kind = Literal["contradiction", "duplicate", "overlap"]
Phrase = tuple[str, ...]
PLAIN_PROMPT = 3  # words from which on the prompt of an edit without a subject tells what it is about; not "Note:"
BLANK = "someone"  # stands where the subject stood; the encoder tells relations apart better than with "x" or "it"
ALIKE = 20  # records looked at for a statement nearly the same


@dataclass(frozen=True)
class Conflict:
    """A record that an edit does not go together with.

    kind    "contradiction": the same subject and relation, another target, at the same times;
            "overlap": the same, but their windows of validity differ and share some time;
            "duplicate": it says the same already
    score   how alike the relations (or for statements nearly the same, the statements) are: 1 for equal words
    """

    kind: Kind
    record: Record
    score: float


@dataclass(frozen=True)
class Alike:
    """From which cosine on two texts count as the same.

    relation   prompts with their subject blanked
    statement  whole statements, where an edit has no subject
    """

    relation: float
    statement: float


def conflicts(
    new: Record, index: Index, alike: Alike, encode: Callable[[Sequence[str]], Vectors], but: Iterable[str] = ()
) -> list[Conflict]:
    """The active records of the same namespace that `new` contradicts or repeats at a time at which both hold.

    but  ids that do not count: what the edit is to replace
    """
    passed = set(but)
    near = index.near(new.namespace, encode([new.edit.statement, new.edit.prompt]), ALIKE, alike.statement)
    found = {e.id: e.record for e in (*index.sharing(new.namespace, new.edit), *near) if e.record is not None}
    return between(new, [record for id, record in found.items() if id not in passed], alike, encode)


def between(
    new: Record, others: Iterable[Record], alike: Alike, encode: Callable[[Sequence[str]], Vectors]
) -> list[Conflict]:
    """The conflicts of `new` with these records, contradictions first."""
    standing = [r for r in others if r.namespace == new.namespace and r.state == "active" and overlap(r, new)]
    found = []
    for other, score in zip(standing, _same_relation(new.edit, [r.edit for r in standing], alike.relation, encode)):
        if score is not None:
            same = words(other.edit.target_new) == words(new.edit.target_new)
            differ: Kind = "contradiction" if window(other) == window(new) else "overlap"
            found.append(Conflict("duplicate" if same else differ, other, score))
    told = {conflict.record.id for conflict in found}
    loose = [r for r in standing if r.id not in told and not (names(new.edit) and names(r.edit))]
    if loose:
        first, *rest = encode([new.edit.statement, *(r.edit.statement for r in loose)])
        cosines = (np.asarray(rest) @ first).tolist()
        found += [Conflict("duplicate", r, cosine) for r, cosine in zip(loose, cosines) if cosine >= alike.statement]
    return sorted(found, key=lambda c: (c.kind == "duplicate", -c.score, c.record.seq))


def names(edit: Edit) -> set[Phrase]:
    """What the edit's subject is called, as words; nothing where it has no subject."""
    called = (edit.subject, *edit.aliases) if edit.subject.strip() else ()
    return {phrase for name in called if (phrase := tuple(words(name)))}


def relation(edit: Edit) -> Phrase:
    """The words of the prompt with those of the subject blanked: what is said of it."""
    said, blanked, at = words(edit.prompt), [], 0
    called = sorted(names(edit), key=len, reverse=True)
    while at < len(said):
        length = next((len(name) for name in called if tuple(said[at : at + len(name)]) == name), 0)
        blanked.append(BLANK if length else said[at])
        at += length or 1
    return tuple(blanked)


def _same_relation(
    new: Edit, others: Sequence[Edit], least: float, encode: Callable[[Sequence[str]], Vectors]
) -> list[float | None]:
    """How alike the relations are, of each other edit that says something of the same subject; else None."""
    mine, called = relation(new), names(new)
    found: list[float | None] = []
    pending: dict[int, Phrase] = {}
    for i, other in enumerate(others):
        found.append(None)
        if called & names(other):
            theirs = relation(other)
            if theirs == mine:
                found[i] = 1.0
            else:
                pending[i] = theirs
        elif not (called and names(other)) and words(other.prompt) == (prompt := words(new.prompt)):
            # the subject was named once and left out once, or is in words alone
            found[i] = 1.0 if called or names(other) or len(prompt) >= PLAIN_PROMPT else None
    if pending:
        first, *rest = encode([" ".join(mine), *(" ".join(theirs) for theirs in pending.values())])
        for i, cosine in zip(pending, np.asarray(rest) @ first):
            if cosine >= least:
                found[i] = float(cosine)
    return found
