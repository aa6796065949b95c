"""An edit as the fields of a form, there and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from lte.memory.record import EditTest, Record, record_row
from lte.serve.edits_shown import edit_json
from lte.serve.edits_wire import EditIn, EditPatch, NewEdit, Why
from lte.serve.errors import ServeError, from_validation
from lte.serve.pages.site import Fields, stamp

B = TypeVar("B", bound=Why)
LINE = ("prompt", "target_new", "subject", "target_true")  # of one line; the lists have one entry a line
LISTS = ("aliases", "keys")
TIMES = ("valid_from", "valid_until")
FORM = (*LINE, *LISTS, *TIMES, "state", "tests")
WHY = ("reason", "ticket", "source")
ARROW = "=>"  # between a test's question and what its answer has to hold


def fields_of(record: Record) -> dict[str, str]:
    """What a form shows of a record."""
    edit = record.edit
    said = {name: getattr(edit, name) or "" for name in LINE}
    said |= {"aliases": "\n".join(edit.aliases), "keys": "\n".join(record.keys), "state": record.state}
    said |= {name: stamp(getattr(record, name)) for name in TIMES}
    rows = record_row(record).get("tests", [])
    return said | {"tests": "\n".join(_line(test, row) for test, row in zip(record.tests, rows, strict=True))}


def body_of(kind: type[B], form: Fields, shown: Mapping[str, str] | None = None, **more: Any) -> B:
    """The body of a request to the API that says what a form does; a `ServeError` names the field it cannot take.

    shown  what the form showed when it was sent out: what still stands in it as it was is no change
    """
    sent = {name: value for name, value in form.items() if shown is None or value != shown.get(name)}
    said: dict[str, Any] = dict(more)
    if issubclass(kind, EditPatch):
        said |= {name: sent[name].strip() for name in LINE if name in sent}
        if "target_true" in said:
            said["target_true"] = said["target_true"] or None
        said |= {name: [v.strip() for v in sent[name].splitlines() if v.strip()] for name in LISTS if name in sent}
        said |= {name: _moment(sent[name]) for name in TIMES if name in sent}
        if "tests" in sent:
            said["tests"] = [_test(line.strip()) for line in sent["tests"].splitlines() if line.strip()]
        if sent.get("state"):
            said["state"] = sent["state"]
    if issubclass(kind, EditIn) or "on_conflict" in kind.model_fields:
        said["on_conflict"] = form.get("on_conflict") or None
    if issubclass(kind, NewEdit):
        said["namespace"] = form.get("namespace", "").strip() or None
    why = {name: form.get(name, "").strip() for name in WHY}
    if not why["reason"]:
        raise ServeError("reason: empty; say why, the history keeps it", 400, "reason", "missing")
    try:
        return kind.model_validate(said | why)
    except ValidationError as error:
        raise from_validation([dict(e) for e in error.errors()]) from error


def changed(new: Record | None, old: Record | None) -> list[tuple[str, str, str]]:
    """What differs between two states of an edit: field, before, after."""
    before, after = ({} if r is None else edit_json(r) for r in (old, new))
    left_out = {"id", "object", "seq", "version", "created_at", "updated_at", "namespace"}
    names = [name for name in {**before, **after} if name not in left_out]
    pairs = [(name, _said(before.get(name)), _said(after.get(name))) for name in names]
    return [(name.replace("_", " "), a, b) for name, a, b in pairs if a != b]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in value)
    return "" if value is None else str(value)


def _moment(text: str) -> str | None:
    """A field of day and time, which has no zone: it is said to be UTC."""
    text = text.strip()
    return f"{text}+00:00" if len(text) in (16, 19) and "T" in text else text or None


def _line(test: EditTest, row: Mapping[str, Any]) -> str:
    plain = {"prompt", "value"} if test.must == "answer" else {"prompt", "must"}
    if set(row) <= plain and ARROW not in test.prompt + test.value and "\n" not in test.prompt + test.value:
        return f"{test.prompt} {ARROW} {test.value}" if test.must == "answer" else test.prompt
    return json.dumps(row, ensure_ascii=False)


def _test(line: str) -> dict[str, Any]:
    """`question => what the answer holds`, a question alone (its answer must not change), or the API's own JSON."""
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ServeError(f"tests: {line!r:.80} is no JSON: {error}", 400, "tests", "invalid_edit") from error
        return dict(found)
    question, arrow, value = line.partition(ARROW)
    return {"prompt": question.strip(), "value": value.strip()} if arrow else {"prompt": line, "must": "not_change"}
