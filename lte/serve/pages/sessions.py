"""Who is signed in at a browser, and the proof that a form was sent by a page of this server."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from lte.serve.keys import Key, KeyFile

SIGNED_IN, FORMS = "lte_session", "lte_form"  # the two cookies
LASTS = 8 * 3600  # seconds
MOST = 1000  # signed in at once; the first ones go
RANDOM = re.compile(r"[\w-]{43}")


class Sessions:
    """The browsers that showed a key. What the cookie holds says nothing: a random name, new at each signing in."""

    def __init__(self, keys: KeyFile | None) -> None:
        self._keys, self._secret = keys, secrets.token_bytes(32)
        self._open: dict[str, tuple[str, float]] = {}  # name -> id of the key, when it ends

    def open(self, key: Key) -> str:
        """The cookie of a browser that has shown this key."""
        while len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        name = secrets.token_urlsafe(32)
        self._open[name] = (key.id, time.monotonic() + LASTS)
        return name

    def close(self, name: str | None) -> None:
        """Sign out."""
        self._open.pop(name or "", None)

    def key(self, name: str | None) -> Key | None:
        """The key that was shown, as its file has it now; whether it still counts is the guard's to say."""
        id, ends = self._open.get(name or "", ("", 0.0))
        if self._keys is None or not id:
            return None
        if time.monotonic() >= ends:
            self.close(name)
            return None
        return next((key for key in self._keys.every() if key.id == id), None)

    def proof(self, nonce: str, name: str | None) -> str:
        """What a form has to hold: of this server, of one browser, of one signing in."""
        return hmac.new(self._secret, f"{nonce} {name or ''}".encode(), hashlib.sha256).hexdigest()


def cookies_of(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The cookies of a request; none where they cannot be read."""
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in found.items()}


def cookie(name: str, value: str, secure: bool, lasts: int = LASTS) -> bytes:
    """A Set-Cookie header: not for scripts, and not sent along with what other sites ask for."""
    return f"{name}={value}; Path=/ui; Max-Age={lasts}; HttpOnly; SameSite=Strict{'; Secure' * secure}".encode()
