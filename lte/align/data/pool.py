"""The edits of all items, to be put beside each other."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from lte.align.leaks import words
from lte.align.sources import Item, Stated
from lte.edits import Case, Edit


@dataclass(frozen=True)
class Known:
    """An edit as the pool holds it; `owner` is the number of its item, `subject` is "" where the source names none."""

    statement: str
    prompt: str
    subject: str
    relation: str
    true: str | None
    owner: int
    aliases: tuple[str, ...] = ()

    def named_in(self, text: str) -> bool:
        """Whether its subject or an alias stands in a text, in whatever case."""
        return any(name and name.casefold() in text for name in (self.subject, *self.aliases))


class Pool:
    """At most `most` edits, drawn evenly from all that came."""

    def __init__(self, items: Iterable[Item], most: int, seed: int) -> None:
        rng, n = random.Random(f"{seed}:pool"), 0
        self.all: list[Known] = []
        for owner, item in enumerate(items):
            for known in knowns(item, owner):
                n += 1
                if len(self.all) < most:
                    self.all.append(known)
                elif (place := rng.randrange(n)) < most:
                    self.all[place] = known
        self.kin: dict[str, list[Known]] = defaultdict(list)
        for known in self.all:
            if known.relation:
                self.kin[known.relation].append(known)

    def draw(self, owner: int, query: str, relation: str, n: int, near: float, rng: random.Random) -> list[Known]:
        """`n` edits of other items, no subject twice and none that the query names; fewer where there are not as many.

        near  chance that one is of `relation`
        """
        found: list[Known] = []
        taken: set[tuple[str, ...]] = set()
        for _ in range(8 * n if self.all else 0):
            kin = self.kin.get(relation) if rng.random() < near else None
            known = rng.choice(kin or self.all)
            about = words(known.subject or known.statement)
            if len(found) < n and about not in taken and may_stand(known, owner, query):
                taken.add(about)
                found.append(known)
        return found

    def other(self, owner: int, names: str, relation: str, kin: bool, rng: random.Random) -> Known | None:
        """An edit of another item whose prompt can be asked: of `relation`, or, without `kin`, of any but that."""
        among = self.kin.get(relation, []) if kin else self.all
        for _ in range(8 if among else 0):
            known = rng.choice(among)
            if known.prompt and (kin or known.relation != relation) and may_stand(known, owner, names):
                return known
        return None

    def about(self, owner: int, subject: str, relation: str, rng: random.Random) -> str | None:
        """What another item's edit asks, asked of `subject`: a question of another relation than `relation`."""
        for _ in range(8 if self.all and subject else 0):
            known = rng.choice(self.all)
            if known.owner != owner and known.relation != relation and known.subject and known.subject in known.prompt:
                return known.prompt.replace(known.subject, subject)
        return None


def may_stand(known: Known, owner: int, query: str) -> bool:
    """Whether an edit may stand above a question that it must not concern: of another item, its subject unnamed."""
    return known.owner != owner and not known.named_in(query.casefold())


def knowns(item: Item, owner: int) -> list[Known]:
    """The edits of an item."""
    if isinstance(item, Stated):
        return [Known(s, "", "", "", None, owner) for s in item.statements]
    return [
        Known(e.statement, e.prompt, e.subject, relation_of(item, e), e.target_true, owner, e.aliases)
        for e in item.edits
    ]


def relation_of(case: Case, edit: Edit) -> str:
    """The relation of an edit: the case's, where it names one, else the prompt's words around the subject."""
    if "relation" in case.tags:
        return case.tags["relation"]
    inside = edit.subject and edit.subject in edit.prompt
    return edit.prompt.replace(edit.subject, "{}") if inside else ""
