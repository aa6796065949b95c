"""Causal tracing: which states carry a fact from subject to answer (Meng et al., arXiv:2202.05262, section 2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from lte.config import Config
from lte.editors.base import EditorError, checked
from lte.editors.contexts import subject_tokens
from lte.editors.restoring import Fact, Kind, Restore, clean_run, likelihoods, probabilities
from lte.edits import Edit
from lte.models import LM
from lte.models.tokens import encode

logger = logging.getLogger(__name__)
ROLES = ("first subject", "middle subject", "last subject", "first after", "further", "last")
Averages = dict[Kind, dict[str, list[float]]]  # kind -> role -> of each layer


class TracingConfig(Config):
    """How facts are traced; the numbers are the paper's."""

    noise: float = Field(3.0, ge=0)  # deviation of what is added to the subject's embeddings, in deviations of theirs
    samples: int = Field(10, gt=0)  # draws of it for each fact
    window: int | None = Field(None, gt=0)  # layers whose MLP or attention is restored together; None: a fifth of all
    seed: int = 0
    batch_tokens: int = Field(8192, gt=0)  # of one forward


@dataclass(frozen=True)
class Traced:
    """A fact's probability clean and under noise, and how much of it each restoration brings back.

    effects  by kind (layers, tokens from the subject's first on): the indirect effect, P(restored) − P(noise)
    """

    fact: Fact
    clean: float
    noised: float
    effects: dict[Kind, Tensor]


def known_facts(lm: LM, edits: Sequence[Edit]) -> dict[int, Fact]:
    """The facts that the model knows, by their place: it would say the first token of `target_true` itself.

    Where an edit names no such target, whatever the model would say is taken for what it knows.
    """
    found = {}
    for i, edit in enumerate(checked("tracing", edits, subject=True)):
        text, prompt = lm.render(edit.prompt), edit.prompt.strip()
        if edit.target_true is None:
            [encoded] = encode(lm.tokenizer, [text])
            ids, wanted = encoded.ids, None
        else:
            [encoded], [(start, end)] = lm.with_targets([text], [edit.target_true])
            blank = next(n for n in range(start, end) if n == end - 1 or _word(lm, encoded.ids[n]))
            ids, wanted = encoded.ids[:blank], encoded.ids[blank]
        first, end = subject_tokens(text, prompt, edit, encoded)
        if end > len(ids):
            raise EditorError(
                f"the subject {edit.subject!r} shares its last token with the answer; trace another prompt"
            )
        said = int(likelihoods(lm, torch.tensor([ids]))[0].argmax())
        if wanted in (None, said):
            found[i] = Fact(edit.statement, ids, first, end, said)
    return found


def trace_facts(lm: LM, edits: Sequence[Edit], config: TracingConfig) -> Iterator[Traced]:
    """Each fact that the model knows, traced; the noise of a fact depends on the seed and its place alone."""
    facts = known_facts(lm, edits)
    if not facts:
        raise EditorError(
            f"{lm.name} says the old answer (target_true) of none of the {len(edits)} facts, so there is nothing to "
            "trace; give facts it knows, in the words it knows them"
        )
    logger.info("tracing: %d of %d facts are known", len(facts), len(edits))
    size = _deviation(lm, list(facts.values()))
    for i, fact in facts.items():
        yield trace_fact(lm, fact, config, size, i)


@torch.no_grad()
def trace_fact(lm: LM, fact: Fact, config: TracingConfig, deviation: float, place: int = 0) -> Traced:
    """The indirect effect of every layer at every token, for states and for windows of MLPs and attention."""
    clean = clean_run(lm, fact)
    drawn = torch.Generator().manual_seed(config.seed + place)
    shape = (config.samples, fact.end - fact.first, lm.hidden_size)
    noise = config.noise * deviation * torch.randn(shape, generator=drawn)
    depth, tokens = len(lm.blocks), range(fact.first, len(fact.ids))
    window = config.window or max(1, round(depth / 5))
    asked: list[Restore | None] = [None]  # of noise alone
    for kind in clean:
        wide = 1 if kind == "state" else window
        spans = [range(max(0, n - wide // 2), min(depth, n + (wide + 1) // 2)) for n in range(depth)]
        asked += [Restore(kind, span, (t,)) for span in spans for t in tokens]
    chances = probabilities(lm, fact, clean, noise, asked, config.batch_tokens).mean(1)
    effects = (chances[1:] - chances[0]).view(len(clean), depth, len(tokens))
    whole = float(likelihoods(lm, torch.tensor([fact.ids]))[0, fact.answer])
    return Traced(fact, whole, float(chances[0]), dict(zip(clean, effects)))


def averages(traced: Sequence[Traced]) -> Averages:
    """The average indirect effect: of a fact's tokens of one role the mean, of those the mean over the facts.

    A role that no fact has (a subject of one token has no first) is not there.
    """
    found: Averages = {}
    for kind in traced[0].effects:
        for role in ROLES:
            means = []
            for one in traced:
                at = [i for i, name in enumerate(one.fact.roles) if name == role]
                if at:
                    means.append(one.effects[kind][:, at].mean(1))
            if means:
                found.setdefault(kind, {})[role] = torch.stack(means).mean(0).tolist()
    return found


def _deviation(lm: LM, facts: Sequence[Fact]) -> float:
    """The standard deviation of the entries of the subjects' embeddings."""
    ids = torch.tensor([t for fact in facts for t in fact.ids[fact.first : fact.end]], device=lm.device)
    return float(lm.model.get_input_embeddings()(ids).detach().float().std())


def _word(lm: LM, token: int) -> bool:
    return bool(lm.tokenizer.decode([token]).strip())
