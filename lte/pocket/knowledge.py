"""What a pocket model knows and how well it reads: the figures that training is steered by."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from lte.models import LM
from lte.pocket.corpus import Corpus
from lte.pocket.facts import Fact, relations


def known(lm: LM, facts: Sequence[Fact], held_out: bool, seed: int = 0, per_fact: int = 1) -> float:
    """Share of questions answered with the exact object, greedily, in trained or in held-out phrasings."""
    rng = random.Random(seed)
    queries, wanted = [], []
    for fact in facts:
        relation = relations()[fact.relation]
        probes = relation.held_out_probes if held_out else relation.probes
        for phrasing in rng.sample(probes, min(per_fact, len(probes))):
            queries.append(phrasing.format(s=fact.subject))
            wanted.append(fact.object)
    replies = lm.answer(queries, max_new_tokens=16, batch_size=256)
    return sum(a == b for a, b in zip(replies, wanted, strict=True)) / len(wanted)


def reading(lm: LM, facts: Sequence[Fact], n: int, seed: int = 0) -> dict[str, float]:
    """Share of first questions behind a passage that are answered exactly, by the number of statements in it."""
    rng = random.Random(f"reading/{seed}")
    corpus = Corpus(facts, known=0.0, verbatim=0.0)
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for _ in range(n):
        spans = corpus.passage(rng)
        asked[f"of {len(spans) // 4}"].append((spans[1].text, spans[3].text.removesuffix("<|eot_id|>")))
    return {k: _exact(lm, pairs) for k, pairs in sorted(asked.items())}


def _exact(lm: LM, pairs: Sequence[tuple[str, str]]) -> float:
    replies = lm.answer([q for q, _ in pairs], max_new_tokens=16, batch_size=128)
    return sum(reply == want for reply, (_, want) in zip(replies, pairs, strict=True)) / len(pairs)
