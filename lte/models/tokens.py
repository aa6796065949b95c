"""Which tokens of a text cover which of its characters: always by offsets, never by counting tokens of a piece."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lte.models.layout import ModelError


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text and the characters [start, end) that each of them covers."""

    ids: list[int]
    offsets: list[tuple[int, int]]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Tokens [i, j) that overlap the characters [start, end); a token across the boundary belongs to the span.

        A token without width is a blank that GPT-2's offsets leave out; it stands before the place they give.
        """
        inside = [i for i, (a, b) in enumerate(self.offsets) if start < b and min(a, b - 1) < end]
        if not inside:
            raise ModelError(f"no token covers the characters {start}..{end}; the text is empty or was normalised away")
        return inside[0], inside[-1] + 1


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoded]:
    """Tokens with offsets; the BOS token stands once, whether the text already spells it or not."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} gives no character offsets; load a fast tokenizer (tokenizer.json)"
        )
    bos = tokenizer.bos_token
    spelled = [t for t in texts if bos and t.startswith(bos)]
    special = not spelled
    if spelled and len(spelled) != len(texts):
        return [e for t in texts for e in encode(tokenizer, [t])]
    if not texts:
        return []
    batch = tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=True)
    if not all(batch["input_ids"]):
        raise ModelError("an empty text: this tokenizer starts no text of its own, so there is nothing to continue")
    return [
        Encoded(ids, [(a, b) for a, b in offsets])
        for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True)
    ]


def last_mention(text: str, subject: str, start: int = 0) -> tuple[int, int]:
    """Characters [a, b) of the last mention of `subject` in `text` from `start` on.

    The last one, because a causal model answers by the mention nearest to the answer; whole words before parts of
    words, so that "Paris" is not found in "Parisian"; then its own case before any other.
    """
    name = re.escape(subject)
    for pattern in (rf"(?<!\w){name}(?!\w)", rf"(?i:(?<!\w){name}(?!\w))", name, f"(?i:{name})") if subject else ():
        if found := [m.span() for m in re.compile(pattern).finditer(text, start)]:
            return found[-1]
    raise ModelError(f"the subject {subject!r} does not occur in {text[start:]!r}; name it as the prompt does")
