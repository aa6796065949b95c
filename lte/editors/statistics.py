"""C = E[kkᵀ]: what ordinary keys look like at a layer, measured once per model and kept under a hash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lte.config import Config
from lte.editors.activations import up_to
from lte.editors.base import EditorError
from lte.models import LM, Trace
from lte.models.tokens import encode

logger = logging.getLogger(__name__)
BESIDE = "statistics.txt"  # the text that a model folder may bring along


class StatisticsConfig(Config):
    """Which text the second moment is taken of, and how much of it."""

    text: Path | None = None  # .txt (a text a line) or .jsonl (a text under "text"); None: statistics.txt of the model
    tokens: int | None = Field(None, gt=0)  # budget; None: ten per key dimension, enough by arXiv:2506.04226
    bos: Literal["include", "exclude"] = "include"  # whether the key at BOS counts; the model always reads it
    max_length: int = Field(512, gt=1)  # tokens of a text that are read
    batch_tokens: int = Field(8192, gt=0)  # tokens, padding included, of one forward
    cache: Path | None = None  # folder; None: lte/statistics in the user's cache


def second_moments(
    lm: LM, layers: Sequence[int], config: StatisticsConfig, texts: Iterable[str] | None = None
) -> dict[int, Tensor]:
    """C of each layer, (d_k, d_k) in float64 on the CPU: from the cache, the missing ones in one pass over the text.

    texts  in place of the file that the config names
    """
    budget = config.tokens or 10 * lm.mlp_out(layers[0]).shape[1]
    rows = list(_rows(lm, texts_of(lm, config) if texts is None else texts, budget, config))
    counted = sum(len(keys) for _, keys in rows)
    if not counted:
        raise EditorError("the statistics text holds no token that counts; give a text of some pages")
    if counted < budget:
        logger.warning("statistics: the text holds %d tokens of the %d wanted; C is less certain", counted, budget)
    common = {
        "weights": lm.weight_hash(),
        "tokens": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "budget": budget,
        "dtype": str(lm.dtype),
        "bos": config.bos,
    }
    files = {layer: _file(config, {**common, "layer": layer}) for layer in layers}
    found = {layer: C for layer, file in files.items() if (C := _read(file)) is not None}
    if missing := [layer for layer in layers if layer not in found]:
        logger.info("statistics: %d tokens through layers %s", counted, missing)
        for layer, C in _measure(lm, missing, rows, config.batch_tokens).items():
            _write(files[layer], C, {**common, "layer": layer, "counted": counted})
            found[layer] = C
    return found


def texts_of(lm: LM, config: StatisticsConfig) -> Iterator[str]:
    """The texts of the config's file, or of the one beside the model's weights."""
    home = lm.model.name_or_path
    path = config.text or (Path(home) / BESIDE if home else None)
    if path is None or not path.is_file():
        raise EditorError(
            f"statistics.text: {path or 'not set'}, and the folder of {lm.name} brings no {BESIDE}; the editor needs "
            "ordinary text to learn what it must not disturb: name a .txt file (a text a line) or a .jsonl file "
            '({"text": ...} a line) of some hundred thousand words'
        )
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if path.suffix != ".jsonl":
                yield line.strip()
                continue
            try:
                yield str(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise EditorError(f'{path}:{number}: not a text ({error}); wanted {{"text": ...}} a line') from error


def cache_home() -> Path:
    """The folder for what can be computed again: under XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lte" / "statistics"


def _rows(lm: LM, texts: Iterable[str], budget: int, config: StatisticsConfig) -> Iterator[tuple[list[int], list[int]]]:
    """(tokens, places that count) of each text until the budget is spent; no text is read after that."""
    for text in texts:
        if budget <= 0:
            return
        ids = encode(lm.tokenizer, [text])[0].ids[: config.max_length]
        keys = [i for i, t in enumerate(ids) if config.bos == "include" or t != lm.tokenizer.bos_token_id][:budget]
        if keys:
            budget -= len(keys)
            yield ids[: keys[-1] + 1], keys


@torch.no_grad()
def _measure(
    lm: LM, layers: Sequence[int], rows: Sequence[tuple[list[int], list[int]]], batch_tokens: int
) -> dict[int, Tensor]:
    """C of each layer by one pass: float32 within a batch, summed in float64."""
    totals: dict[int, Tensor] = {}
    for batch in _batches(rows, batch_tokens):
        ids, mask = lm.pad([tokens for tokens, _ in batch])
        row = torch.tensor([i for i, (_, keys) in enumerate(batch) for _ in keys])
        at = torch.tensor([place for _, keys in batch for place in keys])
        with ExitStack() as traces:
            seen = {layer: traces.enter_context(Trace(lm.mlp_out_module(layer))) for layer in layers}
            traces.enter_context(up_to(lm.mlp_out_module(max(layers))))
            lm.model.base_model(ids, attention_mask=mask, use_cache=False)
        for layer, trace in seen.items():
            k = trace.input[row.to(trace.input.device), at.to(trace.input.device)].float()
            moment = (k.T @ k).double()
            totals[layer] = totals[layer] + moment if layer in totals else moment
    counted = sum(len(keys) for _, keys in rows)
    return {layer: (total / counted).cpu() for layer, total in totals.items()}


def _batches(
    rows: Sequence[tuple[list[int], list[int]]], batch_tokens: int
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Rows of like length together, so that little of a forward is padding."""
    batch: list[tuple[list[int], list[int]]] = []
    for row in sorted(rows, key=lambda r: len(r[0])):
        if batch and (len(batch) + 1) * len(row[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _file(config: StatisticsConfig, key: dict[str, Any]) -> Path:
    """Where C is kept: under everything it depends on, and under no name."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return (config.cache or cache_home()) / f"{digest}.safetensors"


def _read(file: Path) -> Tensor | None:
    """The C of a cache file; `None` where there is none, or none that can be read."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as tensors:
            C: Tensor = tensors.get_tensor("C")
        return C
    except (SafetensorError, OSError) as error:
        logger.warning("%s: cannot be read (%s); measuring again", file, error)
        return None


def _write(file: Path, C: Tensor, key: dict[str, Any]) -> None:
    """Keep C; a file appears whole or not at all, and a full disk costs only the next run's time."""
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"C": C.contiguous()}, part, metadata={"made": json.dumps(key, sort_keys=True)})
        part.replace(file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        logger.warning("%s: cannot be written (%s); the next run measures again", file, error)
