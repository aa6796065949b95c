"""The pages of edits: search, one edit with its history, add, change, supersede, and what else is done to one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from lte.memory import Change, EditMemory, Record
from lte.serve.edits_common import point
from lte.serve.errors import ServeError
from lte.serve.pages.forms import changed
from lte.serve.pages.site import Site
from lte.serve.policy import Caller, caller_of

PAGE = 25  # edits on one
NEAR = 10  # shown where none holds the words
DONE = {
    "added": "The edit is written and in force for the next question.",
    "changed": "The edit is changed; the next question is answered by it as it is now.",
    "superseded": "This edit took the place of the other one.",
    "state": "The edit's state is changed.",
    "deleted": "The edit is deleted: no question that comes in from now on is answered by it.",
    "back": "The edit is as it was before.",
}


def edit_pages(site: Site) -> APIRouter:
    """What is read of edits."""
    router = APIRouter(prefix="/ui/edits", include_in_schema=False)

    @router.get("")
    async def every(
        request: Request, q: str = "", namespace: str = "", state: str = "", as_of: str = "", page: str = "1"
    ) -> HTMLResponse:
        """The edits that hold some words, newest first; where none does, those nearest in meaning."""
        reach, at = site.desk.reach(request, namespace or None), point("as_of", as_of.strip() or None)
        caller, number = caller_of(request), max(1, int(page)) if page.isdigit() and len(page) < 9 else 1

        def look(memory: EditMemory) -> dict[str, Any]:
            records = [r for r in memory.records(reach, at) if caller.reaches(r.namespace)]
            found = [r for r in records if state in ("", r.state) and holds(r, q)]
            near: list[Any] = []
            if q.strip() and not found and records:
                own = reach or site.desk.namespace(request, None)
                hits = memory.search(q, NEAR, own, as_of=at, states=(state,) if state else ("active",))  # type: ignore[arg-type]
                near = [(hit, memory.record(str(hit.edit.id), at)) for hit in hits]
            return {
                "found": sorted(found, key=lambda r: (r.updated, r.seq), reverse=True),
                "near": near,
                "all": len(records),
                "seq": memory.seq,
                "namespaces": site.namespaces(caller, memory.namespaces()),
            }

        said = await site.store.read(look)
        found = said.pop("found")
        said["shown"] = found[(number - 1) * PAGE : number * PAGE]
        asked = {"q": q, "namespace": namespace, "state": state, "as_of": as_of}
        now = datetime.now(timezone.utc)
        pages = max(1, -(-len(found) // PAGE))
        return site.page(
            request, "edits.html.j2", asked=asked, count=len(found), page=number, pages=pages, now=now, **said
        )

    @router.get("/{id}")
    async def one(request: Request, id: str, done: str = "") -> HTMLResponse:
        """An edit as it stands, what can be done to it, and everything that happened to it."""
        return await edit_page(site, request, id, note=DONE.get(done, ""))

    return router


async def edit_page(
    site: Site, request: Request, id: str, status: int = 200, note: str = "", report: Any = None, error: Any = None
) -> HTMLResponse:
    """The page of one edit, of a deleted one too.

    report  what came of its tests just now; error: why what was to be done to it was not done
    """
    changes = await site.store.read(lambda memory: memory.history(id), id)
    caller = caller_of(request)
    await site.desk.in_sight(request, id)
    record = changes[-1].record
    now = datetime.now(timezone.utc)
    said = {"id": id, "record": record, "changes": history_of(changes), "note": note, "report": report, "now": now}
    last = next(c.record for c in reversed(changes) if c.record is not None)
    others = {} if error is None else shown_conflicts(caller, error)
    return site.page(request, "edit.html.j2", status, **said, last=last, error=error, **{"conflicts": [], **others})


def history_of(changes: Sequence[Change]) -> list[tuple[Change, list[tuple[str, str, str]]]]:
    """Each change, the newest first, with what it made other than it was."""
    befores = [None, *(change.record for change in changes)]
    pairs = zip(changes, befores)
    return [(change, changed(change.record, before) if before else []) for change, before in pairs][::-1]


def shown_conflicts(caller: Caller, error: ServeError) -> dict[str, Any]:
    """The conflicts that a refusal tells of, for who may see them."""
    told = error.more.get("conflicts", [])
    return {"conflicts": [c for c in told if caller.reaches(c["edit"]["namespace"])]}


def holds(record: Record, words: str) -> bool:
    """Whether a record holds each of some words, anywhere in what it says, or is the one of that id."""
    edit = record.edit
    said = " ".join([record.id, edit.statement, edit.subject, edit.target_true or "", *edit.aliases, *record.keys])
    return all(word in said.casefold() for word in words.casefold().split())
