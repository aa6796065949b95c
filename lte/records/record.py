"""A record of a benchmark file, and what it refuses: named by file, place and field."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from lte.edits import Edit, EditError, Probe

T = TypeVar("T")
ONE_HOP = ("New Question", "New Answer")  # the portability field of EasyEdit's zsre and counterfact files


class RecordError(ValueError):
    """Records that cannot be read; the message names file, place and field, what was wanted, and the remedy."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file: where ("line 3" of one object a line, else "record 2", from 0), which field, remedy.

    kind  "error": the file cannot be read past it; "warning": it can, and may not mean what its writer meant
    """

    kind: Literal["error", "warning"]
    where: str
    field: str
    problem: str
    remedy: str = "correct or remove this record"

    def __str__(self) -> str:
        """One line: place, field, problem, remedy."""
        return ": ".join(part for part in (self.where, self.field, f"{self.problem}; {self.remedy}") if part)


@dataclass(frozen=True)
class Record:
    """One object of a benchmark file and where it stands.

    line    its line, in a file of one object a line; None: it is the `number`th of an array, from 0
    inside  the field of the file's record that this object is, e.g. "requested_rewrite[1]."
    found   where problems are gathered, each met by something in its stead; None: the first one is raised
    """

    fields: dict[str, Any]
    path: Path
    number: int
    line: int | None = None
    inside: str = ""
    found: list[Problem] | None = None

    @property
    def where(self) -> str:
        """The record's place in its file."""
        return f"record {self.number}" if self.line is None else f"line {self.line}"

    def refuse(self, field: str, problem: str, instead: T) -> T:
        """Name file, place, field and remedy in a `RecordError`; or note it and go on with `instead`."""
        note = Problem("error", self.where, f"{self.inside}{field}", problem)
        if self.found is None:
            raise told(self.path, note)
        self.found.append(note)
        return instead

    def left_out(self, field: str, problem: str) -> None:
        """Note that the record is no case, as its authors' own code holds."""
        if self.found is not None:
            self.found.append(Problem("warning", self.where, f"{self.inside}{field}", problem, "it is left out"))

    def text(self, field: str) -> str:
        """The field as text that is not empty."""
        value = self.fields.get(field)
        if isinstance(value, str) and value.strip():
            return value
        return self.refuse(field, f"expected text, got {short(value)}" if field in self.fields else "missing", "?")

    def texts(self, field: str) -> tuple[str, ...]:
        """The field as a list of texts; a missing field is an empty list."""
        value = self.fields.get(field) or []
        if not isinstance(value, list) or any(not isinstance(t, str) or not t.strip() for t in value):
            return self.refuse(field, f"expected a list of texts, got {short(value)}", ())
        return tuple(value)

    def child(self, field: str) -> Record:
        """The object that a field holds."""
        value = self.fields.get(field)
        if not isinstance(value, dict):
            value = self.refuse(field, f"expected an object, got {short(value)}", {})
        return replace(self, fields=value, inside=f"{self.inside}{field}.")

    def children(self, field: str) -> list[Record]:
        """The objects of a field's list; a missing field is an empty list."""
        value = self.fields.get(field) or []
        if not isinstance(value, list) or any(not isinstance(v, dict) for v in value):
            value = self.refuse(field, f"expected a list of objects, got {short(value)}", [])
        return [replace(self, fields=v, inside=f"{self.inside}{field}[{i}].") for i, v in enumerate(value)]

    def gold(self, field: str, value: Any = ...) -> tuple[str, ...]:
        """Every accepted answer in a text, a list of texts, or a list of alias lists; empty ones are left out."""
        value = self.fields.get(field) if value is ... else value
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,) if value.strip() else ()
        if isinstance(value, list):
            return tuple(dict.fromkeys(a for part in value for a in self.gold(field, part)))
        wanted = "text, a list of texts or a list of alias lists"
        return self.refuse(field, f"expected {wanted}, got {short(value)}", ())

    def probes(self, field: str) -> tuple[Probe, ...]:
        """Every probe of {aspect: [{prompt, ground_truth}, ...]} or {aspect: {prompt, ground_truth}}.

        A prompt may be a list; its ground_truth is then a list as long, of the answers to each.
        """
        groups = self.fields.get(field) or {}
        if not isinstance(groups, dict):
            return self.refuse(field, f"expected an object of aspects, got {short(groups)}", ())
        if ONE_HOP[0] in groups:
            hop = self.child(field)
            return (Probe(hop.text(ONE_HOP[0]), hop.gold(ONE_HOP[1]), "One_Hop"),)
        found: list[Probe] = []
        for aspect, held in groups.items():
            if not isinstance(held, list | dict | None):
                self.refuse(f"{field}.{aspect}", f"expected a list of questions, got {short(held)}", None)
                continue
            for i, item in enumerate([held] if isinstance(held, dict) else held or ()):
                name = f"{field}.{aspect}" if isinstance(held, dict) else f"{field}.{aspect}[{i}]"
                found += self.asked(name, item, aspect)
        return tuple(found)

    def asked(self, name: str, item: Any, aspect: str, sign: str = ".") -> list[Probe]:
        """The probes of one {prompt, ground_truth}; `name` is what errors call it."""
        prompt = item.get("prompt") if isinstance(item, dict) else None
        gold = item.get("ground_truth") if isinstance(item, dict) else None
        if not isinstance(prompt, list):
            prompt, gold = [prompt], [gold]
        elif not isinstance(gold, list) or len(gold) != len(prompt):
            wanted = f"expected a list of {len(prompt)}, one answer for each prompt"
            return self.refuse(f"{name}{sign}ground_truth", f"{wanted}, got {short(gold)}", [])
        found = []
        for text, answers in zip(prompt, gold, strict=True):
            if isinstance(text, str) and text.strip():
                found.append(Probe(text, self.gold(f"{name}{sign}ground_truth", answers), aspect))
            else:
                self.refuse(f"{name}{sign}prompt", f"expected text, got {short(text)}", None)
        return found

    def edit(self, prompt: str, target_new: str, subject: str = "", target_true: str | None = None) -> Edit:
        """The record's edit; what `Edit` refuses is refused with the record's place."""
        try:
            return Edit(prompt, target_new, subject, target_true)
        except EditError as error:
            field, _, problem = str(error).partition(": ")
            return self.refuse(field, problem, Edit("?", "?"))

    def rewrite(self) -> Edit:
        """The edit of CounterFact's and MQuAKE's {prompt with {} for the subject, subject, target_new, target_true}."""
        subject, template = self.text("subject"), self.text("prompt")
        if "{}" not in template:
            self.refuse("prompt", f"expected {{}} where the subject stands, got {short(template)}", None)
        new, true = self.target("target_new"), self.target("target_true")
        return self.edit(template.replace("{}", subject, 1), new, subject, true)

    def target(self, field: str) -> str:
        """A target of {str, id}, or plain text."""
        return self.child(field).text("str") if isinstance(self.fields.get(field), dict) else self.text(field)

    def name(self) -> str:
        """The record's own id, else its place."""
        return str(self.fields.get("case_id", self.number))


def short(value: Any, most: int = 120) -> str:
    """`value` as Python writes it, cut to a length that a message can bear."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({type(value).__name__})"


def told(path: Path, problem: Problem) -> RecordError:
    """The problem as an error that names its file."""
    place = f"{path}:{problem.where[5:]}" if problem.where.startswith("line ") else f"{path}: {problem.where}"
    return RecordError(f"{place}: {replace(problem, where='')}")
