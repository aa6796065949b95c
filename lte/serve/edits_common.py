"""What the routes under /v1/edits share: who asks, what is in sight, limits, moments."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Header, Request, Response

from lte.edits import EditError
from lte.memory import Author, Record
from lte.memory.checks import answers_of
from lte.memory.record import record_row
from lte.memory.validity import moment
from lte.memory.writer import OnConflict
from lte.serve.config import Limits, ServeConfig
from lte.serve.edits_ops import Done, EditOps
from lte.serve.edits_shown import Json, edit_json
from lte.serve.edits_wire import EditPatch, Why
from lte.serve.errors import ServeError
from lte.serve.etag import check_match, etag_of
from lte.serve.guard import namespace_of
from lte.serve.policy import Caller, caller_of
from lte.serve.store import Store, from_edit, no_such_edit

PREFIX = "/v1/edits"


class Desk:
    """The parts of a server that the routes of edits work with."""

    def __init__(self, config: ServeConfig, store: Store, ops: EditOps) -> None:
        self.config, self.store, self.ops = config, store, ops

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return self.config.limits

    def namespace(self, request: Request, asked: str | None) -> str:
        """The namespace that a request is about."""
        return namespace_of(request, asked, self.config.namespace)

    def reach(self, request: Request, asked: str | None) -> str | None:
        """The namespace that a list is of; None: every one, where none is asked for and the key reaches all."""
        if asked is None and caller_of(request).reaches(None):
            return None
        return self.namespace(request, asked)

    async def seen(self, request: Request, id: str) -> Record:
        """The record under an id as it stands; 404, as for one that is not there, where the key does not reach it."""
        record = await self.store.read(lambda memory: memory.record(id), id)
        if not caller_of(request).reaches(record.namespace):
            raise no_such_edit(id)
        return record

    async def in_sight(self, request: Request, id: str) -> None:
        """404 for an id that never was, or whose namespace the key does not reach; deleted ones are in sight."""
        changes = await self.store.read(lambda memory: memory.history(id), id)
        if not caller_of(request).reaches(changes[-1].namespace):
            raise no_such_edit(id)

    def fit(self, records: Sequence[Record], at: str = "") -> None:
        """Return where the records are within the limits; a `ServeError` (413, 422) says which one is not, and why."""
        for n, record in enumerate(records):
            size = len(json.dumps(record_row(record), ensure_ascii=False).encode())
            if size > self.limits.edit_bytes:
                where = f"{at}[{n}]" if at else None
                text = f"{where or 'the edit'}: {size} bytes with keys and tests; at most {self.limits.edit_bytes}"
                raise ServeError(text, 413, where, "edit_too_large")
        if (asked := sum(answers_of(record.tests) for record in records)) > self.limits.test_answers:
            text = f"tests: {asked} answers asked for; at most {self.limits.test_answers} a request: repeat less"
            raise ServeError(text, 422, "tests", "too_many_tests")


def author(request: Request, why: Why) -> Author:
    """Who makes a change, by the key; why, by the body."""
    key = caller_of(request).key
    try:
        return why.by("anyone" if key is None else key.name.strip() or key.id)
    except EditError as error:
        raise from_edit(error) from error


def matching(request: Request) -> Callable[[Record], None]:
    """Raises 412 for a record that is not the one which If-Match names."""
    return lambda record: check_match(request, etag_of(edit_json(record)))


def shown(done: Done, response: Response) -> Json:
    """A record as a change leaves it, with its tag; `checks`: what came of its tests, where they were run."""
    said = edit_json(done.record)
    response.headers["etag"] = etag_of(said)
    return said if done.report is None else {**said, "checks": done.report.json}


def point(name: str, said: int | str | None) -> int | datetime | None:
    """A change by its number, or a moment; a `ServeError` (422) for what is neither."""
    if said is None or isinstance(said, int):
        return said
    if said.isascii() and said.isdigit() and len(said) < 19:
        return int(said)
    try:
        return moment(name, said)
    except EditError as error:
        raise from_edit(error) from error


def choice(body: OnConflict | None, query: OnConflict | None) -> OnConflict:
    """What becomes of conflicts, by the body, else by the query; nobody has chosen: refused, the operator decides."""
    return body or query or "refuse"


def record_of(body: EditPatch, namespace: str, at: str = "") -> Record:
    """The record of a body; a `ServeError` (422) names the field that cannot be taken."""
    try:
        return body.record(namespace)
    except EditError as error:
        raise from_edit(error, at) from error


def reaching(caller: Caller, records: Sequence[Any]) -> list[Any]:
    """Those of records or changes whose namespace a key reaches."""
    return [record for record in records if caller.reaches(record.namespace)]


def min_seq(store: Store) -> Callable[..., Awaitable[None]]:
    """What waits for the change that a request names in X-LTE-Min-Seq: a client reads what it wrote elsewhere."""

    async def wait(x_lte_min_seq: Annotated[int | None, Header(ge=0, lt=2**63)] = None) -> None:
        if x_lte_min_seq is not None:
            await store.reached(x_lte_min_seq)

    return wait
