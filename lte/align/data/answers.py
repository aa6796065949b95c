"""The base model's own answers, asked once and kept: a run that was killed asks only what it had not heard."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lte.align.dataset import AlignError
from lte.models import LM


@dataclass(frozen=True)
class Base:
    """The model before alignment, in this process or behind a server.

    id      what its answers are kept under: a hash of its weights, or a server's address and model
    name    what the card calls it
    answer  its greedy answer to each question; None where it did not come to its end
    count   the tokens of each text: of a prompt as the chat template renders it, and of an answer as it is
    """

    id: str
    name: str
    answer: Callable[[Sequence[str]], Sequence[str | None]]
    count: Callable[[Sequence[str], bool], list[int]]


def base_of(lm: LM, max_new_tokens: int, batch_size: int = 64) -> Base:
    """A loaded model as the base."""
    count = counter(lm.tokenizer, lm.render)

    def answer(queries: Sequence[str]) -> list[str | None]:
        said = lm.answer(queries, max_new_tokens, batch_size)
        # decoded text may have a token less than was made: its first blank is stripped
        return [a if n < max_new_tokens - 1 else None for a, n in zip(said, count(said, False), strict=True)]

    return Base(lm.weight_hash(), lm.name, answer, count)


def counter(tokenizer: Any, render: Callable[[str], str]) -> Callable[[Sequence[str], bool], list[int]]:
    """What counts tokens of prompts, as `render` makes them of a user's turn, and of answers."""

    def count(texts: Sequence[str], prompts: bool) -> list[int]:
        shown = [render(t) for t in texts] if prompts else list(texts)
        return [len(ids) for ids in tokenizer(shown, add_special_tokens=False).input_ids] if shown else []

    return count


class Cache:
    """Answers on disk, by model, length and question."""

    def __init__(self, folder: Path | None, base: str, max_new_tokens: int) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = (folder or home / "lte" / "answers") / "answers.sqlite"
        self._of = f"{base}\0{max_new_tokens}\0"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("create table if not exists answers (key blob primary key, answer text)")

    def known(self, query: str, db: sqlite3.Connection) -> tuple[str | None] | None:
        """The answer in a tuple; None where the question was not asked yet."""
        row = db.execute("select answer from answers where key = ?", (self._key(query),)).fetchone()
        return (row[0],) if row else None

    def ask(self, queries: Iterable[str], base: Base, chunk: int, report: Callable[[str, int, int], None]) -> int:
        """Ask the base what it was not asked before and keep every `chunk` of answers; how many were asked."""
        with self._open() as db:
            missing = [q for q in dict.fromkeys(queries) if self.known(q, db) is None]
            missing.sort(key=lambda q: (len(q), q))  # of a length together: little of a batch is filling
            for at in range(0, len(missing), chunk):
                some = missing[at : at + chunk]
                said = list(base.answer(some))
                if len(said) != len(some):
                    raise AlignError(f"{base.name}: {len(said)} answers to {len(some)} questions; wanted one for each")
                rows = [(self._key(q), None if a is None else a.strip()) for q, a in zip(some, said, strict=True)]
                db.executemany("insert or replace into answers values (?, ?)", rows)
                db.commit()
                report("own answers", at + len(some), len(missing))
        return len(missing)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as db:
                yield db
                db.commit()
        except sqlite3.DatabaseError as error:
            raise AlignError(f"{self.path}: {error}; remove it, and the answers are asked again") from error

    reading = _open

    def _key(self, query: str) -> bytes:
        return hashlib.sha256((self._of + query).encode()).digest()
