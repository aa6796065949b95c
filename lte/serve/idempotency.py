"""`Idempotency-Key`: a change that is sent twice, as nobody heard the answer, is made once and answered twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lte.serve.errors import ServeError, bad_request, refuse

NAME = re.compile(rb"[\x21-\x7e]{1,255}")
DAY = 24 * 3600.0
CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
TABLE = """CREATE TABLE IF NOT EXISTS answers (
    id TEXT PRIMARY KEY, request TEXT NOT NULL, time REAL NOT NULL, status INTEGER, headers TEXT, body BLOB
)"""


@dataclass(frozen=True)
class Answer:
    """What was answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Answers:
    """The answers of a day, at most `rows` of them and `size` bytes: beyond, the oldest go first.

    path  of a database of its own, made at the first use; ":memory:" forgets when the server stops
    """

    def __init__(
        self, path: str, rows: int = 10_000, size: int = 64 << 20, now: Callable[[], float] = time.time
    ) -> None:
        self._path, self._rows, self._size, self._now = path, rows, size, now
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def begin(self, id: str, request: str) -> Answer | None:
        """The answer that the request has had; None where it is new, and from now on in work.

        Raises `ServeError`: 422 for an id that stood for another request, 409 for one whose answer is not known (yet).
        """
        with self._lock, self._open() as db:
            db.execute("DELETE FROM answers WHERE time <= ?", (self._now() - DAY,))
            new = db.execute(
                "INSERT OR IGNORE INTO answers (id, request, time) VALUES (?, ?, ?)", (id, request, self._now())
            )
            if new.rowcount:
                return None
            row = db.execute("SELECT request, status, headers, body FROM answers WHERE id = ?", (id,)).fetchone()
        before, status, headers, body = row
        if before != request:
            text = "Idempotency-Key: it came with another request before; a new request takes a new key"
            raise ServeError(text, 422, "Idempotency-Key", "idempotency_key_reused")
        if status is None:
            text = "Idempotency-Key: that request is in work; ask again shortly"
            raise ServeError(text, 409, "Idempotency-Key", "idempotency_in_progress", retry_after=1)
        if not status:
            text = "Idempotency-Key: the server ended during that request; look whether the change was made"
            raise ServeError(text, 409, "Idempotency-Key", "idempotency_unknown")
        return Answer(status, tuple((name, value) for name, value in json.loads(headers)), body)

    def end(self, id: str, answer: Answer | None) -> None:
        """Keep what was answered; None and a failure of the server are forgotten: the request can be made anew."""
        with self._lock, self._open() as db:
            if answer is None or answer.status >= 500:
                db.execute("DELETE FROM answers WHERE id = ?", (id,))
                return
            db.execute(
                "UPDATE answers SET status = ?, headers = ?, body = ? WHERE id = ?",
                (answer.status, json.dumps(answer.headers), answer.body, id),
            )
            db.execute(
                "DELETE FROM answers WHERE status IS NOT NULL AND id IN (SELECT id FROM (SELECT id, "
                "row_number() OVER newest AS place, sum(length(body)) OVER newest AS size FROM answers "
                "WINDOW newest AS (ORDER BY time DESC, rowid DESC)) WHERE place > ? OR size > ?)",
                (self._rows, self._size),
            )

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            if self._path != ":memory:":
                Path(self._path).touch(0o600)
                os.chmod(self._path, 0o600)  # it quotes what clients wrote
            self._db = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._db:
                self._db.execute(TABLE)
                self._db.execute("UPDATE answers SET status = 0 WHERE status IS NULL")  # cut short by a crash
        return self._db


class Idempotency:
    """Answers a repeated change under `prefix` as it was answered first; requests without the header pass."""

    def __init__(self, app: ASGIApp, answers: Answers, prefix: str = "/v1/edits") -> None:
        self.app, self._answers, self._prefix = app, answers, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", ())).get(b"idempotency-key")
        if name is None or scope.get("method") not in CHANGES or not scope["path"].startswith(self._prefix):
            await self.app(scope, receive, send)
            return
        try:
            if not NAME.fullmatch(name):
                raise bad_request("Idempotency-Key: wanted 1 to 255 printable characters", "Idempotency-Key")
            id = f"{_who(scope)} {name.decode()}"  # a key of one client says nothing to another
            body = scope["lte.body"]
            before = await self._ask(lambda: self._answers.begin(id, _print(scope, body)))
        except ServeError as error:
            await refuse(error, scope, receive, send)
            return
        if before is not None:
            headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in before.headers]
            headers.append((b"idempotency-replayed", b"true"))
            await send({"type": "http.response.start", "status": before.status, "headers": headers})
            await send({"type": "http.response.body", "body": before.body})
            return
        await self._first(id, scope, receive, send)

    async def _first(self, id: str, scope: Scope, receive: Receive, send: Send) -> None:
        status, headers, body, held = 0, list[tuple[str, str]](), bytearray(), list[Message]()

        async def kept(message: Message) -> None:
            nonlocal status, headers
            held.append(message)
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message.get("headers", ())]
            else:
                body.extend(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                answer = Answer(status, tuple(headers), bytes(body))  # on disk before the client hears of it
                await self._ask(lambda: self._answers.end(id, answer))
                for one in held:
                    await send(one)

        try:
            await self.app(scope, receive, kept)
        except Exception:
            await self._ask(lambda: self._answers.end(id, None))
            raise

    async def _ask(self, call: Callable[[], Answer | None]) -> Answer | None:
        try:
            return await asyncio.to_thread(call)
        except sqlite3.Error as error:
            text = f"Idempotency-Key: the kept answers cannot be read ({error}); leave the header out, or ask again"
            raise ServeError(text, 503, "Idempotency-Key", "idempotency_unavailable", retry_after=1) from error


def _who(scope: Scope) -> str:
    key = getattr(scope.get("lte.caller"), "key", None)
    return key.id if key else "anyone"


def _print(scope: Scope, body: bytes) -> str:
    first = f"{scope['method']} {scope['path']}?".encode() + scope.get("query_string", b"") + b"\n"
    return hashlib.sha256(first + body).hexdigest()
