"""A request's body on its way to an upstream: as it came, or with a few of its fields changed and no other byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BLANK = re.compile(r"[ \t\n\r]*")
DECODE = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class Member:
    """One `"name": value` of an object; begin and end are of the whole, `at` of the value: places in the text."""

    name: str
    value: Any
    begin: int
    at: int
    end: int


def text_of_body(raw: bytes) -> str:
    """The body as FastAPI reads it, which has found it to be JSON."""
    return raw.decode(json.detect_encoding(raw), "surrogatepass")


def members(text: str) -> list[Member]:
    """The members of a JSON object, where each stands; a name that stands twice is there twice."""
    found: list[Member] = []
    at = _skip(text, _skip(text, 0) + 1)  # behind the brace
    while text[at] != "}":
        name, end = DECODE(text, at)
        value_at = _skip(text, _skip(text, end) + 1)  # behind the colon
        value, end = DECODE(text, value_at)
        found.append(Member(name, value, at, value_at, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def rewritten(raw: bytes, changes: Mapping[str, Any]) -> bytes:
    """The body with other values for some of its top-level fields; None leaves a field out, a new name adds one.

    Without changes it is the very object that came in. Numbers, unknown fields and the order of all stay as written.
    """
    if not changes:
        return raw
    text = text_of_body(raw)
    found = members(text)
    names = {m.name for m in found}
    new = {name: value for name, value in changes.items() if name not in names and value is not None}
    gone = {name for name in names if name in changes and changes[name] is None}
    if not new and not gone:  # in place, blanks between the fields and all
        parts, at = [], 0
        for m in found:
            if m.name in changes:
                parts += [text[at : m.at], json.dumps(changes[m.name])]
                at = m.end
        return "".join([*parts, text[at:]]).encode("utf-8", "surrogatepass")
    kept = [
        text[m.begin : m.at] + (json.dumps(changes[m.name]) if m.name in changes else text[m.at : m.end])
        for m in found
        if m.name not in gone
    ]
    kept += [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in new.items()]
    return ("{" + ",".join(kept) + "}").encode("utf-8", "surrogatepass")


def _skip(text: str, at: int) -> int:
    found = BLANK.match(text, at)
    return found.end() if found else at
