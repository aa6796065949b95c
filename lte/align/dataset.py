"""The parallel dataset: the same questions with edits that concern them, with edits that do not, and with none.

Learning to Edit (Jiang et al., arXiv:2402.11905) pairs in-scope and out-of-scope examples. We leave it in four places,
each where the published builder loses locality: the answer to an out-of-scope question is the model's *own*, not gold
text; the edits of a prompt are shuffled, so the true one is not always first; near misses (same subject, another
relation; same relation, another subject) are sought and not removed; and some prompts hold only distractors.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from pydantic import Field

from lte.config import Config
from lte.edits import Case, Edit
from lte.prompt import with_edits


class AlignError(ValueError):
    """A dataset or a run that cannot be used; the message names the remedy."""


class Answers(Protocol):
    """What the builder needs of a model: its own greedy answers."""

    def answer(self, queries: Sequence[str]) -> list[str]:
        """The model's answer to each query."""
        ...


class DatasetConfig(Config):
    """How much of each role a case gives, and how many edits stand around the true one."""

    in_scope: int = Field(3, ge=0)  # questions that the edit answers, a case
    same_subject: int = Field(1, ge=0)  # the edit stands, another relation of its subject is asked
    same_relation: int = Field(1, ge=0)  # edits stand, the same relation of another subject is asked
    unrelated: int = Field(1, ge=0)  # edits stand, something else is asked
    twins: int = Field(1, ge=0)  # questions without any edit
    distractors: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)  # chance of 0, 1, 2, 3 edits beside the true one
    near: float = Field(0.5, ge=0, le=1)  # chance that a distractor shares the relation
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One example: the user's turn as the model will read it, the answer to learn, and what it is there for."""

    prompt: str
    answer: str
    role: str


@dataclass(frozen=True)
class _Draft:
    """A row before its answer: `answer=None` is to be filled with the model's own."""

    edits: tuple[Edit, ...]
    query: str
    answer: str | None
    role: str


def build(cases: Sequence[Case], model: Answers, config: DatasetConfig) -> list[Row]:
    """The rows of all cases, shuffled by the seed; the model is asked once for all its own answers.

    Raises `AlignError` when fewer than two subjects are at hand: a distractor needs another one.
    """
    if len({c.edit.subject for c in cases}) < 2:
        raise AlignError(f"{len(cases)} cases about fewer than two subjects; distractors need edits of other subjects")
    rng = random.Random(config.seed)
    neighbours = _Neighbours(cases)
    drafts = [d for case in cases for d in _drafts(case, neighbours, config, rng)]
    unanswered = sorted({d.query for d in drafts if d.answer is None})
    own = dict(zip(unanswered, model.answer(unanswered), strict=True))
    rows = []
    for draft in drafts:
        answer = own[draft.query] if draft.answer is None else draft.answer
        edits = rng.sample(draft.edits, len(draft.edits))
        if answer.strip():
            rows.append(Row(with_edits([e.statement for e in edits], draft.query), answer, draft.role))
    rng.shuffle(rows)
    return rows


def refuse_leaks(cases: Sequence[Case], held_out: Iterable[Case]) -> None:
    """Raise `AlignError` when a subject of an evaluation case is among those to align on."""
    subjects = {c.edit.subject.casefold() for c in held_out if c.edit.subject}
    if leaked := sorted({c.edit.subject for c in cases if c.edit.subject.casefold() in subjects}):
        raise AlignError(
            f"{len(leaked)} subjects of the evaluation cases are in the alignment cases, e.g. {leaked[:3]}; "
            "remove them, or evaluate on other cases"
        )


def describe(rows: Sequence[Row]) -> dict[str, object]:
    """How many rows of each role there are, and the hash of them all."""
    digest = hashlib.sha256(json.dumps([asdict(r) for r in rows]).encode()).hexdigest()
    return {"rows": len(rows), "roles": dict(sorted(Counter(r.role for r in rows).items())), "sha256": digest}


class _Neighbours:
    """Edits to put beside a case's own: of the same relation, or of any other case."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.all = list(cases)
        self.kin: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            self.kin[case.tags.get("relation", "")].append(case)

    def draw(self, case: Case, n: int, near: float, rng: random.Random) -> tuple[Edit, ...]:
        """`n` edits about other subjects, no subject twice; fewer where the cases do not hold as many."""
        taken: set[str] = {case.edit.subject}
        found: list[Edit] = []
        for _ in range(8 * n):
            kin = self.kin[case.tags.get("relation", "")]
            edit = rng.choice(kin if rng.random() < near else self.all).edit
            if len(found) < n and edit.subject not in taken:
                taken.add(edit.subject)
                found.append(edit)
        return tuple(found)


def _drafts(case: Case, others: _Neighbours, config: DatasetConfig, rng: random.Random) -> list[_Draft]:
    def around(least: int = 0) -> tuple[Edit, ...]:
        n = rng.choices(range(len(config.distractors)), config.distractors)[0]
        return others.draw(case, max(n, least), config.near, rng)

    probes: list[tuple[str, tuple[str, ...]]] = [(case.edit.prompt, (case.edit.target_new,))]
    probes += [(p.prompt, p.answers or (case.edit.target_new,)) for p in case.generalization]
    probes += [(p.prompt, p.answers) for p in case.portability if p.answers]
    drafts = [
        _Draft((case.edit, *around()), query, answers[0], "in scope")
        for query, answers in rng.sample(probes, min(config.in_scope, len(probes)))
    ]
    by_aspect: dict[str, list[str]] = defaultdict(list)
    for probe in case.locality:
        by_aspect[probe.aspect if probe.aspect in ("same_subject", "same_relation") else "unrelated"].append(
            probe.prompt
        )
    for role in ("same_subject", "same_relation", "unrelated"):
        queries = by_aspect[role]
        for query in rng.sample(queries, min(getattr(config, role), len(queries))):
            drafts.append(_Draft((case.edit, *around()), query, None, role.replace("_", " ")))
    own = [query for query, _ in probes[: 1 + len(case.generalization)]]
    drafts.append(_Draft(around(least=1), rng.choice(own), None, "true edit absent"))
    for query in rng.sample(own, min(config.twins, len(own))):
        drafts.append(_Draft((), query, None, "twin without edit"))
    return drafts
