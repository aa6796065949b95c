"""The questions of a case, and a model's answers to many of them from one call each to `answer` and `score`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lte.edits import Case
from lte.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from lte.models import LM


@dataclass(frozen=True)
class Question:
    """One prompt, what counts as right, and the two targets whose likelihoods are compared, where there are two."""

    kind: str
    prompt: str
    answers: tuple[str, ...]
    aspect: str = ""
    preferred: str | None = None
    other: str | None = None


def questions(case: Case, scorings: Sequence[str]) -> list[Question]:
    """Everything that is asked about a case."""
    new, true = case.edit.target_new, case.edit.target_true
    asked = [Question("reliability", case.edit.prompt, (new,), "", new, true)]
    asked += [
        Question("generalization", p.prompt, p.answers or (new,), p.aspect, new, true) for p in case.generalization
    ]
    asked += [Question("portability", p.prompt, p.answers, p.aspect) for p in case.portability]
    asked += [
        Question("locality", p.prompt, p.answers, p.aspect, p.answers[0] if p.answers else None, new)
        for p in case.locality
    ]
    if "fluency" in scorings:
        asked.append(Question("fluency", case.edit.prompt, ()))
    return asked


def baseline(lm: LM, cases: Sequence[Case], config: EvaluateConfig, known: Mapping[str, str]) -> dict[str, str]:
    """The unedited model's answer to every question, `known` ones taken as they are; none where no scoring needs it."""
    if not {"generated", "teacher_forced"} & set(config.scorings):
        return {}
    asked = [q for case in cases for q in questions(case, config.scorings) if q.kind != "fluency"]
    prompts = [p for p in dict.fromkeys(q.prompt for q in asked) if p not in known]
    return {**known, **_answers(lm, prompts, config.max_new_tokens, config)}


def ask(
    lm: LM, cases: Sequence[Case], before: Mapping[str, str], config: EvaluateConfig
) -> Iterator[list[dict[str, Any]]]:
    """The probe rows of each case (`lte.evaluate.metrics`), every question put to the model as it now is."""
    stated = _stated(cases)
    per_case = [[_settle(q, case, stated) for q in questions(case, config.scorings)] for case in cases]
    flat = [q for asked in per_case for q in asked]
    short = [q.prompt for q in flat if q.kind != "fluency"] if "generated" in config.scorings else []
    after = _answers(lm, short, config.max_new_tokens, config)
    texts = _answers(lm, [q.prompt for q in flat if q.kind == "fluency"], config.fluency_tokens, config)
    scores = _scores(lm, [(q.prompt, t) for q in flat for t in _targets(q, before, config.scorings).values()], config)
    for asked in per_case:
        rows = []
        for q in asked:
            row: dict[str, Any] = {"kind": q.kind, "aspect": q.aspect, "prompt": q.prompt, "answers": list(q.answers)}
            row["before"] = before.get(q.prompt, "")
            row["after"] = (texts if q.kind == "fluency" else after).get(q.prompt)
            row["targets"] = _targets(q, before, config.scorings)
            row["scores"] = {t: scores[q.prompt, t] for t in row["targets"].values()}
            rows.append(row)
        yield rows


def _stated(cases: Sequence[Case]) -> dict[str, list[str]]:
    """What the edits in force replace: the old answer, casefolded, and the subjects it was the answer for."""
    stated: dict[str, list[str]] = {}
    for edit in (case.edit for case in cases):
        if edit.subject and edit.target_true:
            stated.setdefault(edit.target_true.casefold(), []).append(edit.subject)
    return stated


def _settle(q: Question, case: Case, stated: Mapping[str, Sequence[str]]) -> Question:
    """A neighbour whose own fact another edit in force replaces is `contested`: to keep its answer would be wrong.

    It is asked and written down like any other, and counts nowhere.
    """
    if q.kind != "locality":
        return q
    subjects = [s for a in q.answers for s in stated.get(a.casefold(), ())]
    own = case.edit.target_true is not None and case.edit.target_true.casefold() in (a.casefold() for a in q.answers)
    if own and case.edit.subject in subjects:
        subjects.remove(case.edit.subject)
    return replace(q, kind="contested") if any(_names(s, q.prompt) for s in subjects) else q


def _names(subject: str, prompt: str) -> bool:
    """Whether the subject stands in the prompt as words of its own."""
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt) is not None


def _targets(q: Question, before: Mapping[str, str], scorings: Sequence[str]) -> dict[str, str]:
    """The targets whose likelihood behind a question is asked for, by the part they play."""
    parts: dict[str, str | None] = {}
    if "teacher_forced" in scorings and q.kind != "fluency":
        parts["forced"] = before[q.prompt] if q.kind in ("locality", "contested") else next(iter(q.answers), None)
    if "preference" in scorings and q.preferred and q.other:
        parts |= {"preferred": q.preferred, "other": q.other}
    return {part: target for part, target in parts.items() if target and target.strip()}


def _answers(lm: LM, prompts: Sequence[str], length: int, config: EvaluateConfig) -> dict[str, str]:
    once = list(dict.fromkeys(prompts))
    if not once:
        return {}
    return dict(zip(once, lm.answer(once, max_new_tokens=length, batch_size=config.batch_size), strict=True))


def _scores(
    lm: LM, pairs: Sequence[tuple[str, str]], config: EvaluateConfig
) -> dict[tuple[str, str], dict[str, float]]:
    once = list(dict.fromkeys(pairs))
    if not once:
        return {}
    scored = lm.score([p for p, _ in once], [t for _, t in once], batch_size=config.batch_size)
    return {pair: {"logprob": s.logprob, "match": s.match} for pair, s in zip(once, scored, strict=True)}
