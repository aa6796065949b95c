"""The audit page: who changed what and why; whether the log was tampered with; back to an earlier point."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lte.memory import Change, EditMemory
from lte.memory.change import KINDS
from lte.memory.validity import moment
from lte.serve.edits_actions import concerned
from lte.serve.edits_common import author, point
from lte.serve.edits_wire import Rollback
from lte.serve.errors import ServeError, bad_request
from lte.serve.pages.forms import body_of
from lte.serve.pages.site import Fields, Site, form_of, see_other
from lte.serve.policy import Caller, caller_of

PAGE = 50  # changes on one
BLOCK = 1000  # changes looked through at a time, backwards
SHOWN = 200  # edits that a roll-back lists
FILTERS = ("kind", "actor", "namespace", "q", "before")


def audit_pages(site: Site) -> APIRouter:
    """The log, its checks, and the roll-back of everything."""
    router = APIRouter(prefix="/ui/audit", include_in_schema=False)

    async def drawn(request: Request, asked: Fields, status: int = 200, **more: Any) -> Response:
        caller = caller_of(request)
        before = int(asked["before"]) if asked["before"].isdigit() and len(asked["before"]) < 19 else None

        def look(memory: EditMemory) -> dict[str, Any]:
            found = list(islice((c for c in backwards(memory, before) if told(c, asked, caller)), PAGE + 1))
            spaces = site.namespaces(caller, memory.namespaces())
            return {"changes": found, "seq": memory.seq, "namespaces": spaces, "checkpoints": memory.checkpoints()}

        said = await site.store.read(look)
        said |= {"changes": said["changes"][:PAGE], "more": len(said["changes"]) > PAGE}
        said |= {"verified": None, "error": None, "note": "", "asked": asked, "kinds": KINDS}
        return site.page(request, "audit.html.j2", status, **{**said, **more})

    @router.get("")
    async def log(
        request: Request,
        kind: str = "",
        actor: str = "",
        namespace: str = "",
        q: str = "",
        before: str = "",
        done: str = "",
    ) -> Response:
        """The changes, newest first."""
        note = {"back": "The edits are as they were; the log shows what that changed."}.get(done, "")
        said = dict(zip(FILTERS, (kind, actor, namespace, q, before), strict=True))
        return await drawn(request, said, note=note)

    @router.post("/verify")
    async def verify(request: Request) -> Response:
        """Check the file, the chain, the checkpoints and the index."""
        await form_of(request)
        faults = await site.store.read(lambda memory: (memory.verify(), memory.seq))
        return await drawn(request, dict.fromkeys(FILTERS, ""), verified=faults)

    @router.post("/checkpoint")
    async def checkpoint(request: Request) -> Response:
        """Sign the log as it stands."""
        await form_of(request)
        try:
            made = await site.store.write(lambda memory: memory.checkpoint())
        except ServeError as error:
            return await drawn(request, dict.fromkeys(FILTERS, ""), error=error)
        note = f"Checkpoint at change {made.seq}, signed by key {made.key_id}."
        return await drawn(request, dict.fromkeys(FILTERS, ""), note=note)

    async def before(request: Request, to: str, status: int = 200, error: ServeError | None = None) -> Response:
        """What a roll-back would concern."""
        caller, at = caller_of(request), point("to", to or None)

        def look(memory: EditMemory) -> dict[str, Any]:
            aim = memory.seq if at is None else at
            ids = concerned(memory, Rollback(to=to or str(memory.seq)), aim, caller, None)
            pairs = []
            for id in ids[:SHOWN]:
                changes = memory.history(id)
                stood = [change for change in changes if not behind(change, aim)]
                pairs.append((id, changes[-1], stood[-1] if stood else None))
            return {"pairs": pairs, "count": len(ids), "seq": memory.seq}

        said = await site.store.read(look)
        return site.page(request, "rollback.html.j2", status, to=to or str(said["seq"]), error=error, **said)

    @router.get("/rollback")
    async def ask(request: Request, to: str = "") -> Response:
        """What going back to a point would change, and whether that is meant."""
        return await before(request, to.strip())

    @router.post("/rollback")
    async def rollback(request: Request) -> Response:
        """Go back: every edit in the caller's reach becomes what it was; the log keeps what is undone."""
        form = await form_of(request)
        to = form.get("to", "").strip()
        if not to:
            raise bad_request("to: missing; wanted the number of a change, or a moment", "to")
        at, caller = point("to", to), caller_of(request)
        try:
            body = body_of(Rollback, form, to=to)
        except ServeError as error:
            return await before(request, to, error.status, error)
        by = author(request, body)
        ids = await site.store.read(lambda memory: concerned(memory, body, at, caller, None))
        if ids:
            await site.store.write(lambda memory: memory.rollback(at, ids, by=by))
        return see_other("/ui/audit?done=back")

    return router


def backwards(memory: EditMemory, before: int | None) -> Iterator[Change]:
    """The changes in front of number `before`, the newest first."""
    high = memory.seq if before is None else min(before - 1, memory.seq)
    while high > 0:
        low = max(0, high - BLOCK)
        yield from reversed(memory.changes(low, high - low))
        high = low


def behind(change: Change, aim: int | datetime) -> bool:
    """Whether a change came after a point."""
    return change.seq > aim if isinstance(aim, int) else moment("time", change.time) > aim


def told(change: Change, asked: Fields, caller: Caller) -> bool:
    """Whether a change is one of those asked for, and in reach."""
    by, edit = change.by, change.edit
    said = " ".join([change.id, by.reason, by.ticket, by.source, edit.statement if edit else ""]).casefold()
    return (
        caller.reaches(change.namespace)
        and asked["kind"] in ("", change.kind)
        and asked["actor"].strip().casefold() in by.actor.casefold()
        and asked["namespace"] in ("", change.namespace)
        and all(word in said for word in asked["q"].casefold().split())
    )
