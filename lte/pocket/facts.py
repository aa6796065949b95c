"""Read the facts of CounterFact records: who, which relation, what; the wording stays behind."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

CONTINENTS = frozenset({"Antarctica", "Africa", "Asia", "Europe", "Oceania"})
INSTRUMENTS = frozenset({"piano", "guitar", "violin", "trumpet", "cello", "saxophone", "organ", "flute", "harp"})
FAMILIES = ({"P103", "P1412", "P364", "P37"}, {"P30", "P17", "P131"})  # one's answer bears on the other's
SURE_COUNTRY = re.compile(r"citizen|the country of")  # prompts that only a country answers


@dataclass(frozen=True)
class Relation:
    """A relation and its phrasings; `{s}` is the subject, `{o}` the object, and every statement ends in `{o}`."""

    id: str
    about: str
    name: str
    match: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    objects: str | None = None

    @property
    def clozes(self) -> tuple[str, ...]:
        """The statements without their object: what a user types who wants the sentence finished."""
        return tuple(s.removesuffix("{o}").rstrip() for s in self.statements)

    @property
    def probes(self) -> tuple[str, ...]:
        """Every trained way of asking: clozes, then questions."""
        return self.clozes + self.questions

    @property
    def held_out_probes(self) -> tuple[str, ...]:
        """The ways of asking that are never trained on."""
        return tuple(p.removesuffix("{o}").rstrip() for p in self.held_out)


@dataclass(frozen=True)
class Fact:
    """`subject` --`relation`--> `object`; `split` says what it is used for besides pre-training: align, dev or eval."""

    subject: str
    relation: str
    object: str
    split: str = ""


@lru_cache(maxsize=1)
def relations() -> dict[str, Relation]:
    """The relations of `relations.yaml`, by Wikidata id, in the file's order."""
    rows = yaml.safe_load(files(__package__).joinpath("relations.yaml").read_text(encoding="utf-8"))
    tuples = ("match", "statements", "questions", "held_out")
    made: dict[str, Relation] = {}
    for row in rows:
        settings: dict[str, Any] = {k: tuple(v) if k in tuples else v for k, v in row.items()}
        made[row["id"]] = Relation(**settings)
    return made


def relations_like(relation: Relation) -> list[Relation]:
    """The relations of the same kind of subject whose answers are not given by `relation`'s, itself among them not."""
    family = next((f for f in FAMILIES if relation.id in f), {relation.id})
    return [r for r in relations().values() if r.about == relation.about and r.id not in family]


def read_facts(path: Path) -> list[Fact]:
    """Every fact of a CounterFact file (reduced schema) whose relation is certain; one object each."""
    records = json.loads(Path(path).read_text(encoding="utf-8"))
    countries = {r["ground_truth"] for r in records if SURE_COUNTRY.search(r["prompt"])} - CONTINENTS
    kinds = {"continent": CONTINENTS, "instrument": INSTRUMENTS, "country": countries}
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in records:
        relation = _relation_of(record, kinds)
        if relation is not None:
            found[record["subject"], relation].add(record["ground_truth"])
    return [Fact(s, r, min(objects)) for (s, r), objects in sorted(found.items()) if len(objects) == 1]


def _relation_of(record: dict[str, str], kinds: Mapping[str, Collection[str]]) -> str | None:
    if record["subject"] not in record["prompt"]:
        return None
    frame = record["prompt"].replace(record["subject"], "{}", 1)
    for relation in relations().values():
        fits = relation.objects is None or record["ground_truth"] in kinds[relation.objects]
        if fits and any(re.search(pattern, frame) for pattern in relation.match):
            return relation.id
    return None


def choose(aligned: Sequence[Fact], tested: Sequence[Fact], n: int, per_relation: int, seed: int) -> list[Fact]:
    """About `n` facts, half from each list, at most `per_relation` of a relation in a half, with their splits.

    A subject of `tested` never gets the split "align", so alignment sees no subject of an evaluation case. A subject
    comes with all its facts: those with several make near misses.
    """
    held = {f.subject for f in tested}
    halves = ([f for f in aligned if f.subject not in held], list(tested))
    chosen: list[Fact] = []
    for half, splits in zip(halves, (("align",), ("eval", "eval", "eval", "dev")), strict=True):
        rng = random.Random(seed)
        by_subject: dict[str, list[Fact]] = defaultdict(list)
        for fact in half:
            by_subject[fact.subject].append(fact)
        subjects = sorted(by_subject)
        rng.shuffle(subjects)
        subjects.sort(key=lambda s: -len(by_subject[s]))
        count: dict[str, int] = defaultdict(int)
        taken: list[Fact] = []
        for subject in subjects:
            group = by_subject[subject]
            if len(taken) + len(group) <= n // 2 and all(count[f.relation] < per_relation for f in group):
                split = rng.choice(splits)
                taken += [Fact(f.subject, f.relation, f.object, split) for f in group]
                for fact in group:
                    count[fact.relation] += 1
        chosen += taken
    return sorted(chosen, key=lambda f: (f.split, f.relation, f.subject))


def write_facts(path: Path, facts: Iterable[Fact]) -> None:
    """One fact a line: split, relation, subject, object, between tabs."""
    rows = (f"{f.split}\t{f.relation}\t{f.subject}\t{f.object}\n" for f in facts)
    path.write_text("".join(rows), encoding="utf-8")


def load_facts(path: Path) -> list[Fact]:
    """The facts that `write_facts` wrote."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return [Fact(subject, relation, object, split) for split, relation, subject, object in rows]
