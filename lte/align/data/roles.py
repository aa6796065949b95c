"""What an item gives the dataset: questions that its edits answer, questions that they do not, and instructions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lte.align.data.config import DataConfig
from lte.align.data.pool import Pool, relation_of
from lte.align.sources import Item, Stated
from lte.edits import Case, Edit, Probe
from lte.prompt import with_edits

IN_SCOPE = ("rewrite", "paraphrase", "alias", "one_hop", "multi_edit", "question")
OUT_OF_SCOPE = ("unrelated", "same_subject", "same_relation", "negated", "near_miss", "absent")
GENERAL = ("general", "general_edited")
TWIN = "twin"
ROLES = (*IN_SCOPE, *OUT_OF_SCOPE, *GENERAL, TWIN)
# what the benchmarks call their aspects
ALIASED = ("Subject_Aliasing",)
SUBJECT_KEPT = ("same_subject", "Relation_Specificity")
RELATION_KEPT = ("same_relation", "neighborhood", "attribute")
UNCHANGED_HOP = "Single_Hop"  # MQuAKE: a fact beside the edit, which the chain needs and no edit states

Asked = tuple[str, str | None]  # a question and its gold answer, where the source has one


@dataclass(frozen=True)
class Draft:
    """A row before its target.

    needed   the statements without which the question has another answer; they are among `statements`
    gold     the source's answer
    own      whether the base model's own answer is learned, and not `gold`
    nearest  how many edits the encoder still has to find for it
    """

    source: str
    item: str
    owner: int
    role: str
    query: str
    gold: str | None
    own: bool
    statements: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    nearest: int = 0

    @property
    def prompt(self) -> str:
        """The user's turn as the model will read it."""
        return with_edits(self.statements, self.query)


def drafts(owner: int, source: str, item: Item, pool: Pool, config: DataConfig) -> list[Draft]:
    """The drafts of the `owner`th item; the same ones whatever other items were asked before it."""
    rng = random.Random(f"{config.seed}:{source}:{owner}")
    maker = _Maker(owner, source, item.id, pool, config, rng)
    made = maker.stated(item) if isinstance(item, Stated) else maker.case(item)
    return [*made, *maker.twins(made)]


@dataclass
class _Maker:
    owner: int
    source: str
    item: str
    pool: Pool
    config: DataConfig
    rng: random.Random

    def case(self, case: Case) -> list[Draft]:
        own = tuple(e.statement for e in case.edits)
        relation = relation_of(case, case.edit)
        asked = in_scope(case)
        made = [self.draft(role, one, own, relation) for role in IN_SCOPE for one in self.some(role, asked[role])]
        apart = out_of_scope(case)
        for role, kin in (("same_relation", True), ("unrelated", False)):
            # a case that probes neither is asked what another one states
            if not apart[role] and (known := self.pool.other(self.owner, _names(case), relation, kin, self.rng)):
                apart[role] = [(known.prompt, known.true)]
        if self.own("same_subject"):  # whatever the model says to it is its own answer: no source need know one
            short = math.ceil(self.config.rates.same_subject) - len(apart["same_subject"])
            more = (self.pool.about(self.owner, case.edit.subject, relation, self.rng) for _ in range(short))
            apart["same_subject"] += [(query, None) for query in dict.fromkeys(more) if query]
        apart["negated"] = turned(case.edit, self.config.negated)
        for role in ("same_subject", "same_relation", "unrelated", "negated"):
            made += [self.draft(role, one, own, relation) for one in self.some(role, apart[role])]
        plain = [(q, case.edit.target_true) for q, _ in (*asked["rewrite"], *asked["paraphrase"])]
        made += [self.draft("absent", one, (), relation, least=1) for one in self.some("absent", plain)]
        missed = [*plain, *apart["same_subject"], *apart["same_relation"], *apart["unrelated"]]
        for query, gold in self.some("near_miss", missed):
            made.append(replace(self.draft("near_miss", (query, gold), (), most=0), nearest=self.count(1)))
        return [d for d in made if d.statements or d.nearest]

    def stated(self, item: Stated) -> list[Draft]:
        one = (item.query, item.answer or None)
        if item.scope == "general":
            made = [self.draft("general", one, (), most=0) for _ in self.some("general", [one])]
            edited = [self.draft("general_edited", one, (), least=1) for _ in self.some("general_edited", [one])]
            near = [replace(self.draft("near_miss", one, (), most=0), nearest=self.count(1))
                    for _ in self.some("near_miss", [one])]  # fmt: skip
            return made + [d for d in edited if d.statements] + near
        if item.scope == "bare":
            return [self.draft(TWIN, one, (), most=0)] if self.rng.random() < self.config.rates.twin else []
        role = "question" if item.scope == "in" else "unrelated"
        return [self.draft(role, one, item.statements) for _ in self.some(role, [one])]

    def twins(self, made: Sequence[Draft]) -> list[Draft]:
        """Each question that stands below edits, by chance once more without any; no question twice."""
        below = {d.query: d for d in made if (d.statements or d.nearest) and d.role not in GENERAL}
        return [
            # an edit's answer is no gold for a question without the edit
            replace(d, role=TWIN, statements=(), needed=(), nearest=0, own=self.own(TWIN),
                    gold=None if d.role in IN_SCOPE else d.gold)
            for d in below.values()
            if self.rng.random() < self.config.rates.twin
        ]  # fmt: skip

    def some(self, role: str, among: Sequence[Asked]) -> list[Asked]:
        rate = getattr(self.config.rates, role)
        n = int(rate) + (self.rng.random() < rate % 1)
        return self.rng.sample(list(among), min(n, len(among)))

    def count(self, least: int) -> int:
        chances = self.config.distractors
        return max(least, self.rng.choices(range(len(chances)), chances)[0])

    def draft(
        self,
        role: str,
        one: Asked,
        needed: tuple[str, ...],
        relation: str = "",
        least: int = 0,
        most: int | None = None,
    ) -> Draft:
        """The draft of one question below the edits it needs and others."""
        query, gold = one
        n = self.count(least) if most is None else most
        more = self.pool.draw(self.owner, query, relation, n, self.config.near, self.rng)
        statements = [*needed, *(known.statement for known in more)]
        if self.config.order == "shuffled":
            self.rng.shuffle(statements)
        return Draft(self.source, self.item, self.owner, role, query, gold, self.own(role), tuple(statements), needed)

    def own(self, role: str) -> bool:
        """Whether the base model's own answer is the target of a role."""
        if role in IN_SCOPE:
            return False
        targets = self.config.targets
        return (targets.general if role in GENERAL else targets.out_of_scope) == "own"


