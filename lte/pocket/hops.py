"""Questions one hop on from an edit of the pocket cases: what is known of its object, asked by its subject."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import yaml

from lte.edits import Case, Probe
from lte.pocket.facts import Fact, relations

MET, NEW = "bridge_met", "bridge_new"  # aspects: whether training asks for the second fact too


@dataclass(frozen=True)
class Wordings:
    """What an edit's object is called by its subject, by relation, and which relations are asked of it."""

    bridges: dict[str, tuple[str, ...]]
    second: tuple[str, ...]


@lru_cache(maxsize=1)
def wordings() -> Wordings:
    """Those of `hops.yaml`."""
    found = yaml.safe_load(files(__package__).joinpath("hops.yaml").read_text(encoding="utf-8"))
    return Wordings({name: tuple(texts) for name, texts in found["bridges"].items()}, tuple(found["second"]))


@dataclass
class Hops:
    """What the model knows of objects that are subjects too.

    Training asks for facts of the splits "align" and "dev"; evaluation also for those of "eval".
    """

    known: dict[str, list[Fact]]

    @classmethod
    def of(cls, facts: Iterable[Fact], splits: Collection[str] = ("align", "dev")) -> Hops:
        """The facts of these splits that can be asked of an edit's object."""
        known: dict[str, list[Fact]] = defaultdict(list)
        for fact in facts:
            if fact.split in splits and fact.relation in wordings().second:
                known[fact.subject].append(fact)
        return cls(dict(known))

    def probes(self, case: Case, aspect: str, held_out: bool, most: int, seed: int) -> list[Probe]:
        """At most `most` questions about what a case's edit leads to; none where the answer was the same before it.

        Each has the second fact, asked for alone, as what the unedited model has to know (`given`).
        """
        new, old, relation = case.edit.target_new, case.edit.target_true, case.tags.get("relation", "")
        if relation not in wordings().bridges or not case.edit.subject:
            return []
        rng = random.Random(f"hops/{seed}/{case.id}/{case.edit.subject}")
        before = {(f.relation, f.object) for f in self.known.get(old or "", ())}
        *trained, unseen = wordings().bridges[relation]
        asked = [
            (fact, question, bridge)
            for fact in self.known.get(new, ())
            if (fact.relation, fact.object) not in before
            for question in (
                relations()[fact.relation].held_out_probes if held_out else relations()[fact.relation].probes
            )
            for bridge in ((unseen,) if held_out else trained)
            if not question.startswith("{s}'")  # "the country of X's capital" says another thing
        ]
        made = []
        for fact, question, bridge in rng.sample(asked, min(most, len(asked))):
            alone = relations()[fact.relation].clozes[0].format(s=fact.subject)
            text = question.format(s=bridge.format(s=case.edit.subject))
            made.append(Probe(_sentence(text), (fact.object,), aspect, given=(Probe(alone, (fact.object,)),)))
        return made


def led_on(cases: Sequence[Case], facts: Sequence[Fact], share: float, most: int, seed: int) -> list[Case]:
    """Cases to align on with questions one hop on; by chance `share`, a case gets a new object that leads somewhere.

    Of the cases' own new objects, few are subjects of a known fact.
    """
    hops = Hops.of(facts)
    objects = {r: sorted({f.object for f in facts if f.relation == r} & set(hops.known)) for r in relations()}
    made = []
    for case in cases:
        rng = random.Random(f"led on/{seed}/{case.id}/{case.edit.subject}")
        relation = case.tags.get("relation", "")
        others = [o for o in objects.get(relation, ()) if o != case.edit.target_true]
        if relation in wordings().bridges and others and rng.random() < share:
            case = _aimed(case, rng.choice(others))
        made.append(replace(case, portability=tuple(hops.probes(case, "", False, most, seed))))
    return made


def _aimed(case: Case, target: str) -> Case:
    """The case with another new object."""
    return replace(
        case,
        edit=replace(case.edit, target_new=target),
        generalization=tuple(replace(p, answers=(target,)) for p in case.generalization),
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
