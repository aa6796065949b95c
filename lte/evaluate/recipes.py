"""A way of serving edits, end to end: what is answered with all in force, which fire astray, what else is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lte.edits import Case
from lte.evaluate.ability import known
from lte.evaluate.baseline import Baseline
from lte.evaluate.config import EvaluateConfig
from lte.evaluate.metrics import case_values, says
from lte.evaluate.probes import ask, questions, rows, stated
from lte.evaluate.work import doc_of

if TYPE_CHECKING:
    from lte.editors.base import Editor
    from lte.models import LM

Row = dict[str, Any]
# questions that an edit in the prompt tempts to answer wrongly: aspects of locality probes
HARD = ("same_subject", "other_relation", "same_relation", "absent", "near_miss")
BESIDE = ("other_relation", "absent", "near_miss")  # of these, asked for that alone: locality does not count them


def measured(
    lm: LM,
    editor: Editor,
    cases: Sequence[Case],
    config: EvaluateConfig,
    facts: Sequence[Case],
    texts: Sequence[str],
) -> Row:
    """Everything that is asked with the edits of all cases in force, and what was said without: probes, abilities.

    A probe (`lte.evaluate.metrics`) says besides what the edits in its prompt state ("injected").

    facts  known facts that no edit concerns, for the ability "knowledge"
    texts  of several sentences each, which no edit concerns, for the ability "perplexity"
    """
    before = Baseline(lm, cases, config, lm.weight_hash()).of(range(len(cases)))
    asked = [questions(case, config) for case in cases]
    was = abilities(lm, facts, texts, config.batch_size)
    with editor.apply(lm, [edit for case in cases for edit in case.edits]) as handle:
        after = ask(lm, [q for of_case in asked for q in of_case], config, before)
        prompts = list(dict.fromkeys(q.prompt for of_case in asked for q in of_case))
        targets = {str(edit.id): edit.target_new for edit in handle.edits}
        used = {p: [targets[i] for i in made.edits] for p, made in zip(prompts, lm.prompts(prompts), strict=True)}
        now = abilities(lm, facts, texts, config.batch_size)
    replaced = stated(cases)
    return {
        "cases": [
            {
                "doc": doc_of(case),
                "probes": [
                    {**probe, "injected": used[probe["prompt"]]}
                    for probe in rows(of_case, case, replaced, before, after, config)
                ],
            }
            for case, of_case in zip(cases, asked, strict=True)
        ],
        "ability": {"before": was, "after": now},
    }


def abilities(lm: LM, facts: Sequence[Case], texts: Sequence[str], batch_size: int) -> dict[str, float]:
    """What the model can do as it now answers: the facts it still tells, and how it goes on with a text.

    Each text's first sentence goes to the model as any question does, and the perplexity is that of the rest behind it:
    with the edits that it recalls in front, under the adapter that is then on.
    """
    begun = [text.partition(". ")[::2] for text in texts]
    scored = lm.score([f"{head}." for head, _ in begun], [rest for _, rest in begun], batch_size, raw=True)
    nats = -sum(s.logprob * s.tokens for s in scored)
    return {"knowledge": known(lm, facts, batch_size), "perplexity": math.exp(nats / sum(s.tokens for s in scored))}


def values(probes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of a case, and "false_fire" of its hard questions, also by aspect ("false_fire.absent")."""
    found = case_values([p for p in probes if p["aspect"] not in BESIDE])
    fired: dict[str, list[bool]] = {}
    for probe in probes:
        if probe["kind"] == "locality" and probe["aspect"] in HARD:
            for name in ("false_fire", f"false_fire.{probe['aspect']}"):
                fired.setdefault(name, []).append(fires(probe))
    return found | {name: sum(each) / len(each) for name, each in fired.items()}


def fires(probe: Mapping[str, Any]) -> bool:
    """Whether an answer is what an edit in its prompt states, and was not so without."""
    injected = probe["injected"]
    return says(probe["after"], injected) and not says(probe["before"], injected)
