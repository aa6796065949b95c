"""What the shipped scope check learns from: questions that an edit answers, and some near it that it does not."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lte.edits import Edit, read_cases
from lte.memory.scope_rows import CHOOSE, FIT, HELD_OUT, ScopeRow
from lte.pocket import home
from lte.pocket.facts import relations, relations_like

BE = re.compile(r"\b(is|was|are|were|has been|can|may|does|did|will)\b(?!.*\b(?:is|was|are|were|can|does|did)\b)", re.S)
# relations whose answers bear on each other though neither file says so
AKIN = (
    {"P131", "county"}, {"P131", "P17", "P30", "neighbour", "sea", "river"}, {"P1412", "P103", "language_learned"},
    {"P178", "P176", "author", "founder", "producer", "publisher", "discoverer"}, {"ceo", "chairperson", "founder"},
    {"P127", "subsidiary"}, {"head_of_state", "mayor", "P36"}, {"date", "release_date", "founded_when"},
    {"series", "sequel", "prequel"}, {"P106", "P101", "P39", "military_rank"}, {"residence", "P937"},
    {"P136", "style"}, {"P641", "sports_team", "P413"}, {"award", "nickname"}, {"main_character", "cast"},
    {"P1303", "P136", "voice"}, {"P495", "setting"}, {"P138", "nickname"}, {"P264", "publisher", "agent"},
)  # fmt: skip
PLACES, LANGUAGES = {"P19", "P20", "P27", "P36", "P190", "P131", "P17", "P159", "P495", "P937"}, {"P103", "P37", "P364"}


@dataclass(frozen=True)
class Asked:
    """A relation in words: `{s}` in each; the last fifth of the wordings, two at least, is held out."""

    id: str
    about: str
    wordings: tuple[str, ...]
    held_out: bool = False

    def of(self, part: str) -> tuple[str, ...]:
        """The wordings of a part."""
        if part == FIT:
            return self.wordings[: -max(2, len(self.wordings) // 5)]
        return self.wordings


@lru_cache(maxsize=1)
def wordings() -> dict[str, Any]:
    """What scope.yaml says."""
    return dict(yaml.safe_load(files(__package__).joinpath("scope.yaml").read_text(encoding="utf-8")))


def asked(held_out: bool = False) -> dict[str, Asked]:
    """Every relation, by name; where wanted, one of five is held out whole."""
    found = {r.id: Asked(r.id, r.about, (*r.probes, *r.held_out_probes)) for r in relations().values()}
    for about, named in wordings()["relations"].items():
        found |= {name: Asked(name, about, tuple(texts)) for name, texts in named.items()}
    return {name: replace(one, held_out=held_out and i % 5 == 4) for i, (name, one) in enumerate(found.items())}


def scope_rows(cases: Path, seed: int = 0, most: int = 600, unseen: bool = False) -> list[ScopeRow]:
    """Rows about edits of the cases' subjects: as each case has it, and one of scope.yaml's relations.

    A subject stands in one part only. In the part "fit" no relation, wording or way to turn a question occurs that is
    held out; the other parts have those, and by chance others.

    unseen  hold whole relations out of "fit" and "choose" too
    """
    maker = _Maker(random.Random(seed), asked(unseen))
    rows: list[ScopeRow] = []
    done: set[str] = set()
    for case in read_cases(cases):
        if case.edit.subject in done or len(done) >= most:
            continue
        done.add(case.edit.subject)
        maker.subjects.setdefault(maker.relations[case.tags["relation"]].about, []).append(case.edit.subject)
        maker.objects.append(case.edit.target_new)
        maker.told.append((case.edit.subject, case.tags["relation"]))
    for i, (subject, relation) in enumerate(maker.told):
        part = FIT if i % 5 < 3 else CHOOSE if i % 5 == 3 else HELD_OUT
        rows += maker.edit(subject, relation, part)
    return rows


class _Maker:
    def __init__(self, rng: random.Random, relations: dict[str, Asked]) -> None:
        self.rng, self.relations = rng, relations
        self.subjects: dict[str, list[str]] = {}
        self.objects: list[str] = []
        self.told: list[tuple[str, str]] = []

    def some(self, name: str, part: str) -> str:
        """A way of saying: in the part "fit" one that may be learned."""
        ways = wordings()[name]
        among = ways["fit"] if part == FIT or self.rng.random() < 0.3 else ways["held_out"]
        return str(self.rng.choice(among))

    def edit(self, subject: str, relation: str, part: str) -> list[ScopeRow]:
        """The rows of one edit of a subject, half of the time of another relation that such a subject may have."""
        about = self.relations[relation].about
        may = [r for r in self.relations.values() if r.about == about and (part == HELD_OUT or not r.held_out)]
        unseen = [r for r in may if r.held_out]
        chosen = self.rng.choice(unseen if unseen and self.rng.random() < 0.3 else may)
        if chosen not in may or (self.relations[relation] in may and self.rng.random() < 0.3):
            chosen = self.relations[relation]
        other = [r for r in may if r.id != chosen.id and not _akin(r.id, chosen.id)]
        ways = chosen.of(part)
        prompt, o = self.rng.choice(ways), self.rng.choice(self.objects)
        edit = Edit(prompt.format(s=subject), o, subject)
        alias = _alias(subject)
        aliased = replace(edit, aliases=(alias,)) if alias and self.rng.random() < 0.25 else edit
        rows: list[ScopeRow] = []

        def add(query: str, inside: bool, kind: str) -> None:
            rows.append(ScopeRow(" ".join(query.split()), aliased, inside, kind, part, chosen.id))

        rest = [w for w in ways if w != prompt]
        add(prompt.format(s=subject), True, "rewrite")
        for way in self.rng.sample(rest, min(4, len(rest))):
            add(self.dressed(way, subject, part), True, "paraphrase")
        if aliased.aliases:
            add(self.dressed(self.rng.choice(ways), aliased.aliases[0], part), True, "alias")
        if self.rng.random() < 0.7:
            add(self.hop(chosen, subject, part) or prompt.format(s=subject), True, "one_hop")
        for one in self.rng.sample(other, min(5, len(other))):
            add(self.dressed(self.rng.choice(one.of(part)), subject, part), False, "same_subject")
        # the neighbours of an edit that are hardest to tell are those whose words are nearest; some of these at random
        for _ in range(2):
            someone = self.rng.choice(self.subjects[about])
            if someone != subject:
                add(self.dressed(self.rng.choice(ways), someone, part), False, "same_relation")
        for _ in range(3):
            way = prompt if self.rng.random() < 0.4 else self.rng.choice(ways)
            add(self.turned(way, subject, o, part), False, "negation")
        if prompt[-1] != "?":
            blank = prompt.format(s="____")
            add(self.some("reversed", part).format(o=o, blank=blank), False, "reversed")
        ways_near = wordings()["near"][about]
        for _ in range(2):
            near = self.rng.choice(ways_near["fit" if part == FIT else "held_out"]).format(s=subject)
            add(self.dressed(self.rng.choice(ways), near, part), False, "near_miss")
        for _ in range(2):
            add(self.elsewhere(chosen, other, subject, part), False, "elsewhere")
        someone, what = self.rng.choice(self.told)
        if someone != subject:
            add(self.dressed(self.rng.choice(self.relations[what].of(part)), someone, part), False, "unrelated")
        return rows

    def dressed(self, way: str, subject: str, part: str) -> str:
        """A wording about a subject; half of the time with words around it that change nothing."""
        plain, chance = way.format(s=subject), self.rng.random()
        if chance < 0.25:
            return f"{self.before(part)} {plain}"
        if chance < 0.4:
            return self.some("polite", part).format(q=plain)
        if chance < 0.5 and "{s}'s" not in way and plain.endswith("?"):
            this = self.rng.choice(("this one", "it", "that one", "them"))
            return self.some("pronoun", part).format(s=subject, asked=way.format(s=this))
        return plain

    def before(self, part: str) -> str:
        """A sentence that has nothing to do with the question."""
        if self.rng.random() < 0.5:
            return self.some("before", part)
        return self.statement(*self.rng.choice(self.told), part)

    def statement(self, subject: str, relation: str, part: str) -> str:
        """A sentence about a subject."""
        clozes = [w for w in self.relations[relation].of(part) if not w.endswith("?")]
        return f"{self.rng.choice(clozes).format(s=subject)} {self.rng.choice(self.objects)}."

    def turned(self, way: str, subject: str, o: str, part: str) -> str:
        """A question that the edit answers only the other way round."""
        denials = wordings()["denials"]["fit" if part == FIT else "held_out"]
        plain = way.format(s=subject)
        said = {"q": plain, "o": o, "not": denied(way, self.rng.choice(denials)).format(s=subject)}
        return self.some("negated", part).format(**said)

    def elsewhere(self, chosen: Asked, other: Sequence[Asked], subject: str, part: str) -> str:
        """A query that names the subject and asks for something else, or for somebody else."""
        about = self.rng.choice((chosen, chosen, self.rng.choice(other)))
        clozes = [w for w in about.of(part) if not w.endswith("?")] or list(about.of(part))
        told = f"{self.rng.choice(clozes).format(s=subject)} {self.rng.choice(self.objects)}."
        someone = self.rng.choice(self.subjects[chosen.about])
        what = chosen if self.rng.random() < 0.6 else self.rng.choice(other)
        asks = self.rng.choice(what.of(part)).format(s=someone if someone != subject else "my neighbour")
        return self.some("elsewhere", part).format(told=told, s=subject, other=asks)

    def hop(self, chosen: Asked, subject: str, part: str) -> str:
        """A question about what the relation of the subject is, where a wording gives a noun for it; else nothing."""
        nouns = [m[1] for w in chosen.of(part) if (m := re.fullmatch(r"(The .*\{s\}|\{s\}'s .*) (?:is|was|are)", w))]
        nouns = [n for n in nouns if len(n.split()) < 8]
        if not nouns:
            return ""
        noun = self.rng.choice(nouns).format(s=subject)
        kind = "place" if chosen.id in PLACES else "language" if chosen.id in LANGUAGES else "other"
        ways = wordings()["hop"][kind]["fit" if part == FIT else "held_out"]
        return str(self.rng.choice(ways)).format(np="the" + noun[3:] if noun.startswith("The ") else noun)


def denied(way: str, word: str) -> str:
    """A wording with its verb denied: "{s} is not owned by", "Which language does {s} never speak?"."""
    if (found := BE.search(way)) and found[1] in ("does", "did"):
        return way.replace("{s}", "{s} " + word, 1)
    if found:
        return f"{way[: found.end()]} {word}{way[found.end() :]}"
    return way.replace("{s}", "{s} " + word, 1)


def _akin(one: str, other: str) -> bool:
    known = relations()
    if one in known and other in known and known[other] not in relations_like(known[one]):
        return True
    return any({one, other} <= group for group in AKIN)


def _alias(subject: str) -> str:
    """Another name made of the subject's words, where it has several: the initial and the last word."""
    said = subject.split()
    return f"{said[0][0]}. {said[-1]}" if len(said) > 1 and said[0][0].isalpha() else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the rows, one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m lte.pocket.scope", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the file to write (JSONL)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subjects", type=int, default=600, help="edits to make rows of, at most")
    parser.add_argument("--unseen", action="store_true", help="hold one relation of five out of what is fitted on")
    chosen = parser.parse_args(arguments)
    rows = scope_rows(home() / "align.jsonl", chosen.seed, chosen.subjects, chosen.unseen)
    chosen.output.write_text("".join(row.text + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
