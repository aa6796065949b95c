"""A model run under noise with parts of what it computes put back to what they are without."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lte.models import LM, Trace
from lte.models.layout import features

logger = logging.getLogger(__name__)
Kind = Literal["state", "mlp", "attention"]


@dataclass(frozen=True)
class Fact:
    """A prompt's tokens, where its subject stands in them, [first, end), and the token that is to follow."""

    statement: str
    ids: list[int]
    first: int
    end: int
    answer: int

    @property
    def roles(self) -> list[str]:
        """What each token from the subject's first on is; the subject's last is that first of all, then the prompt's.

        What stands before the subject is left out: it is read before the noise, so restoring it does nothing.
        """
        inside, behind = self.end - self.first, len(self.ids) - self.end
        subject = ["first subject", *["middle subject"] * (inside - 2), "last subject"][-inside:]
        rest = ["first after", *["further"] * (behind - 2), "last"] if behind > 1 else ["last"] * behind
        return subject + rest


@dataclass(frozen=True)
class Restore:
    """What is put back to what it is without noise: what some layers' `kind` gives at some tokens."""

    kind: Kind
    layers: Sequence[int]
    tokens: Sequence[int]


Clean = Mapping[Kind, Sequence[Tensor]]  # what each layer gives without noise, (tokens, d)


@torch.no_grad()
def clean_run(lm: LM, fact: Fact) -> Clean:
    """What every layer gives at every token of the prompt without noise."""
    parts = parts_of(lm)
    with ExitStack() as stack:
        seen = {kind: [stack.enter_context(Trace(m)) for m in modules] for kind, modules in parts.items()}
        likelihoods(lm, torch.tensor([fact.ids]))
    return {kind: [trace.output[0] for trace in traces] for kind, traces in seen.items()}


def parts_of(lm: LM) -> dict[Kind, list[nn.Module]]:
    """The modules whose outputs are restored; without "attention" where a block has no one module for it."""
    depth = range(len(lm.blocks))
    parts: dict[Kind, list[nn.Module]] = {"state": lm.blocks, "mlp": [lm.mlp_out_module(n) for n in depth]}
    found = [_attention(block, mlp) for block, mlp in zip(lm.blocks, parts["mlp"])]
    if all(found):
        return parts | {"attention": [module for module in found if module]}
    logger.warning("%s: no one module of a block is its attention; it is not traced", lm.name)
    return parts


@torch.no_grad()
def probabilities(
    lm: LM, fact: Fact, clean: Clean, noise: Tensor, restores: Sequence[Restore | None], batch_tokens: int = 8192
) -> Tensor:
    """P(answer) for each restoration and each draw of noise, (restorations, draws), on the CPU; many rows a forward.

    noise  (draws, tokens of the subject, d), added to the subject's embeddings
    """
    rows = [(n, draw) for n in range(len(restores)) for draw in range(len(noise))]
    size, found = max(1, batch_tokens // len(fact.ids)), []
    modules = parts_of(lm)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        mine = noise[[draw for _, draw in part]]
        with _noised(lm, fact, mine), _restored(modules, clean, [restores[n] for n, _ in part]):
            found.append(likelihoods(lm, torch.tensor(fact.ids).expand(len(part), -1))[:, fact.answer].cpu())
    return torch.cat(found).view(len(restores), len(noise))


@contextmanager
def _noised(lm: LM, fact: Fact, noise: Tensor) -> Iterator[None]:
    def add(out: Tensor) -> Tensor:
        out = out.clone()
        out[:, fact.first : fact.end] += noise.to(out)
        return out

    with Trace(lm.model.get_input_embeddings(), add):
        yield


@contextmanager
def _restored(
    modules: Mapping[Kind, Sequence[nn.Module]], clean: Clean, rows: Sequence[Restore | None]
) -> Iterator[None]:
    """Within: the modules give in each row what they give without noise, where its restoration says so."""
    places: dict[tuple[Kind, int], list[tuple[int, int]]] = {}
    for row, restore in enumerate(rows):
        for layer in restore.layers if restore else ():
            assert restore is not None
            places.setdefault((restore.kind, layer), []).extend((row, t) for t in restore.tokens)
    with ExitStack() as stack:
        for (kind, layer), at in places.items():
            stack.enter_context(Trace(modules[kind][layer], _put(clean[kind][layer], torch.tensor(at))))
        yield


class _put:
    """The output with some tokens' own rows replaced."""

    def __init__(self, clean: Tensor, places: Tensor) -> None:
        self.clean, self.places = clean, places

    def __call__(self, out: Tensor) -> Tensor:
        row, token = self.places.to(out.device).T
        return out.index_put((row, token), self.clean[token].to(out))


def likelihoods(lm: LM, ids: Tensor) -> Tensor:
    """The probability of each token behind the rows, (rows, vocabulary) in float32."""
    with torch.no_grad(), lm.logits_at(lambda hidden: hidden[:, -1:]):
        logits: Tensor = lm.model(ids.to(lm.device), use_cache=False).logits
    return logits[:, 0].float().softmax(-1)


def _attention(block: nn.Module, mlp: nn.Module) -> nn.Module | None:
    """The block's one child that holds linear maps, is none itself, and is not what the MLP is in."""
    found = [
        child
        for child in block.children()
        if features(child) is None
        and all(module is not mlp for module in child.modules())
        and any(features(module) for module in child.modules())
    ]
    return found[0] if len(found) == 1 else None
