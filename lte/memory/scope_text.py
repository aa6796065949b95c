"""What the words of a query say about its scope: the subject blanked out, denials, longer names, what is asked for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from lte.memory.gate import _LAST, _WORD, words

BLANK = "it"  # in the subject's place; a plain word, so that an encoder reads the rest as it would any sentence
DENY = frozenset(("not", "never", "cannot", "hardly", "neither", "nor", "nobody", "nothing", "none", "no", "n't"))
AMONG = frozenset(
    ("except", "besides", "apart", "instead", "without", "excluding", "unlike", "anything", "other", "rather", "else")
)
FALSE = frozenset(
    ("false", "falsely", "untrue", "wrong", "wrongly", "incorrect", "incorrectly", "lie", "lies", "mistake", "mistaken")
)
KIN = frozenset(
    ("brother", "sister", "father", "mother", "son", "daughter", "wife", "husband", "child", "children", "friend",
     "fan", "neighbour", "rival", "biographer", "museum", "foundation", "junior", "street", "university", "airport",
     "herald", "sequel")
)  # fmt: skip
PLAIN = frozenset(
    ("the", "a", "an", "of", "in", "is", "was", "are", "were", "to", "and", "by", "on", "at", "for", "with", "from",
     "that", "which", "who", "what", "where", "when", "how", "does", "did", "do", "it", "its", "has", "have", "had",
     "be", "been", "as", "this", "whose", "whom", "one", "or", "s", "they", "their", "he", "she", "his", "her")
)  # fmt: skip
ASK = ("who", "where", "when", "which", "what", "how", "why")
_CONTRACTED = re.compile(r"n['’]t\b")
_NUMERAL = re.compile(r"[IVX]+|Jr|Sr|\d+")


@dataclass(frozen=True)
class Side:
    """A text about a subject, ready to be compared.

    blanked  its last sentence that names the subject and what comes behind it, with the subject as `BLANK`; all of the
             text where none does
    rest     the words of `blanked` without that
    named    whether the last sentence names the subject
    longer   whether a capital or a numeral stands at the subject: "Ada Quill Museum", "New Vorland"
    owner    whether the subject owns what comes next: "Ada Quill's"
    """

    blanked: str
    rest: tuple[str, ...]
    named: bool
    longer: bool
    owner: bool
    names: int  # further capitals in `blanked` behind its first word
    asks: str  # the first of `ASK` in it
    all: tuple[str, ...]  # every word of the text

    def has(self, cues: frozenset[str]) -> int:
        """How many of its words are among the cues."""
        return sum(word in cues for word in self.rest)


def side(text: str, names: Sequence[str]) -> Side:
    """A query or an edit's text, with the subject's names blanked out."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")).strip()
    parts = [part.strip() for part in _LAST.split(text) if part.strip()] or [""]
    naming = [i for i, part in enumerate(parts) if spans(part, names)]
    # what comes before the sentence that names the subject is a preamble; what comes behind it may be the question
    first = naming[-1] if naming else len(parts) - 1 if not names else 0
    view = " ".join(parts[first:])
    at = spans(view, names)
    pieces, end = [], 0
    for start, stop in at:
        pieces += [view[end:start], BLANK]
        end = stop
    blanked = "".join([*pieces, view[end:]])
    said = _CONTRACTED.sub(" n't", blanked)
    rest = [word for word in words(said) if word != BLANK] + ["n't"] * len(_CONTRACTED.findall(blanked))
    longer = any(_longer(view, start, stop) for start, stop in at)
    owner = any(view[stop : stop + 2] in ("'s", "’s") for _, stop in at)
    tail = blanked.split()[1:]
    return Side(
        blanked=blanked,
        rest=tuple(rest),
        named=bool(at) and first == len(parts) - 1,
        longer=longer,
        owner=owner,
        names=sum(word[:1].isupper() for word in tail),
        asks=next((word for word in rest if word in ASK), ""),
        all=tuple(words(text)),
    )


def spans(text: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """Where the names stand in a text, as `Mentions` finds them: whole words, any case, with or without accents.

    Of names that overlap the longest counts.
    """
    folded = [(m.start(), m.end(), word) for m in _WORD.finditer(text) for word in words(m.group())]
    said = [word for _, _, word in folded]
    phrases = sorted({tuple(words(name)) for name in names} - {()}, key=lambda p: (-len(p), p))
    found: list[tuple[int, int]] = []
    i = 0
    while i < len(said):
        length = next((len(p) for p in phrases if tuple(said[i : i + len(p)]) == p), 0)
        if length:
            found.append((folded[i][0], folded[i + length - 1][1]))
        i += max(length, 1)
    return found


def _longer(text: str, start: int, stop: int) -> bool:
    """Whether the name goes on: the word before or behind it is a capital that opens no sentence, or a numeral."""
    after = re.match(r"[ -](\w+)", text[stop:])
    before = re.search(r"(\w+)[ -]$", text[:start])
    if after and (after[1][0].isupper() or _NUMERAL.fullmatch(after[1])):
        return True
    return bool(before and before[1][0].isupper() and before.start(1) > 0)


def content(side_: Side) -> frozenset[str]:
    """The words that say which relation is meant."""
    return frozenset(_stem(word) for word in side_.rest if word not in PLAIN)


def _stem(word: str) -> str:
    """The word without the commonest English endings, so that "plays" meets "played"."""
    for ending in ("ing", "ed", "es", "s", "er"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
