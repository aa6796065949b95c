"""/v1/edits/search, /explain and /check: what is near a question and why, and what an edit goes not together with."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request

from lte.memory import EditMemory
from lte.serve.edits_common import PREFIX, Desk, point, record_of
from lte.serve.edits_shown import Json, conflict_json, edit_json
from lte.serve.edits_wire import NewEdit, Query, Search
from lte.serve.errors import ServeError
from lte.serve.policy import caller_of
from lte.serve.store import OPTIONS

NEAR = 10  # edits that a search gives where a request does not say


def search_routes(desk: Desk) -> APIRouter:
    """The three routes; none of them writes."""
    router = APIRouter(prefix=PREFIX, tags=["edits"])

    def most(asked: int | None, own: int) -> int:
        if asked is not None and asked > desk.limits.batch:
            raise ServeError(f"k: {asked}; at most {desk.limits.batch}", 422, "k", "limit_too_large")
        return asked or min(own, desk.limits.batch)

    @router.post("/search")
    async def search(request: Request, body: Search) -> Json:
        """The edits nearest to a question, those in play first, with their scores and what they had to reach."""
        k, namespace, at = most(body.k, NEAR), desk.namespace(request, body.namespace), point("as_of", body.as_of)
        states = tuple(body.state or ("active",))

        def look(memory: EditMemory) -> Json:
            seq, data = memory.seq, []
            for found in memory.search(body.query, k, namespace, as_of=at, states=states):
                scored = {name: getattr(found, name) for name in ("score", "threshold", "mentioned", "in_play")}
                data.append(scored | {"edit": edit_json(memory.record(str(found.edit.id), at))})
            return {"object": "edit.search", "data": data, "seq": seq}

        return await desk.store.read(look)

    @router.post("/explain")
    async def explain(request: Request, body: Query) -> Json:
        """Why a question recalls what it does: each candidate, what each stage said of it, and the nearest miss."""
        k, namespace = most(body.k, desk.config.k), desk.namespace(request, body.namespace)
        said = (await desk.store.read(lambda memory: memory.explain(body.query, k, namespace))).as_dict()
        if not caller_of(request).reaches(None):
            said["kept_out"].pop("other namespace", None)  # how much others have is not for this key
        return {"object": "edit.explanation", **said}

    @router.post("/check")
    async def check(request: Request, body: NewEdit) -> Json:
        """Which edits one would contradict or repeat, and what could be said then; nothing is written."""
        record = replace(record_of(body, desk.namespace(request, body.namespace)), state="active")
        desk.fit([record])
        found = await desk.store.read(
            lambda memory: memory.conflicts(
                record.edit, record.namespace, valid_from=record.valid_from, valid_until=record.valid_until
            )
        )
        options = list(OPTIONS) if found else []
        return {"object": "edit.check", "conflicts": [conflict_json(one) for one in found], "options": options}

    return router
