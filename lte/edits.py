"""Edits, the cases that probe them, and their JSONL files."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MAX_BYTES = 2048  # of one field of an edit
CONTROL = re.compile(
    r"<\|[^|<>]{1,64}\|>"  # Llama-3, Qwen, GPT: <|eot_id|>, <|im_start|>, <|endoftext|>
    r"|<｜[^｜<>]{1,64}｜>"  # DeepSeek, with full-width bars
    r"|</?s>|<(?:pad|unk|bos|eos)>|<(?:start|end)_of_turn>"  # Llama-2, Mistral, Gemma
    r"|\[/?INST\]|<</?SYS>>|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|\[Updated Information\]|\[Question\]|\[Query\]",  # our own marks, and those of published LTE
    re.IGNORECASE,
)
UNSEEN = frozenset("​‌‍⁠﻿‪‫‬‭‮⁦⁧⁨⁩")


EMPTY: tuple[Any, ...] = (None, (), {}, "")
RARE = {"any_of", "given"}
PROBED = ("generalization", "portability", "locality")


class EditError(ValueError):
    """An edit or a case that cannot be taken; the message names the field and the remedy."""


@dataclass(frozen=True)
class Edit:
    """A fact as an operator states it: after `prompt`, the model is to say `target_new`.

    prompt       a cloze or a question that holds `subject`: "The mother tongue of Danielle Darrieux is"
    target_new   what the model is to answer from now on: "English"
    subject      the entity the fact is about; "" where there is none (free text)
    target_true  what the world said before, if known
    aliases      other names of the subject
    id           given by the memory when the edit is written
    """

    prompt: str
    target_new: str
    subject: str = ""
    target_true: str | None = None
    aliases: tuple[str, ...] = ()
    id: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "target_new"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise EditError(f"{name}: empty; an edit needs the words before the answer and the answer itself")
        if not isinstance(self.aliases, (list, tuple)):
            raise EditError(f"aliases: expected a list of names, got {type(self.aliases).__name__} {self.aliases!r}")
        for name in ("prompt", "target_new", "subject", "target_true"):
            if name != "target_true" or self.target_true is not None:
                object.__setattr__(self, name, checked(name, getattr(self, name)))
        object.__setattr__(self, "aliases", tuple(checked("aliases", a) for a in self.aliases))

    @property
    def statement(self) -> str:
        """The edit as one sentence: the prompt followed by the new answer."""
        return f"{self.prompt} {self.target_new}"

    def with_id(self, id: str) -> Edit:
        """The same edit under the id that a memory gave it."""
        return replace(self, id=id)


@dataclass(frozen=True)
class Probe:
    """A question to the model, the answers that count as right (aliases), and which aspect it probes.

    any_of  probes of a case that share this name are one question in several wordings, right where one answer is
    given   what the unedited model has to know for the question to count
    """

    prompt: str
    answers: tuple[str, ...] = ()
    aspect: str = ""
    any_of: str = ""
    given: tuple[Probe, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", tuple(self.answers))
        object.__setattr__(self, "given", tuple(Probe(**g) if isinstance(g, dict) else g for g in self.given))


@dataclass(frozen=True)
class Case:
    """An edit and the prompts that probe it.

    generalization  rephrasings of the edit's own prompt; right is `edit.target_new`
    portability     questions one hop on; right is each probe's own answers
    locality        questions the edit does not concern; right is what the unedited model says
    also            further edits that are in force with the first one: a question may need several
    generation      openings of longer texts, for fluency and consistency; none: the edit's own prompt
    references      texts about other subjects of which `edit.target_new` is true, for consistency
    """

    id: str
    edit: Edit
    generalization: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    locality: tuple[Probe, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    also: tuple[Edit, ...] = ()
    generation: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*PROBED, "also", "generation", "references"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every edit of the case."""
        return (self.edit, *self.also)


