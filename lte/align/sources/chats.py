"""Instruction sets in their three forms, the released LTE training file, and free-text questions about facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from lte.align.sources.items import Stated
from lte.edits import CONTROL
from lte.records.record import Record, short

ASKING, ANSWERING = ("user", "human"), ("assistant", "gpt", "model")
TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
MARK = "[Updated Information]"
# the builder's wording with either mark, and the paper's without the sentence before it
PUBLISHED = re.compile(r"\[Updated Information\]:?\s*(?P<facts>.+?)\s*\[(?:Question|Query)\]:?\s*(?P<query>.+)", re.S)


def instruction(record: Record) -> Stated | None:
    """The first question and reply of {messages: [{role, content}]}, {conversations: [{from, value}]},
    {instruction, input?, output} or {prompt, completion}; None where a chat template's marks stand in the question.

    A system turn is passed over. The reply may be missing: the base model's own is then the only target there is.
    """
    row = record.fields
    if field := next((name for name in TURNS if name in row), None):
        query, answer = exchange(record, field)
    elif "instruction" in row:
        query, answer = record.text("instruction"), _reply(record, "output")
        if more := _reply(record, "input"):
            query = f"{query}\n\n{more}"
    elif "prompt" in row:
        query, answer = record.text("prompt"), _reply(record, "completion") or _reply(record, "response")
    else:
        known = ", ".join(sorted(row)) or "nothing"
        wanted = "messages, conversations, instruction and output, or prompt and completion"
        return record.refuse("", f"no instruction: it has {known}; wanted {wanted}", None)
    return None if CONTROL.search(query) else Stated(record.name(), query.strip(), answer.strip())


def exchange(record: Record, field: str) -> tuple[str, str]:
    """The first question and the reply to it; turns may be named as OpenAI's messages or as ShareGPT's."""
    turns = []
    for turn in record.children(field):
        names = next((n for n in TURNS.values() if n[0] in turn.fields), TURNS[field])
        turns.append((turn.text(names[0]).casefold(), turn, names[1]))
    asked = next((i for i, (who, _, _) in enumerate(turns) if who in ASKING), None)
    if asked is None:
        who = [name for name, _, _ in turns]
        return record.refuse(field, f"no turn of {' or '.join(ASKING)}; the turns are of {short(who)}", ("?", ""))
    _, question, text = turns[asked]
    reply = turns[asked + 1] if len(turns) > asked + 1 else None
    answer = reply[1].text(reply[2]) if reply and reply[0] in ANSWERING else ""
    return question.text(text), answer


def released(records: Iterable[Record]) -> Iterator[Stated]:
    """The rows of LTE's training file, ShareGPT form, with edits and question taken out of either published wording.

    The file does not say whether an edit concerns its question. Its rows come as twins with and without edits: where
    both have one answer, the edit changed nothing ("out"); where they differ, or there is no twin, it did ("in"). All
    rows are held for it.
    """
    found = [row for record in records if (row := _released(record)) is not None]
    bare = {row.query: row.answer for row in found if not row.statements}
    for row in found:
        if row.statements and bare.get(row.query) == row.answer:
            yield replace(row, scope="out")
        else:
            yield row


def _released(record: Record) -> Stated | None:
    text, answer = exchange(record, "conversations")
    name = str(record.fields.get("id", record.number))
    if MARK not in text:
        return None if CONTROL.search(text) else Stated(name, text.strip(), answer.strip(), scope="bare")
    parts = PUBLISHED.search(text)
    if parts is None:
        wanted = f"expected {MARK}, the facts, then [Question] or [Query] and the question"
        return record.refuse("conversations", f"{wanted}; got {short(text)}", None)
    query = parts["query"].strip()
    return None if CONTROL.search(query) else Stated(name, query, answer.strip(), facts(parts["facts"]), "in")


def facts(text: str) -> tuple[str, ...]:
    """The facts of a published block: "1. ...", "2. ..." on lines of their own, or one fact without a number."""
    parts = re.split(r"(?:^|\n)(\d+)\. ", text.strip())
    numbers = parts[1::2]
    if not parts[0].strip() and numbers == [str(n) for n in range(1, len(numbers) + 1)] and len(numbers) > 1:
        return tuple(" ".join(part.split()) for part in parts[2::2])
    return (" ".join(text.split()),)


def free_text(record: Record) -> Stated:
    """The question of {new_fact, question, answer}: the fact is a sentence and answers it."""
    fact, query = record.text("new_fact"), record.text("question")
    return Stated(record.name(), query.strip(), record.text("answer").strip(), (" ".join(fact.split()),), "in")


def _reply(record: Record, field: str) -> str:
    """The field as text; missing or null is no text."""
    value: Any = record.fields.get(field)
    if value is None or isinstance(value, str):
        return value or ""
    return record.refuse(field, f"expected text, got {short(value)}", "")
