"""/v1/edits: write, read, change and withdraw the facts the server answers by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from lte.edits import Edit, EditError
from lte.serve.config import Namespace, ServeConfig
from lte.serve.errors import bad_request
from lte.serve.guard import namespace_of
from lte.serve.policy import caller_of
from lte.serve.store import Store, from_edit, no_such_edit
from lte.serve.wire import EditIn, NewEdit, OneOrMany

Json = dict[str, Any]
PAGE = 20  # edits, where a request names no limit


def edit_routes(config: ServeConfig, store: Store) -> APIRouter:
    """The routes under /v1/edits."""
    router = APIRouter(prefix="/v1/edits", tags=["edits"])

    @router.post("", status_code=201)
    async def create(request: Request, body: OneOrMany) -> Json:
        """Write one edit, or with {"edits": [...]} several at once: all or none. Durable and in force on return."""
        namespace = namespace_of(request, body.namespace, config.namespace)
        if isinstance(body, NewEdit):
            [written] = await store.add([_edit(body)], namespace)
            return edit_json(written)
        if len(body.edits) > config.limits.batch:
            raise bad_request(f"edits: {len(body.edits)} at once; at most {config.limits.batch}: split them", "edits")
        edits = [_edit(e, f"edits[{i}]") for i, e in enumerate(body.edits)]
        return _listing([edit_json(e) for e in await store.add(edits, namespace)])

    @router.get("")
    async def listing(
        request: Request,
        limit: Annotated[int | None, Query(ge=1)] = None,
        after: str | None = None,
        namespace: Namespace | None = None,
    ) -> Json:
        """A page of the edits in force, oldest first; `after` is the last id of the page before."""
        limit = min(PAGE, config.limits.batch) if limit is None else limit
        if limit > config.limits.batch:
            raise bad_request(f"limit: {limit}; at most {config.limits.batch} a page", "limit")
        if namespace is not None or not caller_of(request).reaches(None):
            namespace = namespace_of(request, namespace, config.namespace)
        edits = await store.every(namespace)
        start = 0
        if after is not None:
            at = next((i for i, e in enumerate(edits) if e.id == after), None)
            if at is None:
                raise bad_request(f"after: {after!r} is not in force (any more); start again without it", "after")
            start = at + 1
        return _listing([edit_json(e) for e in edits[start : start + limit]], more=start + limit < len(edits))

    @router.get("/{id}")
    async def get(request: Request, id: str) -> Json:
        """One edit in force."""
        await _in_sight(request, store, id)
        return edit_json(await store.get(id))

    @router.put("/{id}")
    async def update(request: Request, id: str, body: EditIn) -> Json:
        """Put another edit in the place of one: every field, those left out are emptied."""
        await _in_sight(request, store, id)
        return edit_json(await store.update(id, _edit(body)))

    @router.delete("/{id}")
    async def delete(request: Request, id: str) -> Json:
        """Withdraw an edit: no question that comes in after this returns is answered by it."""
        await _in_sight(request, store, id)
        await store.delete(id)
        return {"id": id, "object": "edit.deleted", "deleted": True}

    @router.get("/{id}/history")
    async def history(request: Request, id: str) -> Json:
        """Every change of one edit, oldest first; of a deleted one too."""
        await _in_sight(request, store, id)
        changes = await store.history(id)
        return {"object": "list", "data": [_change_json(c) for c in changes], "has_more": False}

    return router


async def _in_sight(request: Request, store: Store, id: str) -> None:
    """404 for an edit of a namespace that the caller's key does not reach, as for one that is not there."""
    caller = caller_of(request)
    if caller.reaches(None):
        return
    changes = await store.history(id)
    if not caller.reaches(changes[-1].namespace):
        raise no_such_edit(id)


def edit_json(edit: Edit) -> Json:
    """An edit as the API shows it."""
    return {
        "id": edit.id,
        "object": "edit",
        "prompt": edit.prompt,
        "target_new": edit.target_new,
        "subject": edit.subject,
        "target_true": edit.target_true,
        "aliases": list(edit.aliases),
    }


def _change_json(change: Any) -> Json:
    return {
        "object": "edit.change",
        "seq": change.seq,
        "id": change.id,
        "kind": change.kind,
        "namespace": change.namespace,
        "time": change.time,
        "edit": None if change.edit is None else edit_json(change.edit),
    }


def _edit(body: EditIn, at: str = "") -> Edit:
    try:
        return Edit(body.prompt, body.target_new, body.subject, body.target_true, tuple(body.aliases))
    except EditError as error:
        raise from_edit(error, at) from error


def _listing(data: Sequence[Json], more: bool = False) -> Json:
    ids = [d["id"] for d in data]
    return {
        "object": "list",
        "data": list(data),
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": more,
    }
