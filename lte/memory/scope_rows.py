"""Labelled scope data: queries, the edit each is asked of, and whether that edit answers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lte.edits import Case, Edit, EditError, _at, _rows, case_from, edit_from, row_of
from lte.memory.gate import words

FIT, CHOOSE, HELD_OUT = PARTS = ("fit", "choose", "held_out")


@dataclass(frozen=True)
class ScopeRow:
    """A query, an edit, and whether the edit answers it.

    kind  what the query is to the edit, figures are told by it: rewrite, paraphrase, alias, one_hop (in scope);
          unrelated, same_subject, same_relation, negation, near_miss (out of scope); or any other word
    part  "fit": weights are fitted on it; "choose": thresholds are chosen on it; "held_out": figures are told of it;
          "": by the subject
    group  what is alike for the learned relation, such as the relation's name; "": the edit's prompt, subject blanked
    """

    query: str
    edit: Edit
    in_scope: bool
    kind: str
    part: str = ""
    group: str = ""

    @property
    def text(self) -> str:
        """The row as one line of JSON, which `read_scope` reads back."""
        said: dict[str, Any] = {"query": self.query, "in_scope": self.in_scope, "kind": self.kind}
        said |= {name: value for name, value in (("part", self.part), ("group", self.group)) if value}
        return json.dumps(said | {"edit": row_of(self.edit)}, ensure_ascii=False)


def read_scope(path: str | Path) -> list[ScopeRow]:
    """The rows of a JSONL file: {"query", "edit", "in_scope", "kind", "part"}, or cases, each of which gives several.

    Rows without a part get one by their subject: of ten subjects about four, four and two.
    """
    rows = [made for n, row in _rows(path) for made in _at(path, n, _made, row)]
    if not rows:
        raise EditError(
            f"{path}: no rows; wanted one JSON object a line, with query, edit, in_scope and kind, or cases"
        )
    return [row if row.part else replace(row, part=part_of(row.edit)) for row in rows]


def part_of(edit: Edit) -> str:
    """The part that an edit's subject falls into; a free text goes by its prompt."""
    about = " ".join(words(edit.subject) or words(edit.prompt))
    return PARTS[hashlib.sha256(about.encode()).digest()[0] % 10 // 4 if about else 0]


def rows_of_case(case: Case) -> list[ScopeRow]:
    """What an evaluation case says of scope. What follows from an edit (portability) is one_hop, except an alias.

    Locality is told apart by its aspect, else by whether it names the subject.
    """
    edit = case.edit
    rows = [ScopeRow(edit.prompt, edit, True, "rewrite")]
    rows += [ScopeRow(probe.prompt, edit, True, "paraphrase") for probe in case.generalization]
    for probe in case.portability:
        rows.append(ScopeRow(probe.prompt, edit, True, "alias" if probe.aspect == "Subject_Aliasing" else "one_hop"))
    for probe in case.locality:
        named = bool(edit.subject) and edit.subject.casefold() in probe.prompt.casefold()
        kind = "same_subject" if named else "same_relation" if probe.aspect in NEIGHBOURS else "unrelated"
        rows.append(ScopeRow(probe.prompt, edit, False, kind))
    return rows


NEIGHBOURS = ("same_relation", "neighborhood", "attribute")


def edits_of(rows: Sequence[ScopeRow]) -> list[Edit]:
    """The edits of rows, each once, in order."""
    return list(dict.fromkeys(row.edit for row in rows))


def _made(row: dict[str, Any]) -> list[ScopeRow]:
    if "query" not in row:
        return rows_of_case(case_from(row))
    known = {"query": str, "edit": dict, "in_scope": bool, "kind": str, "part": str, "group": str}
    if unknown := sorted(set(row) - set(known)):
        raise EditError(f"{unknown[0]}: no such field; a row of scope data has {', '.join(known)}")
    for name, type_ in known.items():
        if name not in row and name in ("query", "edit", "in_scope"):
            raise EditError(f"{name}: missing; a row of scope data has {', '.join(known)}")
        if name in row and not isinstance(row[name], type_):
            raise EditError(f"{name}: got {row[name]!r:.60}; wanted {type_.__name__}")
    if row.get("part", "") not in ("", *PARTS):
        raise EditError(f"part: got {row['part']!r}; wanted one of {', '.join(PARTS)}, or leave it out")
    kind = row.get("kind") or ("paraphrase" if row["in_scope"] else "unrelated")
    return [
        ScopeRow(row["query"], edit_from(row["edit"]), row["in_scope"], kind, row.get("part", ""), row.get("group", ""))
    ]
