"""/v1/edits: write, read, change and withdraw the facts the server answers by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from lte.memory import Record
from lte.memory.record import State
from lte.memory.writer import OnConflict
from lte.serve.checks import Checks
from lte.serve.config import Namespace, ServeConfig
from lte.serve.edits_actions import action_routes
from lte.serve.edits_batch import batch_routes
from lte.serve.edits_common import PREFIX, Desk, author, choice, matching, point, record_of, shown
from lte.serve.edits_ops import EditOps, changed_since
from lte.serve.edits_search import search_routes
from lte.serve.edits_shown import Json, change_json, edit_json, listing
from lte.serve.edits_wire import EditIn, NewEdit, OneOrMany, Patch, Why
from lte.serve.errors import ServeError, bad_request
from lte.serve.etag import etag_of, is_known
from lte.serve.question import Engine
from lte.serve.store import Store

PAGE = 20  # edits, where a request names no limit
ID = re.compile(r"e[0-9]{1,18}")


def edit_routes(config: ServeConfig, store: Store, engine: Engine) -> APIRouter:
    """The routes under /v1/edits."""
    desk = Desk(config, store, EditOps(store, Checks(config, engine, store)))
    router = APIRouter()
    for routes in (batch_routes, search_routes, record_routes, action_routes):  # /export before /{id}
        router.include_router(routes(desk))
    return router


def record_routes(desk: Desk) -> APIRouter:
    """Create, list, get, change, delete, history."""
    router = APIRouter(prefix=PREFIX, tags=["edits"])

    @router.post("", status_code=201)
    async def create(
        request: Request, response: Response, body: OneOrMany, on_conflict: OnConflict | None = None
    ) -> Json:
        """Write one edit, or with {"edits": [...]} several at once: all or none. Durable and in force on return.

        One with tests that is to be active is quarantined until they pass; `checks` says what came of them.
        """
        namespace, by = desk.namespace(request, body.namespace), author(request, body)
        clash = choice(body.on_conflict, on_conflict)
        if isinstance(body, NewEdit):
            record = record_of(body, namespace)
            desk.fit([record])
            [done] = await desk.ops.create([record], by, clash)
            return shown(done, response)
        if len(body.edits) > desk.limits.batch:
            text = f"edits: {len(body.edits)} at once; at most {desk.limits.batch}: split them"
            raise ServeError(text, 413, "edits", "too_many_edits")
        records = [record_of(e, namespace, f"edits[{i}]") for i, e in enumerate(body.edits)]
        desk.fit(records, "edits")
        written = [shown(done, Response()) for done in await desk.ops.create(records, by, clash)]
        return listing(written, seq=max(edit["seq"] for edit in written))

    @router.get("")
    async def every(
        request: Request,
        limit: Annotated[int | None, Query(ge=1)] = None,
        after: str | None = None,
        order: Literal["asc", "desc"] = "asc",
        namespace: Namespace | None = None,
        state: Annotated[list[State] | None, Query()] = None,
        as_of: str | None = None,
    ) -> Json:
        """A page of the edits that are not deleted, oldest first; `after` is the last id of the page before.

        Edits written or deleted meanwhile move no other from its page; with `as_of` the pages are of one moment.
        """
        limit = min(PAGE, desk.limits.batch) if limit is None else limit
        if limit > desk.limits.batch:
            raise ServeError(f"limit: {limit}; at most {desk.limits.batch} a page", 422, "limit", "limit_too_large")
        reach, at = desk.reach(request, namespace), point("as_of", as_of)
        seq, records = await desk.store.read(lambda memory: (memory.seq, memory.records(reach, at, state)))
        page = _behind(records, after, order == "desc")
        return listing([edit_json(r) for r in page[:limit]], len(page) > limit, seq=seq)

    @router.get("/{id}")
    async def get(request: Request, response: Response, id: str, as_of: str | None = None) -> Any:
        """One edit, whatever its state; with `as_of` as it was after a change or at a moment."""
        at = point("as_of", as_of)
        await desk.in_sight(request, id)
        said = edit_json(await desk.store.read(lambda memory: memory.record(id, at), id))
        etag = etag_of(said)
        if is_known(request, etag):
            return Response(status_code=304, headers={"etag": etag})
        response.headers["etag"] = etag
        return said

    @router.put("/{id}")
    async def update(
        request: Request, response: Response, id: str, body: EditIn, on_conflict: OnConflict | None = None
    ) -> Json:
        """Put another edit in the place of one: every field, those left out are emptied; a state left out stays."""
        return await _change(request, response, id, body, on_conflict)

    @router.patch("/{id}")
    async def patch(
        request: Request, response: Response, id: str, body: Patch, on_conflict: OnConflict | None = None
    ) -> Json:
        """Change the fields that are sent; the others stay."""
        if not body.changes:
            raise bad_request("the body: nothing to change; send the fields that are to be others", None)
        return await _change(request, response, id, body, on_conflict)

    async def _change(
        request: Request, response: Response, id: str, body: EditIn | Patch, on_conflict: OnConflict | None
    ) -> Json:
        await desk.seen(request, id)
        by, partial = author(request, body), isinstance(body, Patch)

        def make(old: Record) -> dict[str, Any]:
            return body.fields(old.edit if partial else None, partial)

        def fit(new: Record) -> None:
            desk.fit([new])

        clash, match = choice(body.on_conflict, on_conflict), "if-match" in request.headers
        return shown(await desk.ops.change(id, make, by, clash, matching(request), match, fit), response)

    @router.delete("/{id}")
    async def delete(request: Request, id: str, reason: str = "", ticket: str = "", source: str = "") -> Json:
        """Withdraw an edit: no question that comes in after this returns is answered by it."""
        by = author(request, Why(reason=reason, ticket=ticket, source=source))
        record = await desk.seen(request, id)
        matching(request)(record)
        expected = record.seq if "if-match" in request.headers else None
        try:
            await desk.store.write(lambda memory: memory.delete(id, by=by, expected=expected), id)
        except ServeError as error:
            raise changed_since(error) if error.code == "edit_changed" else error from error
        seq = await desk.store.read(lambda memory: memory.history(id)[-1].seq)
        return {"id": id, "object": "edit.deleted", "deleted": True, "seq": seq}

    @router.get("/{id}/history")
    async def history(request: Request, id: str) -> Json:
        """Every change of one edit, oldest first, with who made it and why; of a deleted one too."""
        await desk.in_sight(request, id)
        return listing([change_json(c) for c in await desk.store.read(lambda memory: memory.history(id), id)])

    return router


def _behind(records: Sequence[Record], after: str | None, newest_first: bool) -> list[Record]:
    """The records behind an id in the order of ids: the edit need not be there any more for its place to be known."""
    ordered = sorted(records, key=lambda r: _place(r.id), reverse=newest_first)
    if after is None:
        return ordered
    if not ID.fullmatch(after):
        raise bad_request(f"after: {after!r:.80} is no id; give the last_id of the page before", "after")
    at = _place(after)
    return [r for r in ordered if (_place(r.id) < at if newest_first else _place(r.id) > at)]


def _place(id: str) -> tuple[int, str]:
    return len(id), id  # ids are numbered in the order of adding
