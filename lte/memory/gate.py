"""Which edits a query touches: whom it mentions, and how near its words must come."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

# Scripts that set no blanks between words: each character counts as a word, or no subject would ever be found
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
    r"|[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    r"\U00020000-\U0003ffff]+"
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_LAST = re.compile(r"(?<=[.!?。！？])\s+|\n+")


@dataclass(frozen=True)
class Thresholds:
    """The least similarity at which an edit is in play.

    named      the edit has a subject and the query does not mention it: near-identical words only
    mentioned  the query mentions the edit's subject or an alias
    free       the edit has no subject, so words are all there is
    """

    named: float
    mentioned: float
    free: float

    def of(self, has_subject: bool, mentioned: bool) -> float:
        """The threshold of one edit for one query."""
        if mentioned:
            return self.mentioned
        return self.named if has_subject else self.free


class Mentions:
    """Finds the keys whose names stand in a text, in time that does not grow with the number of names."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, ...], set[str]] = {}
        self._lengths: dict[str, dict[int, int]] = {}  # first word of a name -> length in words -> how many names

    def add(self, key: str, names: Iterable[str]) -> None:
        """Let `key` be found by each of its names; a name without a letter or digit finds nothing."""
        for phrase in _phrases(names):
            if phrase not in self._keys:
                lengths = self._lengths.setdefault(phrase[0], {})
                lengths[len(phrase)] = lengths.get(len(phrase), 0) + 1
            self._keys.setdefault(phrase, set()).add(key)

    def remove(self, key: str, names: Iterable[str]) -> None:
        """Take back `add(key, names)`."""
        for phrase in _phrases(names):
            keys = self._keys.get(phrase, set())
            keys.discard(key)
            if not keys and self._keys.pop(phrase, None) is not None:
                lengths = self._lengths[phrase[0]]
                lengths[len(phrase)] -= 1
                if not lengths[len(phrase)]:
                    del lengths[len(phrase)]
                if not lengths:
                    del self._lengths[phrase[0]]

    def find(self, text: str) -> set[str]:
        """The keys that `text` mentions: a name counts as whole words, in any case, with or without accents."""
        said, found = words(text), set()
        for i, first in enumerate(said):
            for length in self._lengths.get(first, ()):
                found |= self._keys.get(tuple(said[i : i + length]), set())
        return found


def words(text: str) -> list[str]:
    """The words of a text in the form in which they are compared.

    Compatibility forms, case and Latin accents are folded: "Beyoncé", "BEYONCE" and "ｂｅｙｏｎｃｅ" are one word.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", folded))))


def query_views(query: str) -> list[str]:
    """The texts a query is compared by: itself and, where it says more than one thing, its last sentence.

    A question behind a long quotation is else measured by the quotation.
    """
    query = query.encode("utf-8", "replace").decode("utf-8").strip()  # half a surrogate pair would stop the tokenizer
    parts = [part.strip() for part in _LAST.split(query) if part.strip()]
    return [query, *parts[-1:]] if len(parts) > 1 else parts


def _phrases(names: Iterable[str]) -> set[tuple[str, ...]]:
    return {phrase for name in names if (phrase := tuple(words(name)))}
