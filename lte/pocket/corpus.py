"""What the pocket model reads: known facts, and passages about invented subjects that it must read to answer.

A document is a list of `Span`s, each with its weight in the loss. Passages state the *same* relation of several
invented subjects, and some questions behind a passage ask for a known fact that the passage does not hold: the subject
has to be matched, the type of the answer is no help. (Passages with one relation per statement teach a model to read
by answer type, which alignment cannot mend.) Questions carry loss too, and some documents only repeat random words:
both teach copying, many tokens at a time, and reading grows out of it; answers alone are too rare a lesson to start on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lte.pocket.facts import Fact, Relation, relations
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
    max_statements: int = 5
    question_weight: float = 0.25  # of a later question's tokens, beside 1 for an answer's
    words: list[str] = field(init=False)
    objects: dict[str, list[str]] = field(init=False)
    by_relation: dict[str, list[Fact]] = field(init=False)

    def __post_init__(self) -> None:
        self.words = sorted({w for f in self.facts for w in f.subject.split() if w[0].isupper() and len(w) > 2})
        self.by_relation = {r: [f for f in self.facts if f.relation == r] for r in relations()}
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
        return turn(rng.choice(relations()[fact.relation].probes).format(s=fact.subject), fact.object)

    def invented(self, rng: random.Random) -> str:
        """A subject that does not exist, in the words of those that do."""
        return " ".join(rng.choices(self.words, k=rng.choice((1, 2, 2, 2, 3))))

    def passage(self, rng: random.Random) -> list[Span]:
        """Statements about invented subjects, then questions about them and about known facts."""
        names = list(relations())
        shared = rng.choice(names) if rng.random() < 0.75 else None
        told: list[tuple[str, Relation, str, int]] = []
        subjects: set[str] = set()
        for _ in range(rng.randint(1, self.max_statements)):
            relation = relations()[shared or rng.choice(names)]
            subject = self.invented(rng)
            if subject in subjects:
                continue
            subjects.add(subject)
            known = self.objects[relation.id] if rng.random() < 0.8 else None
            target = rng.choice(known) if known else self.invented(rng)
            told.append((subject, relation, target, rng.randrange(len(relation.statements))))
        lines = [r.statements[i].format(s=s, o=o) for s, r, o, i in told]
        asked = rng.sample(told, len(told))
        spans: list[Span] = []
        while asked or not spans:
            if rng.random() < self.known:
                question, answer = self._known_question(rng, shared, subjects)
            else:
                subject, relation, answer, i = asked.pop()
                question = relation.clozes[i] if rng.random() < self.verbatim else rng.choice(relation.probes)
                question = question.format(s=subject)
            if not spans:
                plain = rng.random() < 0.2
                question = " ".join([*(x + "." for x in lines), question]) if plain else with_edits(lines, question)
            spans += turn(question, answer, weight=self.question_weight if spans else 0.0)
        return spans

    def _known_question(self, rng: random.Random, relation: str | None, taken: set[str]) -> tuple[str, str]:
        pool = self.by_relation[relation] if relation and self.by_relation[relation] else self.facts
        fact = rng.choice(pool)
        return rng.choice(relations()[fact.relation].probes).format(s=fact.subject), fact.object


def turn(question: str, answer: str, weight: float = 0.0) -> list[Span]:
    """A user's turn and the assistant's, in the words of the chat template; `weight` is the question's in the loss."""
    return [
        Span(f"{START}user{END}\n\n", 0.0),
        Span(question, weight),
        Span(f"{EOT}{START}assistant{END}\n\n", 0.0),
        Span(f"{answer}{EOT}"),
    ]
