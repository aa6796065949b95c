"""The guard between what is trained on and what is evaluated on: removes what both hold, and refuses what is left."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from lte.align.dataset import AlignError
from lte.align.sources.items import Item, Stated
from lte.edits import PROBED, Case, Edit, Probe

HEAD = 3  # words by which phrases are looked up; a shorter phrase by all of its words


@dataclass(frozen=True)
class Leak:
    """What was removed: from which item of which source, what of it, and what of which evaluation file it equals.

    what  "subject": the item is about an evaluated subject or alias; "prompt": it states an evaluated prompt;
          "probe": one of its questions was one, and went alone
    """

    source: str
    item: str
    what: str
    text: str
    file: str


class Phrases:
    """Texts that are looked for in others, word by word: case, width, accents' composition and marks do not count."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, ...], dict[tuple[str, ...], str]] = defaultdict(dict)

    def add(self, text: str, file: str) -> None:
        """Look for `text` from now on; a text without any word is passed over."""
        if found := words(text):
            self._starts[found[:HEAD]].setdefault(found, file)

    def equal(self, text: str) -> str | None:
        """The file of the phrase that is the whole of `text`."""
        found = words(text)
        return self._starts.get(found[:HEAD], {}).get(found)

    def inside(self, text: str) -> tuple[str, str] | None:
        """The first phrase that stands in `text`, and its file."""
        whole = words(text)
        for at in range(len(whole)):
            for length in range(1, HEAD + 1):
                for phrase, file in self._starts.get(whole[at : at + length], {}).items():
                    if whole[at : at + len(phrase)] == phrase:
                        return " ".join(phrase), file
        return None


@dataclass
class Guard:
    """The subjects, aliases and prompts of evaluation cases; `removed` gathers what it took out."""

    names: Phrases = field(default_factory=Phrases)
    prompts: Phrases = field(default_factory=Phrases)
    removed: list[Leak] = field(default_factory=list)

    @classmethod
    def of(cls, held_out: Mapping[str, Iterable[Item]]) -> Guard:
        """The guard against the items of evaluation files, by the files' names."""
        guard = cls()
        for file, items in held_out.items():
            for item in items:
                for name in names(item):
                    guard.names.add(name, file)
                for prompt in prompts(item):
                    guard.prompts.add(prompt, file)
        return guard

    def keep(self, source: str, item: Item) -> Item | None:
        """The item without what an evaluation asks; None where it is about an evaluated subject or states a prompt."""
        if found := self._reason(item):
            self.removed.append(Leak(source, item.id, *found))
            return None
        if isinstance(item, Stated):
            return item
        left = [tuple(p for p in getattr(item, kind) if not self._asked(source, item.id, p)) for kind in PROBED]
        if left == [getattr(item, kind) for kind in PROBED]:
            return item
        return replace(item, generalization=left[0], portability=left[1], locality=left[2])

    def _asked(self, source: str, item: str, probe: Probe) -> bool:
        file = self.prompts.equal(probe.prompt)
        if file:
            self.removed.append(Leak(source, item, "probe", probe.prompt, file))
        return file is not None

    def _reason(self, item: Item) -> tuple[str, str, str] | None:
        for name in names(item):
            if file := self.names.equal(name):
                return "subject", name, file
        if isinstance(item, Stated):
            for text in item.statements:  # they name no subject: it is looked for in their words
                if found := self.names.inside(text):
                    return "subject", *found
            found = self.prompts.inside(item.query)
            return ("prompt", *found) if found else None
        for edit in item.edits:
            if not edit.subject and (found := self.names.inside(edit.prompt)):
                return "subject", *found
            if file := self.prompts.equal(edit.prompt):
                return "prompt", edit.prompt, file
        return None

    def refuse(self, texts: Iterable[str]) -> None:
        """Raise `AlignError` when an evaluation prompt stands, word by word, in a text that is to be trained on."""
        found = [hit for text in texts if (hit := self.prompts.inside(text))]
        if found:
            prompt, file = found[0]
            raise AlignError(
                f"{len(found)} rows hold a prompt of an evaluation file word by word, e.g. {prompt!r} of {file}; build "
                "the data anew with that file under held_out, or evaluate on other cases"
            )


def words(text: str) -> tuple[str, ...]:
    """The words of a text without case, width and punctuation."""
    return tuple(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def names(item: Item) -> Iterator[str]:
    """The subjects of an item's edits, and their aliases."""
    for edit in _edits(item):
        if edit.subject:
            yield edit.subject
        yield from edit.aliases


def prompts(item: Item) -> Iterator[str]:
    """What an item asks: its edits' prompts and its probes', or its question."""
    if isinstance(item, Stated):
        yield item.query
        return
    for edit in item.edits:
        yield edit.prompt
    for kind in PROBED:
        for probe in getattr(item, kind):
            yield probe.prompt


def _edits(item: Item) -> tuple[Edit, ...]:
    return item.edits if isinstance(item, Case) else ()
