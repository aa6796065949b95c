"""The forms that change an edit: what they show, and what becomes of them when they are sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lte.memory import Record
from lte.serve.edits_common import author, point, record_of
from lte.serve.edits_ops import Done, changed_since
from lte.serve.edits_wire import EditIn, NewEdit, Patch, RollbackOne, StateIn, TestRun, Why
from lte.serve.errors import ServeError
from lte.serve.pages.edits import edit_page, shown_conflicts
from lte.serve.pages.forms import FORM, WHY, body_of, fields_of
from lte.serve.pages.site import Fields, Site, form_of, see_other
from lte.serve.policy import caller_of

MENDED = frozenset({400, 409, 412, 413, 422})  # what is told in the form itself
EMPTY = {name: "" for name in (*FORM, *WHY, "namespace", "seq")} | {"state": "active"}
Act = Callable[[Fields], Awaitable[Done]]


def change_pages(site: Site) -> APIRouter:
    """Adding, changing, superseding; state, deletion, tests, roll-back of one edit."""
    router = APIRouter(prefix="/ui/edits", include_in_schema=False)
    desk, ops = site.desk, site.desk.ops

    async def drawn(request: Request, kind: str, old: Record | None, **more: Any) -> Response:
        """The form of a kind: add, change or supersede."""
        counted = await site.store.read(lambda memory: memory.namespaces())
        spaces = site.namespaces(caller_of(request), counted)
        said = {"fields": EMPTY, "error": None, "conflicts": [], "kind": kind, "old": old, "spaces": spaces}
        own = desk.config.namespace if desk.config.namespace in spaces else spaces[0] if spaces else ""
        return site.page(request, "edit_form.html.j2", **{**said, **more}, own=own)

    async def sent(request: Request, kind: str, old: Record | None, act: Act, word: str) -> Response:
        """Where a form that was sent leads: to the edit, or back to the form with what is wrong."""
        form = await form_of(request)
        try:
            done = await act(form)
        except ServeError as error:
            if error.status not in MENDED:
                raise
            fields = {**EMPTY, **form}
            told = shown_conflicts(caller_of(request), error)
            return await drawn(request, kind, old, fields=fields, error=error, status=error.status, **told)
        return await after(request, done, word)

    async def after(request: Request, done: Done, word: str) -> Response:
        if done.report is None:
            return see_other(f"/ui/edits/{done.record.id}?done={word}")
        return await edit_page(site, request, done.record.id, report=done.report)

    @router.get("/new")
    async def new(request: Request, prompt: str = "", subject: str = "") -> Response:
        """An empty form, or one with some of it filled in."""
        return await drawn(request, "add", None, fields={**EMPTY, "prompt": prompt, "subject": subject})

    @router.post("")
    async def add(request: Request) -> Response:
        """Write an edit."""

        async def act(form: Fields) -> Done:
            body = body_of(NewEdit, form)
            record = record_of(body, desk.namespace(request, body.namespace))
            desk.fit([record])
            [done] = await ops.create([record], author(request, body), body.on_conflict or "refuse")
            return done

        return await sent(request, "add", None, act, "added")

    @router.get("/{id}/change")
    async def change_form(request: Request, id: str) -> Response:
        """The edit as it stands, to be changed."""
        old = await desk.seen(request, id)
        return await drawn(request, "change", old, fields={**EMPTY, **fields_of(old), "seq": str(old.seq)})

    @router.post("/{id}/change")
    async def change(request: Request, id: str) -> Response:
        """Change what was changed in the form; 412 where somebody else was quicker."""
        old = await desk.seen(request, id)

        async def act(form: Fields) -> Done:
            same(old, form)
            body = body_of(Patch, form, fields_of(old))
            if not body.changes:
                raise ServeError("nothing is other than it was", 400, None, "missing")

            def seen(record: Record) -> None:
                same(record, form)

            return await ops.change(
                id,
                lambda record: body.fields(record.edit, True),
                author(request, body),
                body.on_conflict or "refuse",
                seen,
                True,
                lambda record: desk.fit([record]),
            )

        return await sent(request, "change", old, act, "changed")

    @router.get("/{id}/supersede")
    async def supersede_form(request: Request, id: str) -> Response:
        """The edit as it stands, for one that takes its place."""
        old = await desk.seen(request, id)
        kept = fields_of(old) | {"target_true": old.edit.target_new, "target_new": "", "valid_from": "", "tests": ""}
        return await drawn(request, "supersede", old, fields={**EMPTY, **kept, "state": "active", "seq": str(old.seq)})

    @router.post("/{id}/supersede")
    async def supersede(request: Request, id: str) -> Response:
        """Write an edit in the place of this one."""
        old = await desk.seen(request, id)

        async def act(form: Fields) -> Done:
            same(old, form)
            body = body_of(EditIn, form)
            record = record_of(body, old.namespace)
            desk.fit([record])
            return await ops.supersede(old, record, author(request, body), body.on_conflict or "refuse")

        return await sent(request, "supersede", old, act, "superseded")

    async def acted(request: Request, id: str, act: Callable[[Fields, Record | None], Awaitable[Response]]) -> Response:
        """What one of the buttons on an edit's page leads to."""
        form = await form_of(request)
        await desk.in_sight(request, id)
        try:
            record = await site.store.read(lambda memory: memory.history(id)[-1].record, id)
            if record is not None:
                same(record, form)
            return await act(form, record)
        except ServeError as error:
            if error.status not in MENDED:
                raise
            return await edit_page(site, request, id, error.status, error=error)

    @router.post("/{id}/state")
    async def state(request: Request, id: str) -> Response:
        """Activate, disable, quarantine or shadow it."""

        async def act(form: Fields, record: Record | None) -> Response:
            body = body_of(StateIn, form, state=form.get("state"))
            old = await desk.seen(request, id)
            done = await ops.set_state(old, body.state, author(request, body), body.on_conflict or "refuse")
            return await after(request, done, "state")

        return await acted(request, id, act)

    @router.post("/{id}/delete")
    async def delete(request: Request, id: str) -> Response:
        """Withdraw it; the log keeps it."""

        async def act(form: Fields, record: Record | None) -> Response:
            by = author(request, body_of(Why, form))
            old = await desk.seen(request, id)
            await site.store.write(lambda memory: memory.delete(id, by=by, expected=old.seq), id)
            return see_other(f"/ui/edits/{id}?done=deleted")

        return await acted(request, id, act)

    @router.post("/{id}/test")
    async def test(request: Request, id: str) -> Response:
        """Run its tests."""

        async def act(form: Fields, record: Record | None) -> Response:
            old = await desk.seen(request, id)
            body = TestRun(quarantine=form.get("quarantine") == "yes", reason=form.get("reason", "").strip())
            done = await ops.test(old, body.quarantine, author(request, body))
            return await edit_page(site, request, id, report=done.report)

        return await acted(request, id, act)

    @router.post("/{id}/rollback")
    async def rollback(request: Request, id: str) -> Response:
        """Undo its last change, or bring it back as it was after a change."""

        async def act(form: Fields, record: Record | None) -> Response:
            to = point("to", form.get("to", "").strip() or None)
            by = author(request, body_of(RollbackOne, form))
            await site.store.write(lambda memory: memory.rollback(to, [id], by=by), id)
            return see_other(f"/ui/edits/{id}?done=back")

        return await acted(request, id, act)

    return router


def same(record: Record, form: Fields) -> None:
    """412 where the record is another than the form was drawn from."""
    if (seen := form.get("seq", "")) and seen != str(record.seq):
        raise changed_since(
            ServeError(f"the edit was changed meanwhile (change {record.seq}); look at what it is now, and decide anew")
        )