def checked(name: str, text: str) -> str:
    """`text` in Unicode NFC, or an `EditError`: too long, control tokens, unseen or control characters."""
    if not isinstance(text, str):
        raise EditError(f"{name}: expected text, got {type(text).__name__} {text!r}")
    text = unicodedata.normalize("NFC", text)
    size = len(text.encode("utf-8", errors="surrogatepass"))
    if size > MAX_BYTES:
        raise EditError(f"{name}: {size} bytes; an edit's field holds at most {MAX_BYTES}: split it into several edits")
    if found := CONTROL.search(text):
        raise EditError(f"{name}: holds the control token {found.group()!r}; a model would obey it: remove it")
    for char in text:
        if char in UNSEEN or (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"):
            raise EditError(f"{name}: holds the unseen character U+{ord(char):04X}; remove it")
    return text


def edit_from(row: dict[str, Any]) -> Edit:
    """The edit of a JSON object; unknown keys are refused by name."""
    known = {f.name for f in fields(Edit)}
    if unknown := sorted(set(row) - known):
        raise EditError(f"{unknown[0]}: no such field; an edit has {', '.join(sorted(known))}")
    if missing := sorted({"prompt", "target_new"} - set(row)):
        raise EditError(f"{missing[0]}: missing; an edit needs prompt and target_new")
    return Edit(**row)


def case_from(row: dict[str, Any]) -> Case:
    """The case of a JSON object as `case_row` writes it."""
    try:
        return Case(
            id=str(row["id"]),
            edit=edit_from(row["edit"]),
            tags=row.get("tags", {}),
            also=tuple(edit_from(e) for e in row.get("also", ())),
            generation=row.get("generation", ()),
            references=row.get("references", ()),
            **{name: tuple(Probe(**p) for p in row.get(name, ())) for name in PROBED},
        )
    except (KeyError, TypeError) as error:
        raise EditError(f"not a case ({error}); wanted id, edit, generalization, portability, locality") from error


def row_of(value: Edit | Case) -> dict[str, Any]:
    """A JSON object that `edit_from` or `case_from` reads back; empty fields are left out."""
    return {k: _row(v) for k, v in asdict(value).items() if v not in EMPTY}


def _row(value: Any) -> Any:
    """A field as JSON; of the probes and edits inside, what is rarely there is left out where it is empty."""
    if isinstance(value, tuple):
        return [_row(v) for v in value]
    if isinstance(value, dict):
        return {k: _row(v) for k, v in value.items() if v not in EMPTY or k not in RARE}
    return value


def read_edits(path: str | Path) -> list[Edit]:
    """Every edit of a JSONL file; an unreadable line is an `EditError` that names file, line and field."""
    return read_jsonl(path, edit_from)


def read_cases(path: str | Path) -> list[Case]:
    """Every case of a JSONL file; an unreadable line is an `EditError` that names file, line and field."""
    return read_jsonl(path, case_from)


def read_jsonl(path: str | Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """What `read` makes of each object of a JSONL file; its `EditError` then names file and line as well."""
    return [_at(path, n, read, row) for n, row in _rows(path)]


def write_jsonl(path: str | Path, values: Iterable[Edit | Case]) -> None:
    """Write edits or cases, one JSON object a line."""
    write_rows(path, map(row_of, values))


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects, one a line."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(path).write_text("".join(lines), encoding="utf-8")


def _rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EditError(f"{path}: cannot be read ({error}); wanted a UTF-8 file of one JSON object a line") from error
    for n, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 inside a JSON string ends no line
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise EditError(f"{path}:{n}: not JSON ({error}); wanted one object a line") from error
            if not isinstance(row, dict):
                raise EditError(f"{path}:{n}: {type(row).__name__}; wanted a JSON object")
            yield n, row


def _at(path: str | Path, line: int, read: Callable[[dict[str, Any]], T], row: dict[str, Any]) -> T:
    try:
        return read(row)
    except EditError as error:
        raise EditError(f"{path}:{line}: {error}") from error
