"""What a model has learnt so far, measured on held-out cases: edits heeded, edits that fire astray, drift."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import harmonic_mean
from typing import Any

from lte.align.dataset import AlignError
from lte.align.divided import whole
from lte.edits import Case
from lte.models import LM
from lte.prompt import with_edits


class Watch:
    """Asks the same questions again and again, and compares with what the model said before it was trained.

    edit_success          the edit stands, its prompt or a paraphrase is asked: share of answers that hold the target
    scope_false_positive  the edit stands, an out-of-scope question is asked: share of answers that hold the target
                          although the model's own did not
    drift                 no edit stands: share of answers that are no longer the model's own
    score                 harmonic mean of edit_success, 1 - scope_false_positive and 1 - drift
    """

    def __init__(self, lm: LM, cases: Sequence[Case], max_new_tokens: int = 24) -> None:
        self._lm, self._tokens = lm, max_new_tokens
        self.engine: Any = None  # DeepSpeed's, once it trains the model
        self._inside: list[tuple[str, tuple[str, ...]]] = []
        self._outside: list[tuple[str, tuple[str, ...], str]] = []
        for case in cases:
            names = (case.edit.target_new, *case.edit.aliases)
            statements = [e.statement for e in case.edits]
            for query in (case.edit.prompt, *(p.prompt for p in case.generalization[:1])):
                self._inside.append((with_edits(statements, query), names))
            for probe in case.locality[:2]:
                self._outside.append((with_edits(statements, probe.prompt), names, probe.prompt))
        if not self._inside or not self._outside:
            raise AlignError(
                f"{len(cases)} held-out cases with {len(self._outside)} out-of-scope questions; train.watch.cases "
                "needs cases with locality probes"
            )
        bare = dict.fromkeys([*(c.edit.prompt for c in cases), *(q for _, _, q in self._outside)])
        self._own = dict(zip(bare, self._ask(list(bare)), strict=True))

    def measure(self) -> dict[str, float]:
        """The four figures of the model as it is now; of a model divided by ZeRO-3, all ranks measure together."""
        asked = [*(q for q, _ in self._inside), *(q for q, _, _ in self._outside), *self._own]
        said = iter(self._ask(asked))
        heeded = [_holds(next(said), names) for _, names in self._inside]
        fired = [_holds(next(said), names) and not _holds(self._own[bare], names) for _, names, bare in self._outside]
        moved = [next(said) != own for own in self._own.values()]
        success, astray, drift = (sum(found) / len(found) for found in (heeded, fired, moved))
        return {
            "edit_success": success,
            "scope_false_positive": astray,
            "drift": drift,
            "score": harmonic_mean([success, 1 - astray, 1 - drift]),
        }

    def _ask(self, queries: list[str]) -> list[str]:
        model: Any = self._lm.model
        training = model.training
        model.eval()
        try:
            with whole(model, self.engine):
                return self._lm.answer(queries, max_new_tokens=self._tokens)
        finally:
            model.train(training)


def _holds(answer: str, names: Sequence[str]) -> bool:
    return any(name.casefold() in answer.casefold() for name in names)
