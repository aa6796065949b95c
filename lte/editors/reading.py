"""A stream of texts as batches of token rows: what of each text is read, and which of its tokens count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lte.models import LM
from lte.models.tokens import encode

if TYPE_CHECKING:
    from lte.editors.statistics import StatisticsConfig

WINDOW = 4  # batches of rows that are sorted by length together, so that little of a forward is padding
CHARACTERS = 16  # a token, at most: a long text's end is not tokenised only to be cut off

Row = tuple[list[int], list[int]]  # tokens, and the places among them that count


def rows_of(lm: LM, texts: Iterable[str], budget: int | None, config: StatisticsConfig) -> Iterator[Row]:
    """The rows of the texts until the budget or the documents are spent; no text is read after that."""
    length, documents = length_of(lm, config), config.documents
    for text in texts:
        if not text.strip():
            continue
        ids = _ids(lm, text, length)
        keys = [i for i, t in enumerate(ids) if config.bos == "include" or t != lm.tokenizer.bos_token_id][:budget]
        if keys:
            yield ids[: keys[-1] + 1], keys
        budget = budget if budget is None else budget - len(keys)
        documents = documents if documents is None else documents - 1
        if budget == 0 or documents == 0:
            return


def _ids(lm: LM, text: str, length: int) -> list[int]:
    """The first tokens of a text, `length` of them at most."""
    head = text[: CHARACTERS * length]
    ids = encode(lm.tokenizer, [head])[0].ids
    if len(ids) <= length and len(head) < len(text):
        ids = encode(lm.tokenizer, [text])[0].ids
    return ids[:length]


def length_of(lm: LM, config: StatisticsConfig) -> int:
    """Tokens of a text that are read at most: as the settings say, within what the model can hold."""
    return min(config.max_length, lm.context or config.max_length)


def batches_of(rows: Iterable[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, out of a window of the stream; no more than the window is held."""
    window: list[Row] = []
    held = 0
    for row in rows:
        window.append(row)
        held += len(row[0])
        if held >= WINDOW * batch_tokens:
            yield from _by_length(window, batch_tokens)
            window, held = [], 0
    yield from _by_length(window, batch_tokens)


def _by_length(rows: Iterable[Row], batch_tokens: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in sorted(rows, key=lambda r: len(r[0])):
        if batch and (len(batch) + 1) * len(row[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def tokenizer_hash(lm: LM) -> str:
    """Of whatever decides how a text becomes tokens, as the tokenizer's own file holds it."""
    told = json.loads(lm.tokenizer.backend_tokenizer.to_str())
    told |= {"padding": None, "truncation": None}  # the last call's, not the tokenizer's own
    told["bos"] = lm.tokenizer.bos_token_id
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
