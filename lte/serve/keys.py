"""API keys: who may do what in which namespaces. The file holds digests of them, never a key."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from lte.config import Config
from lte.serve.errors import ServeError

TOKEN = re.compile(r"lte_([0-9a-f]{12})_[\w-]{43}")  # found by secret scanners, and by the log's redaction
SPAN = re.compile(r"(\d{1,6})\s*(m|h|d)")
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
NOBODY = hashlib.sha256(b"").hexdigest()


class Scope(str, Enum):
    """What a key may do; each may do what those before it may."""

    read = "read"  # ask questions, read edits
    write = "write"  # change edits
    admin = "admin"  # change how the server runs

    def covers(self, other: Scope) -> bool:
        """Whether a key of this scope may do what `other` asks for."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Key(Config):
    """A key as the file keeps it: all but the key.

    sha256      of the whole key, which is random: a slow hash would protect nothing, and be paid by every request
    namespaces  those it reaches, the first where a request names none; None: every one
    """

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scope: Scope
    namespaces: tuple[str, ...] | None = Field(None, min_length=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> str:
        """active, revoked or expired."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


class _File(Config):
    version: int = Field(1, ge=1, le=1)
    keys: tuple[Key, ...] = ()


class KeysFault(ServeError):
    """A file of keys that cannot be used: nobody is let in, as nobody can be told from anybody."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 503, code="keys_unavailable", retry_after=1)


class KeyFile:
    """The keys of one file; what another process changes in it holds from the next look on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, ...] | None = None
        self._seen = self.path.exists()
        self._keys: dict[str, Key] = {}

    def exists(self) -> bool:
        """Whether keys are in use; once they were seen to be, a file that is gone is a `KeysFault`."""
        self._seen = self._seen or self.path.exists()
        return self._seen

    def every(self) -> list[Key]:
        """Every key that was made, oldest first; `KeysFault` for a file that is gone, damaged, or open to others."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise KeysFault(f"{self.path}: the keys cannot be read ({error.strerror}); put the file back") from error
        if found.st_mode & 0o077:
            mode = f"{found.st_mode & 0o777:o}"
            raise KeysFault(f"{self.path}: mode {mode}, so others than its owner reach it: chmod 600 {self.path}")
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._stamp:
            self._keys = {key.id: key for key in self._read()}
            self._stamp = stamp
        return list(self._keys.values())

    def find(self, token: str) -> Key | None:
        """The key that `token` is, whatever its state; None for what is no key of this file."""
        self.every()
        match = TOKEN.fullmatch(token)
        key = self._keys.get(match[1]) if match else None
        same = hmac.compare_digest(digest(token), key.sha256 if key else NOBODY)  # as long for an id that is unknown
        return key if key and same else None

    def create(
        self, name: str, scope: Scope, namespaces: tuple[str, ...] | None = None, lasts: timedelta | None = None
    ) -> tuple[Key, str]:
        """A new key, and the only sight of it: 256 random bits behind its id."""
        now = datetime.now(timezone.utc)
        id = secrets.token_hex(6)
        token = f"lte_{id}_{secrets.token_urlsafe(32)}"
        key = Key(
            id=id,
            name=name,
            sha256=digest(token),
            scope=scope,
            namespaces=namespaces,
            created=now,
            expires=now + lasts if lasts else None,
        )
        with self._changing() as keys:
            keys.append(key)
        return key, token

    def revoke(self, id: str) -> Key:
        """The key as it stands now: refused from the next request on, and kept in the file with the time."""
        with self._changing() as keys:
            at = next((i for i, key in enumerate(keys) if key.id == id), None)
            if at is None:
                raise ServeError(f"{id!r}: no such key in {self.path}; `lte serve keys list` names them", 404)
            if keys[at].revoked is None:
                keys[at] = keys[at].model_copy(update={"revoked": datetime.now(timezone.utc)})
        return keys[at]

    def _read(self) -> tuple[Key, ...]:
        try:
            return _File.model_validate(json.loads(self.path.read_text(encoding="utf-8"))).keys
        except (OSError, ValueError) as error:
            where = error.errors()[0]["loc"] if isinstance(error, ValidationError) else error
            message = f"{self.path}: not a file of keys ({where}); restore it from a copy, or make new keys in another"
            raise KeysFault(message) from None  # what pydantic says would quote the file

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, to change; written whole behind a rename, one writer at a time."""
        own = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(own, fcntl.LOCK_EX)
            keys = self.every() if self.path.exists() else []
            yield keys
            beside = f"{self.path}.new"
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(_File(keys=tuple(keys)).model_dump_json(indent=1))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        finally:
            os.close(own)


def digest(token: str) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def lasting(text: str) -> timedelta:
    """How long "90d", "12h" or "30m" is; `ServeError` for another text."""
    match = SPAN.fullmatch(text.strip())
    if not match or not int(match[1]):
        raise ServeError(f"expires: {text!r}; wanted a number of days, hours or minutes: 90d, 12h, 30m", 422)
    return int(match[1]) * UNITS[match[2]]
