"""All routes under /ui."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from lte.serve.pages.audit import audit_pages
from lte.serve.pages.changes import change_pages
from lte.serve.pages.edits import edit_pages
from lte.serve.pages.live import live_pages
from lte.serve.pages.login import login_pages
from lte.serve.pages.playground import playground_pages
from lte.serve.pages.site import HERE, Site, see_other

KINDS = (change_pages, edit_pages, playground_pages, audit_pages, live_pages, login_pages)  # /edits/new before /{id}
STATIC = {"pages.css": "text/css", "htmx.min.js": "text/javascript"}


def page_routes(site: Site) -> APIRouter:
    """The pages of a server; `lte.serve.policy` says who may use which."""
    router = APIRouter(include_in_schema=False)

    @router.get("/ui")
    async def home() -> Response:
        """The edits come first."""
        return see_other("/ui/edits")

    for name, kind in STATIC.items():
        _file(router, name, kind)
    for pages in KINDS:
        router.include_router(pages(site))
    return router


def _file(router: APIRouter, name: str, kind: str) -> None:
    @router.get(f"/ui/{name}")
    async def file() -> Response:
        """A file that the pages need; looked for anew each time it is, as it changes with the version."""
        return FileResponse(HERE / "static" / name, media_type=kind, headers={"cache-control": "no-cache"})
