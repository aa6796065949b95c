"""C = E[kkᵀ]: what ordinary keys look like at a layer, measured once per model and kept under a hash.

One pass over a stream of texts collects every wanted layer. Held at a time: some batches of token ids, and for each
layer of a pass a float64 total on the layer's device, d_k² · 8 bytes. Of Llama-3-8B (d_k = 14336) that is 1.64 GB a
layer, 52.6 GB for all 32; beside them one stripe of a batch's float32 product (0.12 GB, 0.35 GB with its float64 copy)
and the batch's activations. `layers_per_pass` bounds the totals, at a pass over the texts for each group of layers.
Finished layers are handed on one by one: in the host's memory C takes another 1.64 GB each, twice while it is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lte.config import Config
from lte.editors.activations import up_to
from lte.editors.base import EditorError
from lte.editors.corpus import Corpus, Dataset, DatasetConfig, Files, Given
from lte.editors.moment import Moment, file_of, read, write
from lte.editors.reading import Row, batches_of, length_of, rows_of, tokenizer_hash
from lte.editors.solve import Factor
from lte.models import LM, Trace

logger = logging.getLogger(__name__)
BESIDE = "statistics.txt"  # the text that a model folder may bring along
FORMAT = 2  # of what is kept and of its key; raise it when the same settings measure something else
STRIPE = 2048  # rows of C that are added at a time


class StatisticsConfig(Config):
    """Which text the second moment is taken of, and how much of it.

    The papers' own: 100 000 documents of Wikipedia, documents=100000 and max_length=the model's context. Without a
    bound, ten tokens per key dimension, which arXiv:2506.04226 found to be enough.
    """

    text: Path | None = None  # .txt (a text a line), .jsonl, or a folder of them; None: statistics.txt of the model
    dataset: DatasetConfig | None = None  # in place of `text`
    column: str = "text"  # the field of a .jsonl line or of a dataset's row that holds the text
    tokens: int | None = Field(None, gt=0)  # budget; None: ten per key dimension, unless `documents` bounds it
    documents: int | None = Field(None, gt=0)  # texts that are read at most
    bos: Literal["include", "exclude"] = "include"  # whether the key at BOS counts; the model always reads it
    max_length: int = Field(512, gt=1)  # tokens of a text that are read, within the model's context
    batch_tokens: int = Field(8192, gt=1)  # tokens, padding included, of one forward
    layers_per_pass: int | None = Field(None, gt=0)  # whose totals are held at a time; None: all, in one pass
    cache: Path | None = None  # folder; None: lte/statistics in the user's cache

    @model_validator(mode="after")
    def _fits(self) -> StatisticsConfig:
        if self.max_length > self.batch_tokens:
            raise ValueError(
                f"max_length {self.max_length} > batch_tokens {self.batch_tokens}: a forward would hold more than it "
                "may; lower max_length or raise batch_tokens"
            )
        if self.text and self.dataset:
            raise ValueError("text and dataset: both name the texts; set one of them")
        return self


def second_moments(
    lm: LM, layers: Sequence[int], config: StatisticsConfig, texts: Iterable[str] | None = None
) -> dict[int, Tensor]:
    """C of each layer, (d_k, d_k) in float64 on the CPU: from the cache, the missing ones in one pass over the text.

    texts  in place of what the config names; an iterator is read into a list, a file is not
    """
    return {moment.layer: moment.C for moment in moments(lm, layers, config, texts)}


def moments(
    lm: LM, layers: Sequence[int], config: StatisticsConfig, texts: Iterable[str] | None = None
) -> Iterator[Moment]:
    """`second_moments` one by one as they are there and kept, those in the cache first; none is held here.

    A file is kept under the hash of all that C depends on: weights, layer, tokenizer, the texts themselves, bounds,
    dtype, BOS. What is called by the same name is not taken for the same, nor is a file that was changed.
    """
    layers = list(dict.fromkeys(layers))
    width = max(lm.mlp_out(layer).shape[1] for layer in layers)
    corpus = corpus_of(lm, config, texts)
    budget = config.tokens or (None if config.documents else 10 * width)
    key = {
        "format": FORMAT,
        "weights": lm.weight_hash(),
        "tokenizer": tokenizer_hash(lm),
        "corpus": corpus.identity(),
        "budget": budget,
        "documents": config.documents,
        "max_length": length_of(lm, config),
        "dtype": str(lm.dtype),
        "bos": config.bos,
    }
    files = {layer: file_of(config.cache, {**key, "layer": layer}) for layer in layers}
    warned, missing = False, []
    for layer, file in files.items():
        if (found := read(layer, file)) is None:
            missing.append(layer)
            continue
        warned = warned or _warn(found.counted, budget, width)
        yield found
        found = None  # 1.6 GB of a Llama-3-8B
    size = config.layers_per_pass or len(layers)
    for start in range(0, len(missing), size):
        group = missing[start : start + size]
        logger.info("statistics: a pass over the texts for layers %s", group)
        counted, totals = _measure(lm, group, rows_of(lm, corpus, budget, config), config.batch_tokens)
        warned = warned or _warn(counted, budget, width)
        for layer in group:
            made = Moment(layer, totals.pop(layer).div_(counted).cpu(), counted, files[layer])
            write(made, {**key, "layer": layer, "counted": counted})
            yield made
            del made


@dataclass(frozen=True)
class Measured:
    """What is told of a layer's second moment: dimensions, tokens, trace, a lower bound of its condition, its file."""

    layer: int
    dimensions: int
    tokens: int
    trace: float
    condition: float
    file: Path


