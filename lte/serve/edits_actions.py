"""What is done to one edit besides writing it: supersede, state, test, roll-back; and the roll-back of many."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from lte.edits import EditError
from lte.memory import Change, EditMemory, Record, UnknownEdit
from lte.memory.validity import moment
from lte.memory.writer import OnConflict
from lte.serve.edits_common import PREFIX, Desk, author, choice, matching, point, record_of, shown
from lte.serve.edits_ops import Done
from lte.serve.edits_shown import Json, change_json, listing
from lte.serve.edits_wire import EditIn, Rollback, RollbackOne, StateIn, TestRun
from lte.serve.errors import ServeError, bad_request
from lte.serve.policy import Caller, caller_of
from lte.serve.store import no_such_edit


def action_routes(desk: Desk) -> APIRouter:
    """The routes behind an edit's id, and /rollback."""
    router = APIRouter(prefix=PREFIX, tags=["edits"])

    async def stands(request: Request, id: str) -> Record:
        record = await desk.seen(request, id)
        matching(request)(record)
        return record

    @router.post("/{id}/supersede", status_code=201)
    async def supersede(
        request: Request, response: Response, id: str, body: EditIn, on_conflict: OnConflict | None = None
    ) -> Json:
        """A new edit in the place of one: at once, or from its `valid_from` on, until when the old one holds.

        Where the new one's tests fail it is kept in quarantine, and the old one stays.
        """
        by, old = author(request, body), await stands(request, id)
        new = record_of(body, old.namespace)
        desk.fit([new])
        return shown(await desk.ops.supersede(old, new, by, choice(body.on_conflict, on_conflict)), response)

    @router.post("/{id}/state")
    async def state(
        request: Request, response: Response, id: str, body: StateIn, on_conflict: OnConflict | None = None
    ) -> Json:
        """Activate, disable, quarantine or shadow an edit; one whose tests fail goes to quarantine, not into force."""
        by, old = author(request, body), await stands(request, id)
        clash = choice(body.on_conflict, on_conflict)
        return shown(await desk.ops.set_state(old, body.state, by, clash), response)

    @router.post("/{id}/test")
    async def test(request: Request, response: Response, id: str, body: TestRun | None = None) -> Json:
        """Run an edit's tests now, whatever its state; with `quarantine` it is recalled no more where one fails."""
        body = body or TestRun()
        by, record = author(request, body), await stands(request, id)
        if not record.tests:
            raise ServeError("tests: this edit has none; PATCH it with some", 422, "tests", "no_tests")
        return shown(await desk.ops.test(record, body.quarantine, by), response)

    @router.post("/{id}/rollback")
    async def rollback_one(request: Request, response: Response, id: str, body: RollbackOne | None = None) -> Json:
        """Undo the last change of an edit, or bring it back as it was at `to`; a deleted one too."""
        body = body or RollbackOne()
        by, to = author(request, body), point("to", body.to)
        await desk.in_sight(request, id)
        changes = await desk.store.write(lambda memory: memory.rollback(to, [id], by=by), id)
        try:
            record = await desk.store.read(lambda memory: memory.record(id), id)
        except ServeError as error:
            if error.code != "edit_not_found":
                raise
            seq = changes[-1].seq if changes else await desk.store.read(lambda memory: memory.history(id)[-1].seq)
            return {"id": id, "object": "edit.deleted", "deleted": True, "seq": seq}
        return shown(Done(record), response)

    @router.post("/rollback")
    async def rollback(request: Request, body: Rollback) -> Json:
        """Bring back what was: everything, or `ids`, as at `to`; or undo one write, or the last change of `ids`.

        A key of some namespaces rolls back what is in them.
        """
        by, caller, to = author(request, body), caller_of(request), point("to", body.to)
        named = to is not None or body.ids is not None
        if named is (body.batch is not None):
            raise bad_request("the body: wanted to, or ids, or both, or batch alone", "to")
        reach = None if body.namespace is None else desk.namespace(request, body.namespace)
        ids = await desk.store.read(lambda memory: concerned(memory, body, to, caller, reach))
        if body.batch is None:
            changes = await desk.store.write(lambda memory: memory.rollback(to, ids, by=by)) if ids else []
        else:
            changes = await desk.store.write(lambda memory: memory.rollback(batch=body.batch, by=by))
        seq = await desk.store.read(lambda memory: memory.seq)
        return listing([change_json(change) for change in changes], seq=seq)

    return router


def concerned(
    memory: EditMemory, body: Rollback, to: int | datetime | None, caller: Caller, namespace: str | None
) -> list[str]:
    """The ids that a roll-back is about; 404 for what the caller's key does not reach."""

    def reached(change: Change) -> bool:
        return caller.reaches(change.namespace) and namespace in (None, change.namespace)

    if body.batch is not None:
        changes = [c for c in memory.changes(max(0, body.batch - 1)) if c.batch == body.batch] if body.batch else []
        if not changes or not all(map(reached, changes)):
            text = f"batch: no write has the number {body.batch}; the history of an edit shows the batch of each change"
            raise ServeError(text, 404, "batch", "batch_not_found")
        return _ids(changes)
    if body.ids:
        for id in body.ids:
            try:
                newest = memory.history(id)[-1]
            except UnknownEdit:
                raise no_such_edit(id) from None
            if not reached(newest):
                raise no_such_edit(id)
        return list(dict.fromkeys(body.ids))
    assert to is not None
    if isinstance(to, int) and to > (last := memory.seq):
        raise EditError(f"to: got {to}; the log has changes 1 to {last}, and 0 is before all of them")
    behind: Any = memory.changes(to) if isinstance(to, int) else memory.changes()
    if not isinstance(to, int):
        behind = [c for c in behind if moment("time", c.time) > to]
    return _ids([change for change in behind if reached(change)])


def _ids(changes: Sequence[Change]) -> list[str]:
    return list(dict.fromkeys(change.id for change in changes))