def in_scope(case: Case) -> dict[str, list[Asked]]:
    """The questions that the case's edits answer, by role."""
    new = case.edit.target_new
    found: dict[str, list[Asked]] = {role: [] for role in IN_SCOPE}
    found["rewrite"] = [(e.prompt, e.target_new) for e in case.edits]
    found["paraphrase"] = [(p.prompt, p.answers[0] if p.answers else new) for p in case.generalization]
    found["alias"] = [
        (e.prompt.replace(e.subject, alias), e.target_new)
        for e in case.edits
        for alias in e.aliases
        if e.subject and e.subject in e.prompt
    ]
    for probe in case.portability:
        if probe.answers and probe.aspect != UNCHANGED_HOP:
            role = "alias" if probe.aspect in ALIASED else "multi_edit" if case.also else "one_hop"
            found[role].append((probe.prompt, probe.answers[0]))
    return found


def out_of_scope(case: Case) -> dict[str, list[Asked]]:
    """The questions that the case has and its edits do not concern, by role."""
    found: dict[str, list[Asked]] = {"same_subject": [], "same_relation": [], "unrelated": []}
    for probe in (*case.locality, *(p for p in case.portability if p.aspect == UNCHANGED_HOP)):
        found[apart(case, probe)].append((probe.prompt, probe.answers[0] if probe.answers else None))
    return found


def apart(case: Case, probe: Probe) -> str:
    """How a question is apart from the edit: by its aspect, else by whether it names the subject."""
    if probe.aspect in RELATION_KEPT:
        return "same_relation"
    named = bool(case.edit.subject) and case.edit.subject.casefold() in probe.prompt.casefold()
    return "same_subject" if probe.aspect in SUBJECT_KEPT or named else "unrelated"


def turned(edit: Edit, wordings: Sequence[str]) -> list[Asked]:
    """The edit's prompt negated or reversed; no source has an answer to it."""
    inside = bool(edit.subject) and edit.subject in edit.prompt
    blank = edit.prompt.replace(edit.subject, "____") if inside else ""
    usable = [text for text in wordings if inside or "{blank}" not in text]
    return [(text.format(prompt=edit.prompt, target=edit.target_new, blank=blank), None) for text in usable]


def _names(case: Case) -> str:
    return " ; ".join(name for e in case.edits for name in (e.subject, *e.aliases, e.prompt))
