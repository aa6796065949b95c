"""Signing in with a key, and out again."""

from __future__ import annotations

from datetime import datetime, timezone

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lte.serve.guard import refused, same_site
from lte.serve.pages.sessions import SIGNED_IN, cookie, cookies_of
from lte.serve.pages.site import Site, form_of, see_other


def login_pages(site: Site) -> APIRouter:
    """The form for the key, and the way out."""
    router = APIRouter(prefix="/ui", include_in_schema=False)

    @router.get("/login")
    async def ask(request: Request) -> Response:
        """Which key?"""
        return site.page(request, "login.html.j2", error="", locked=site.running.keys is not None)

    @router.post("/login")
    async def login(request: Request) -> Response:
        """Let a browser in that shows a key which counts; whoever was signed in there is no more."""
        same_site(request.method, dict(request.scope["headers"]))  # the guard leaves open routes alone
        form, keys = await form_of(request), site.running.keys
        if keys is None or not keys.exists():
            return see_other("/ui")
        token = form.get("key", "").strip()
        key = keys.find(token)
        state = key.state(datetime.now(timezone.utc)) if key else "unknown" if token else "missing"
        if key is None or state != "active":
            told = refused(request.scope, site.rates, state, key)
            return site.page(request, "login.html.j2", 401, error=str(told), locked=True)
        response = see_other("/ui")
        site.sessions.close(cookies_of(dict(request.scope["headers"])).get(SIGNED_IN))
        name, secure = site.sessions.open(key), request.url.scheme == "https"
        response.raw_headers.append((b"set-cookie", cookie(SIGNED_IN, name, secure)))
        return response

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        """Forget who is signed in at this browser."""
        await form_of(request)
        response = see_other("/ui/login")
        site.sessions.close(cookies_of(dict(request.scope["headers"])).get(SIGNED_IN))
        response.raw_headers.append((b"set-cookie", cookie(SIGNED_IN, "", request.url.scheme == "https", 0)))
        return response

    return router
