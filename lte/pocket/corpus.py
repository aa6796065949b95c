"""What the pocket model reads: known facts, and passages about invented subjects that it must read to answer.

A document is a list of `Span`s, each with its weight in the loss. Passages state the *same* relation of several
invented subjects, and some questions behind a passage ask for a known fact that the passage does not hold: the subject
has to be matched, the type of the answer is no help. (Passages with one relation per statement teach a model to read
by answer type, which alignment cannot mend.) Questions carry loss too, and some documents only repeat random words:
both teach copying, many tokens at a time, and reading grows out of it; answers alone are too rare a lesson to start on.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lte.pocket.facts import Fact, Relation, relations, relations_like
from lte.prompt import with_edits

BOS, EOT, START, END = "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"


@dataclass(frozen=True)
class Span:
    """A piece of a document and the weight of its tokens in the loss."""

    text: str
    weight: float = 1.0


@dataclass
class Corpus:
    """An endless, seeded stream of documents over `facts`.

    `reading` is the share of passage documents, `text` that of plain statements, `repeats` that of repeated random
    words; chats about facts fill the rest.
    """

    facts: Sequence[Fact]
    reading: float = 0.5
    text: float = 0.08
    repeats: float = 0.0
    known: float = 0.25  # share of the questions behind a passage that ask for a fact the passage does not hold
    verbatim: float = 0.3  # share of the questions that repeat the words of the statement
    profiles: float = 0.0  # share of passages that tell several things of one subject
    bystanders: float = 0.0  # share of passages that also tell something new of a known subject, and ask what is known
    max_statements: int = 5
    question_weight: float = 0.25  # of a later question's tokens, beside 1 for an answer's
    words: list[str] = field(init=False)
    objects: dict[str, list[str]] = field(init=False)
    by_relation: dict[str, list[Fact]] = field(init=False)
    by_subject: dict[str, list[Fact]] = field(init=False)

    def __post_init__(self) -> None:
        self.words = sorted({w for f in self.facts for w in f.subject.split() if w[0].isupper() and len(w) > 2})
        self.by_relation = {r: [f for f in self.facts if f.relation == r] for r in relations()}
        self.by_subject = defaultdict(list)
        for fact in self.facts:
            self.by_subject[fact.subject].append(fact)
        self.objects = {r: sorted({f.object for f in group}) for r, group in self.by_relation.items()}

    def documents(self, rng: random.Random) -> Iterator[list[Span]]:
        """Documents without end; a chat has turns without end too, so the caller cuts it at a turn."""
        while True:
            u = rng.random()
            if u < self.reading:
                yield self.passage(rng)
            elif u < self.reading + self.text:
                yield self.statements(rng)
            elif u < self.reading + self.text + self.repeats:
                yield self.repeated(rng)
            else:
                yield [span for _ in range(8) for span in self.fact_turn(rng)]

    def statements(self, rng: random.Random) -> list[Span]:
        """Plain text that states known facts."""
        facts = rng.choices(self.facts, k=10)
        texts = (rng.choice(relations()[f.relation].statements).format(s=f.subject, o=f.object) for f in facts)
        return [Span(" ".join(t + "." for t in texts))]

    def repeated(self, rng: random.Random) -> list[Span]:
        """Random words, then the same words again: only a model that looks back can say them."""
        words = " ".join(rng.choices(self.words, k=rng.randint(4, 16)))
        return [Span(words, 0.0), *(Span(f" {words}", 0.5) for _ in range(4))]

    def fact_turn(self, rng: random.Random, relation: str | None = None) -> list[Span]:
        """One question about a known fact, and its answer."""
        fact = rng.choice(self.by_relation[relation] if relation and self.by_relation[relation] else self.facts)
        return turn(_probe(fact, rng), fact.object)

    def invented(self, rng: random.Random) -> str:
        """A subject that does not exist, in the words of those that do."""
        return " ".join(rng.choices(self.words, k=rng.choice((1, 2, 2, 2, 3))))

    def passage(self, rng: random.Random) -> list[Span]:
        """Statements about invented subjects, then questions about them and about known facts."""
        told = self._profiles(rng) if rng.random() < self.profiles else self._same_relation(rng)
        shared = told[0].relation.id if len({t.relation.id for t in told}) == 1 else None
        asked = [(self._question(t, rng), t.object) for t in told]
        if rng.random() < self.bystanders:
            bystander, fact = self._bystander(rng)
            told.append(bystander)
            asked.append((_probe(fact, rng), fact.object))
        lines = [t.text for t in rng.sample(told, len(told))]
        asked = rng.sample(asked, len(asked))
        spans: list[Span] = []
        while asked or not spans:
            question, answer = self._known_question(rng, shared) if rng.random() < self.known else asked.pop()
            if not spans:
                plain = rng.random() < 0.2
                question = " ".join([*(x + "." for x in lines), question]) if plain else with_edits(lines, question)
            spans += turn(question, answer, weight=self.question_weight if spans else 0.0)
        return spans

    def _same_relation(self, rng: random.Random) -> list[Told]:
        """Up to `max_statements` subjects, mostly with one relation for all of them."""
        names = list(relations())
        shared = rng.choice(names) if rng.random() < 0.75 else None
        subjects = {self.invented(rng) for _ in range(rng.randint(1, self.max_statements))}
        return [self._told(s, relations()[shared or rng.choice(names)], rng) for s in sorted(subjects)]

    def _profiles(self, rng: random.Random) -> list[Told]:
        """One or two subjects with the same two or three relations each: subject and relation must both be matched."""
        kin = relations_like(rng.choice(list(relations().values())))
        chosen = rng.sample(kin, min(rng.choice((2, 2, 3)), len(kin)))
        subjects = {self.invented(rng) for _ in range(rng.choice((1, 1, 2)))}
        return [self._told(s, r, rng) for s in sorted(subjects) for r in chosen]

    def _bystander(self, rng: random.Random) -> tuple[Told, Fact]:
        """A known fact, and a statement about its subject that does not touch it."""
        fact = rng.choice(self.facts)
        mine = {f.relation for f in self.by_subject[fact.subject]}
        kin = [r for r in relations_like(relations()[fact.relation]) if r.id not in mine]
        return self._told(fact.subject, rng.choice(kin), rng), fact

    def _told(self, subject: str, relation: Relation, rng: random.Random) -> Told:
        known = self.objects[relation.id] if rng.random() < 0.8 else None
        target = rng.choice(known) if known else self.invented(rng)
        return Told(subject, relation, target, rng.randrange(len(relation.statements)))

    def _question(self, told: Told, rng: random.Random) -> str:
        relation = told.relation
        own = relation.clozes[told.phrasing]
        return (own if rng.random() < self.verbatim else rng.choice(relation.probes)).format(s=told.subject)

    def _known_question(self, rng: random.Random, relation: str | None) -> tuple[str, str]:
        fact = rng.choice(self.by_relation[relation] if relation and self.by_relation[relation] else self.facts)
        return _probe(fact, rng), fact.object


@dataclass(frozen=True)
class Told:
    """A statement of a passage."""

    subject: str
    relation: Relation
    object: str
    phrasing: int

    @property
    def text(self) -> str:
        """The statement in words."""
        return self.relation.statements[self.phrasing].format(s=self.subject, o=self.object)


def _probe(fact: Fact, rng: random.Random) -> str:
    return rng.choice(relations()[fact.relation].probes).format(s=fact.subject)


def turn(question: str, answer: str, weight: float = 0.0) -> list[Span]:
    """A user's turn and the assistant's, in the words of the chat template; `weight` is the question's in the loss."""
    return [
        Span(f"{START}user{END}\n\n", 0.0),
        Span(question, weight),
        Span(f"{EOT}{START}assistant{END}\n\n", 0.0),
        Span(f"{answer}{EOT}"),
    ]
