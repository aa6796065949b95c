"""Near misses: the edits that an encoder finds nearest to a question, those that might concern it left out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lte.align.data.pool import Pool, may_stand
from lte.align.data.roles import Draft

Encode = Callable[[Sequence[str]], Any]  # texts to unit vectors, an array (texts, dimensions)
AMONG = 32  # nearest edits looked at for one question
BLOCK = 1024  # texts encoded at a time


class Nearest:
    """The pool's edits as the memory looks for them: by statement and by prompt, the better of the two counts."""

    def __init__(self, pool: Pool, encode: Encode, report: Callable[[str, int, int], None]) -> None:
        import numpy as np

        self.pool, self.encode = pool, encode
        texts = [(known.statement, known.prompt or known.statement) for known in pool.all]
        parts = []
        for at in range(0, len(texts), BLOCK):
            some = texts[at : at + BLOCK]
            both = np.asarray(encode([t for pair in some for t in pair]), dtype=np.float32)
            parts.append(both.reshape(len(some), 2, -1))
            report("edits encoded", at + len(some), len(texts))
        self.vectors = np.concatenate(parts) if parts else np.empty((0, 2, 0), np.float32)

    def fill(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts, each with the nearest edits it wants; one for which there are none is left out."""
        import numpy as np

        wanting = [d for d in drafts if d.nearest]
        found: dict[int, Draft] = {}
        if wanting and self.pool.all:
            asked = np.asarray(self.encode([d.query for d in wanting]), dtype=np.float32)
            scores = np.einsum("pvd,qd->qpv", self.vectors, asked).max(-1)  # (questions, edits)
            # equal scores in the pool's order: the same dataset on every machine that encodes alike
            order = np.argsort(-scores, axis=1, kind="stable")[:, :AMONG]
            for draft, row in zip(wanting, order, strict=True):
                near = [k for i in row if may_stand(k := self.pool.all[int(i)], draft.owner, draft.query)]
                if near:
                    chosen = [k.statement for k in near[: draft.nearest]]
                    random.Random(f"{draft.owner}:{draft.query}").shuffle(chosen)
                    found[id(draft)] = replace(draft, statements=tuple(chosen), nearest=0)
        return [found[id(d)] if d.nearest else d for d in drafts if not d.nearest or id(d) in found]
