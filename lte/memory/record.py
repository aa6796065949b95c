"""What the memory keeps: an edit with all that belongs to it, and who changed it why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal, get_args

from lte.edits import Edit, EditError, checked, edit_from, row_of
from lte.memory import validity
from lte.memory.fault import MemoryFault

State = Literal["active", "shadow", "quarantined", "disabled"]
STATES: tuple[State, ...] = get_args(State)
Must = Literal["answer", "not_change"]
Match = Literal["contains", "equals", "regex", "not_contains"]
MAX_KEYS, MAX_TESTS, MAX_REPEAT = 64, 64, 100


@dataclass(frozen=True)
class Author:
    """Who makes a change and why: `reason` in words, `ticket` of a tracker, `source` that the fact is taken from."""

    actor: str = "local"
    reason: str = ""
    ticket: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, checked(field.name, getattr(self, field.name)))
        if not self.actor.strip():
            raise EditError("actor: empty; say who makes the change")


LOCAL = Author()  # nobody said who


@dataclass(frozen=True)
class EditTest:
    """A question that belongs to an edit, and what has to be true of the answer.

    must      "answer": the answer matches `value`; "not_change": it is what the model says without the edit
    match     how `value` is compared: contained, equal, found as a regular expression, or not contained
    repeat    how often it is asked; it passes where at least `min_pass` answers do (0: all)
    """

    prompt: str
    value: str = ""
    must: Must = "answer"
    match: Match = "contains"
    repeat: int = 1
    min_pass: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt", "value"):
            object.__setattr__(self, name, checked(f"tests.{name}", getattr(self, name)))
        if not self.prompt.strip():
            raise EditError("tests.prompt: empty; wanted the question that is asked")
        if self.must not in get_args(Must):
            raise EditError(f"tests.must: {self.must!r}; wanted one of {', '.join(get_args(Must))}")
        if self.match not in get_args(Match):
            raise EditError(f"tests.match: {self.match!r}; wanted one of {', '.join(get_args(Match))}")
        if self.must == "answer" and not self.value.strip():
            raise EditError("tests.value: empty; wanted what the answer is compared with")
        if self.match == "regex":
            try:
                re.compile(self.value)
            except re.error as error:
                raise EditError(f"tests.value: {self.value!r} is no regular expression ({error})") from error
        if not (_whole(self.repeat) and _whole(self.min_pass) and 1 <= self.repeat <= MAX_REPEAT):
            raise EditError(f"tests.repeat: {self.repeat!r}; wanted a whole number from 1 to {MAX_REPEAT}")
        if not 0 <= self.min_pass <= self.repeat:
            raise EditError(f"tests.min_pass: {self.min_pass}; wanted 0 (all) to repeat, {self.repeat}")


@dataclass(frozen=True)
class Record:
    """An edit as the memory keeps it; what the memory gives (id, seq, version, times) is set when it is written.

    keys         further texts it is found by: questions as users put them
    valid_from   the first moment at which it holds, valid_until the first at which it holds no more; None: no end
    state        "active" is recalled; "shadow" only where asked for; "quarantined" and "disabled" never
    tests        questions whose answers must or must not change
    supersedes   id of the record whose place it took
    seq          number of the change that made it what it is; `version` counts those changes from 1
    """

    id: str
    namespace: str
    edit: Edit
    keys: tuple[str, ...] = ()
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    state: State = "active"
    tests: tuple[EditTest, ...] = ()
    supersedes: str | None = None
    seq: int = 0
    version: int = 0
    created: datetime | None = None
    updated: datetime | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.edit, Edit):
            said = f"{type(self.edit).__name__} {self.edit!r:.80}"
            raise MemoryFault(f"edit: got {said}; wanted lte.Edit(prompt=..., target_new=...)")
        if not isinstance(self.keys, (list, tuple)) or len(self.keys) > MAX_KEYS:
            raise EditError(f"keys: {self.keys!r:.80}; wanted a list of at most {MAX_KEYS} texts")
        object.__setattr__(self, "keys", tuple(dict.fromkeys(checked("keys", key) for key in self.keys)))
        if not all(key.strip() for key in self.keys):
            raise EditError("keys: one is empty; wanted questions as users put them")
        if self.state not in STATES:
            raise EditError(f"state: {self.state!r}; wanted one of {', '.join(STATES)}")
        if not isinstance(self.tests, (list, tuple)) or len(self.tests) > MAX_TESTS:
            raise EditError(f"tests: {self.tests!r:.80}; wanted a list of at most {MAX_TESTS} tests")
        object.__setattr__(self, "tests", tuple(_test(test) for test in self.tests))
        for name in ("valid_from", "valid_until", "created", "updated"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, validity.moment(name, getattr(self, name)))
        if self.valid_from is not None and self.valid_until is not None and self.valid_from >= self.valid_until:
            raise EditError(
                f"valid_until: {self.valid_until.isoformat()} is not after valid_from, {self.valid_from.isoformat()}; "
                f"the record would never hold"
            )

    def valid(self, at: datetime) -> bool:
        """Whether the record holds at a moment: from `valid_from` on, and no more at `valid_until`."""
        return validity.holds(self, at)

    def in_force(self, at: datetime) -> bool:
        """Whether it is recalled at a moment: active and valid."""
        return self.state == "active" and self.valid(at)


def record_row(record: Record) -> dict[str, Any]:
    """A JSON object that `record_from` reads back: the edit's own fields and, where it says more, the rest.

    What the memory gives (seq, version, times) is left out, so an export can be written into another memory.
    """
    said: dict[str, Any] = {**row_of(record.edit), "id": record.id or None, "keys": list(record.keys)}
    said |= {name: _iso(getattr(record, name)) for name in ("valid_from", "valid_until")}
    said["state"] = None if record.state == "active" else record.state
    said["tests"] = [_short(test) for test in record.tests]
    said["supersedes"] = record.supersedes
    return {name: value for name, value in said.items() if value not in (None, [], "")}


def record_from(row: Mapping[str, Any], namespace: str, id: str = "") -> Record:
    """The record of a JSON object: an edit's fields, and keys, valid_from, valid_until, state, tests, supersedes.

    An edit as `lte.edits.edit_from` reads it is one; unknown keys are refused by name.
    """
    more = {
        name: row[name] for name in ("keys", "valid_from", "valid_until", "state", "tests", "supersedes") if name in row
    }
    edit = edit_from({name: value for name, value in row.items() if name not in more})
    for name in ("keys", "tests"):
        if not isinstance(more.get(name, []), (list, tuple)):
            raise EditError(f"{name}: expected a list, got {type(more[name]).__name__} {more[name]!r:.80}")
    return Record(id, namespace, edit, **more)


def stored(record: Record) -> str:
    """The whole record as text for the log; equal records give equal text."""
    said = record_row(record) | {"version": record.version, "created": _iso(record.created)}
    return json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def restored(text: str, id: str, namespace: str, seq: int, updated: str) -> Record:
    """The record that `stored` wrote at change `seq`."""
    said = json.loads(text)
    version, created = int(said.pop("version", 0)), said.pop("created", None)
    record = record_from(said, namespace, id)
    return replace(
        record,
        edit=record.edit.with_id(id),
        seq=seq,
        version=version,
        created=None if created is None else validity.moment("created", created),
        updated=validity.moment("updated", updated),
    )


def _test(test: EditTest | Mapping[str, Any]) -> EditTest:
    if isinstance(test, EditTest):
        return test
    try:
        return EditTest(**test)
    except TypeError as error:
        names = ", ".join(field.name for field in fields(EditTest))
        raise EditError(f"tests: {test!r:.80} is no test ({error}); one has {names}") from error


def _short(test: EditTest) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(EditTest)}
    return {name: value for name, value in asdict(test).items() if value != defaults[name]}


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