def measures(
    lm: LM, layers: Sequence[int], config: StatisticsConfig, texts: Iterable[str] | None = None
) -> Iterator[Measured]:
    """`moments`, told rather than given; the condition is that of C with the ridge that solves add to it."""
    for made in moments(lm, layers, config, texts):
        C = made.C.to(lm.mlp_out(made.layer).device)
        yield Measured(made.layer, len(C), made.counted, float(C.trace()), Factor.of(C).condition, made.file)


def corpus_of(lm: LM, config: StatisticsConfig, texts: Iterable[str] | None = None) -> Corpus:
    """The texts given, or those that the config names, or the file beside the model's weights."""
    if texts is not None:
        return Given(texts if isinstance(texts, Sequence) else list(texts))
    if config.dataset:
        return Dataset(config.dataset, config.column)
    home = lm.model.name_or_path
    path = config.text or (Path(home) / BESIDE if home else None)
    if path is None or not path.exists():
        raise EditorError(
            f"statistics.text: {path or 'not set'}, and the folder of {lm.name} brings no {BESIDE}; the editor needs "
            "ordinary text to learn what it must not disturb: name a .txt file (a text a line), a .jsonl file "
            '({"text": ...} a line) or a folder of them, of some hundred thousand words, or a dataset '
            "(statistics.dataset.path)"
        )
    return Files.at(path, config.column)


def texts_of(lm: LM, config: StatisticsConfig) -> Iterator[str]:
    """The texts that the config names, or of the file beside the model's weights."""
    yield from corpus_of(lm, config)


@torch.no_grad()
def _measure(lm: LM, layers: Sequence[int], rows: Iterable[Row], batch_tokens: int) -> tuple[int, dict[int, Tensor]]:
    """(tokens, Σ kkᵀ of each layer) by one pass: float32 within a batch, summed in float64."""
    counted, totals = 0, dict[int, Tensor]()
    for batch in batches_of(rows, batch_tokens):
        ids, mask = lm.pad([tokens for tokens, _ in batch])
        row = torch.tensor([i for i, (_, keys) in enumerate(batch) for _ in keys])
        at = torch.tensor([place for _, keys in batch for place in keys])
        with ExitStack() as traces:
            seen = {layer: traces.enter_context(Trace(lm.mlp_out_module(layer))) for layer in layers}
            traces.enter_context(up_to(lm.mlp_out_module(max(layers))))
            lm.model.base_model(ids, attention_mask=mask, use_cache=False)
        counted += len(at)
        for layer, trace in seen.items():
            k = trace.input[row.to(trace.input.device), at.to(trace.input.device)]
            if not torch.isfinite(k).all():
                raise EditorError(
                    f"statistics: layer {layer} of {lm.name} gives keys that are not finite in {lm.dtype}; load it in "
                    "float32 or bfloat16, or look whether its weights are sound"
                )
            width = k.shape[1]
            if layer not in totals:
                totals[layer] = torch.zeros(width, width, dtype=torch.float64, device=k.device)
            _add_(totals[layer], k.to(torch.promote_types(k.dtype, torch.float32)))
    if not counted:
        raise EditorError("the statistics text holds no token that counts; give a text of some pages")
    return counted, totals


def _add_(total: Tensor, k: Tensor) -> None:
    """Add kᵀk of the keys (tokens, d_k) to the total in float64, some rows at a time: whole, it has C's size again."""
    for start in range(0, len(total), STRIPE):
        stripe = slice(start, start + STRIPE)
        total[stripe] += k[:, stripe].T @ k


def _warn(counted: int, budget: int | None, width: int) -> bool:
    """Say once where the tokens are few."""
    if counted < width:
        logger.warning(
            "statistics: %d tokens are fewer than the %d dimensions of a key: C is singular, and a ridge stands in "
            "where no key was seen; give more text",
            counted,
            width,
        )
    elif budget is not None and counted < budget:
        logger.warning("statistics: the text holds %d tokens of the %d wanted; C is less certain", counted, budget)
    return True
