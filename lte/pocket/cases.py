"""Cases about known facts, in our own wording: to align on, and, with phrasings never trained on, to evaluate on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from lte.edits import Case, Edit, Probe
from lte.pocket.facts import Fact, relations, relations_like


def build_cases(facts: Sequence[Fact], split: str, seed: int, held_out: bool) -> list[Case]:
    """A case for each fact of `split`: another object of the relation becomes the new answer.

    Neighbours of evaluation cases are facts of the split "dev", which no edit touches: all edits of the cases may be in
    force together, and a neighbour that another edit concerns would have no right answer.

    held_out=False  (alignment) the edit and its rephrasings in trained phrasings, drawn anew for each case
    held_out=True   (evaluation) the edit in the relation's first phrasing, its rephrasings in those never trained on

    Locality asks, by aspect: `same_relation`, another subject (with the same object where there is one, as in
    CounterFact); `same_subject`, another relation of the subject; `unrelated`, another fact of another relation.
    """
    chosen = [f for f in facts if f.split == split]
    untouched = [f for f in facts if f.split == "dev"] if held_out else chosen
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in untouched:
        by_relation[fact.relation].append(fact)
    for fact in chosen:
        by_subject[fact.subject].append(fact)
    objects = {r: sorted({f.object for f in facts if f.relation == r}) for r in relations()}
    cases: list[Case] = []
    for fact in chosen:
        rng = random.Random(f"{seed}/{split}/{fact.subject}/{fact.relation}")
        relation = relations()[fact.relation]
        others = [o for o in objects[fact.relation] if o.casefold() != fact.object.casefold()]
        if not others:
            continue
        phrasings = list(relation.held_out_probes if held_out else relation.probes)
        asked = relation.clozes[0] if held_out else phrasings.pop(rng.randrange(len(phrasings)))
        rephrased = phrasings if held_out else rng.sample(phrasings, 3)
        edit = Edit(asked.format(s=fact.subject), rng.choice(others), fact.subject, fact.object)
        same = [f for f in by_relation[fact.relation] if f.subject != fact.subject]
        neighbours = [f for f in same if f.object == fact.object and f.object != edit.target_new] or same
        drawn = rng.choices(untouched, k=8) if untouched else []
        elsewhere = [f for f in drawn if f.relation != fact.relation and f.subject != fact.subject]
        locality = [
            *(_ask(f, "same_relation", rng, held_out) for f in rng.sample(neighbours, min(2, len(neighbours)))),
            *_same_subject(fact, by_subject[fact.subject], rng, held_out),
            *(_ask(f, "unrelated", rng, held_out) for f in elsewhere[:1]),
        ]
        cases.append(
            Case(
                id=f"{fact.relation}-{len(cases):05d}",
                edit=edit,
                generalization=tuple(Probe(p.format(s=fact.subject), (edit.target_new,)) for p in rephrased),
                locality=tuple(locality),
                tags={"relation": fact.relation},
            )
        )
    return cases


def _ask(fact: Fact, aspect: str, rng: random.Random, held_out: bool) -> Probe:
    relation = relations()[fact.relation]
    phrasing = rng.choice(relation.held_out_probes if held_out else relation.probes)
    return Probe(phrasing.format(s=fact.subject), (fact.object,), aspect)


def _same_subject(fact: Fact, known: Sequence[Fact], rng: random.Random, held_out: bool) -> list[Probe]:
    """A question about the subject that the edit does not answer: a known fact, or, to align on, one of its kind.

    What a model says where it knows nothing is no fact to preserve, so evaluation does not ask for it.
    """
    if other := [f for f in known if f.relation != fact.relation]:
        return [_ask(rng.choice(other), "same_subject", rng, held_out)]
    if held_out or rng.random() < 0.5:
        return []
    relation = rng.choice(relations_like(relations()[fact.relation]))
    return [Probe(rng.choice(relation.probes).format(s=fact.subject), (), "same_subject")]
