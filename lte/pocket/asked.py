"""What the study of recipes asks: evaluation cases with questions one hop on, and with some that tempt an edit."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from lte.config import Config
from lte.edits import Case, Probe
from lte.memory.index import views
from lte.pocket.facts import Fact, relations, relations_like
from lte.pocket.hops import MET, NEW, Hops, led_on

Encode = Callable[[Sequence[str]], Any]  # texts to unit vectors, an array (texts, dimensions)
Own = Callable[[Sequence[str]], Sequence[str]]  # the model's answers to questions


class AlignOn(Config):
    """What is added to cases that are aligned on.

    led_on        chance that a case gets a new object that leads one hop on
    hops          questions one hop on of a case, at most
    same_subject  questions about an edit's subject that it does not answer, beside those of the cases
    """

    led_on: float = Field(1.0, ge=0, le=1)
    hops: int = Field(4, ge=0)
    same_subject: int = Field(1, ge=0)
    seed: int = 0


def with_hops(cases: Sequence[Case], facts: Sequence[Fact], size: int, seed: int) -> tuple[list[Case], list[Case]]:
    """(at most `size` cases, those with a question one hop on first; the rest).

    An edit about a place that such a question leads to would change its answer: those cases are in neither.
    """
    met, new = Hops.of(facts), Hops.of(facts, ("eval",))
    led = {case.edit.target_new for case in cases}
    usable = [c for c in cases if not (c.edit.subject in led and c.edit.subject in {*met.known, *new.known})]
    made = [
        replace(c, portability=(*met.probes(c, MET, True, 2, seed), *new.probes(c, NEW, True, 2, seed))) for c in usable
    ]
    ordered = sorted(made, key=lambda c: not c.portability)
    return ordered[:size], ordered[size:]


def with_hard(
    cases: Sequence[Case], others: Sequence[Case], facts: Sequence[Fact], encode: Encode, seed: int
) -> list[Case]:
    """The cases with three questions more, which no edit in force concerns.

    other_relation  another relation of the edit's subject, of its kind: whatever the model says of it
    absent          what an edit of `others` would answer, were it in force
    near_miss       a known fact about a subject of no edit, of all of them those that an edit in force comes nearest to
    """
    near = _near(cases, facts, encode, seed)
    told = _told(facts)
    made = []
    for i, case in enumerate(cases):
        rng = random.Random(f"hard/{seed}/{case.id}/{case.edit.subject}")
        hard = [replace(p, aspect="other_relation") for p in _apart(case, told, 1, True, rng)]
        if i < len(others) and others[i].generalization:
            true = others[i].edit.target_true
            hard.append(Probe(rng.choice(others[i].generalization).prompt, (true,) if true else (), "absent"))
        hard += near[i : i + 1]
        made.append(replace(case, locality=(*case.locality, *hard)))
    return made


def to_align(cases: Sequence[Case], facts: Sequence[Fact], config: AlignOn, own: Own) -> list[Case]:
    """Cases to align on, with questions one hop on, and with more about the edit's subject that it does not answer.

    own  the model's answers; where nothing is known, they stand for gold, as if the model knew: a recipe that learns
         gold text is not to lack these questions
    """
    told = _told(facts)
    made = []
    for case in led_on(cases, facts, config.led_on, config.hops, config.seed):
        rng = random.Random(f"align/{config.seed}/{case.id}/{case.edit.subject}")
        made.append(replace(case, locality=(*case.locality, *_apart(case, told, config.same_subject, False, rng))))
    open_ = list(dict.fromkeys(p.prompt for case in made for p in case.locality if not p.answers))
    said = dict(zip(open_, own(open_), strict=True))
    return [
        replace(c, locality=tuple(p if p.answers else replace(p, answers=(said[p.prompt],)) for p in c.locality))
        for c in made
    ]


def _told(facts: Sequence[Fact]) -> dict[str, set[str]]:
    """The relations in which something is known of a subject."""
    found: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        found[fact.subject].add(fact.relation)
    return found


def _apart(case: Case, told: dict[str, set[str]], most: int, held_out: bool, rng: random.Random) -> list[Probe]:
    """At most `most` questions about the edit's subject, of relations of its kind that nothing is known in."""
    kin = [r for r in relations_like(relations()[case.tags["relation"]]) if r.id not in told.get(case.edit.subject, ())]
    asked = [rng.choice(r.held_out_probes if held_out else r.probes) for r in rng.sample(kin, min(most, len(kin)))]
    return [Probe(text.format(s=case.edit.subject), (), "same_subject") for text in asked]


def _near(cases: Sequence[Case], facts: Sequence[Fact], encode: Encode, seed: int) -> list[Probe]:
    """Questions about facts of the split "dev", which no edit touches, the nearest to an edit first."""
    import numpy as np

    edited = {case.edit.subject for case in cases}
    free = [f for f in facts if f.split == "dev" and f.subject not in edited]
    rng = random.Random(f"near/{seed}")
    texts = [rng.choice(relations()[f.relation].held_out_probes).format(s=f.subject) for f in free]
    there = encode([view for case in cases for view in views(case.edit)])
    nearest = (np.asarray(encode(texts)) @ np.asarray(there).T).max(1)
    order = np.argsort(-nearest, kind="stable")
    return [Probe(texts[i], (free[i].object,), "near_miss") for i in order]
