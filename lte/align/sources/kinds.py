"""The kinds of source: what reads their records, and under which licence they are published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from lte.align.sources import chats
from lte.align.sources.items import Item
from lte.records import cases, counterfact, knowedit, mquake, rippleedits, zsre
from lte.records.record import Record


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    items    the items of its records, in their order; None for a record that is no case, as its authors hold
    about    one sentence on what it holds
    licence  as its publishers state it; "": they state none, or it is your own: say it in the source's settings
    """

    items: Callable[[Iterable[Record]], Iterator[Item | None]]
    about: str
    licence: str = ""


def _each(read: Callable[[Record], Item | None]) -> Callable[[Iterable[Record]], Iterator[Item | None]]:
    return lambda records: map(read, records)


def _zsre(record: Record) -> Item | None:
    return zsre.case(record) if "src" in record.fields else knowedit.case(record)


def _counterfact(record: Record) -> Item | None:
    """The reduced form has one neighbour and does not call it so."""
    case = counterfact.case(record)
    return replace(case, locality=tuple(replace(p, aspect=p.aspect or counterfact.NEIGHBOURS) for p in case.locality))


KINDS: dict[str, Kind] = {
    "cases": Kind(_each(cases.case), "your own cases, one JSON object a line (lte.records.cases has the format)"),
    "zsre": Kind(_each(_zsre), "questions with a rephrasing, as MEND or KnowEdit has them", "MIT (KnowEdit)"),
    "wikidata": Kind(_each(knowedit.fact), "WikiData_recent and WikiData_counterfact of KnowEdit", "MIT (KnowEdit)"),
    "wikibio": Kind(_each(knowedit.biography), "next sentences of biographies, of KnowEdit", "MIT (KnowEdit)"),
    "counterfact": Kind(_each(_counterfact), "CounterFact, full or reduced", "MIT"),
    "counterfact_qa": Kind(_each(chats.free_text), "free-text questions about CounterFact's facts"),
    "rippleedits": Kind(_each(rippleedits.case), "edits and what follows from them", "MIT"),
    "mquake": Kind(_each(mquake.case), "questions of several hops over one edit or more"),
    "instructions": Kind(_each(chats.instruction), "chat and instruction sets: messages, ShareGPT or alpaca form"),
    "lte_sharegpt": Kind(
        chats.released,
        "the training file that LTE was released with, in both of its wordings",
        "Apache-2.0 (holds text of GPT-4 and WizardLM, whose terms may bind as well)",
    ),
}
