"""`ETag`, `If-Match`, `If-None-Match`: a change meant for another state than there is is not made (RFC 9110, 13)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from lte.serve.errors import ServeError


def etag_of(shown: Mapping[str, Any]) -> str:
    """The tag of what a client was shown: another for any other value in it."""
    text = json.dumps(shown, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return f'"{hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]}"'


def check_match(request: Request, etag: str) -> None:
    """`ServeError` 412 where the request was made for another state than `etag`; without If-Match any state will do."""
    wanted = request.headers.get("if-match")
    if wanted is None or wanted.strip() == "*" or etag in _tags(wanted):
        return
    raise ServeError(
        f"If-Match: {wanted[:80]} is not how it stands now ({etag}); read it again, and repeat the change on that",
        412,
        "If-Match",
        "precondition_failed",
        headers={"etag": etag},
    )


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has this state already, so that 304 will do."""
    had = request.headers.get("if-none-match")
    return had is not None and (had.strip() == "*" or etag in [tag.removeprefix("W/") for tag in _tags(had)])


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
