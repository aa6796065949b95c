"""Ordinary text from wherever it lies, read as a stream, with an identity that changes when the text does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from lte.config import Config
from lte.editors.base import EditorError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

SUFFIXES = (".txt", ".jsonl")
BLOCK = 1 << 20  # bytes of a file that are hashed at a time


class DatasetConfig(Config):
    """A dataset that the package `datasets` reads as a stream: nothing is downloaded but what is read.

    path      hub id, or a local folder of data files
    name      the dataset's configuration, e.g. 20231101.en of wikimedia/wikipedia
    revision  branch, tag or commit of the hub's repository
    shuffle   seed of the order: shards are shuffled, and rows within a buffer; None: the dataset's own order
    buffer    rows that are held for it
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    shuffle: int | None = None
    buffer: int = Field(10_000, gt=0)


class Corpus(Protocol):
    """Texts that can be read more than once."""

    def identity(self) -> str:
        """A hash that two corpora share only if they give the same texts in the same order."""

    def __iter__(self) -> Iterator[str]:
        """The texts, one after another; no more than one is held."""


@dataclass(frozen=True)
class Given:
    """Texts that are at hand."""

    texts: Sequence[str]

    def identity(self) -> str:
        """The hash of every text."""
        return _joined(hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


@dataclass(frozen=True)
class Files:
    """.txt files, a text a line, and .jsonl files, a text a line under `column`; blank lines are left out."""

    paths: Sequence[Path]
    column: str = "text"

    @classmethod
    def at(cls, path: Path, column: str = "text") -> Files:
        """The file, or every .txt and .jsonl file in the folder and below, in the order of their paths."""
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()) if path.is_dir() else [path]
        if not found:
            raise EditorError(f"{path}: holds no .txt and no .jsonl file; name a folder that does, or a file")
        if path.is_file() and path.suffix not in SUFFIXES:
            raise EditorError(
                f"{path}: wanted a .txt file (a text a line), a .jsonl file (an object a line) or a folder of them; of "
                "other formats name the folder under statistics.dataset.path, which the package datasets reads"
            )
        return cls(found, column)

    def identity(self) -> str:
        """The hash of the files' bytes, whatever the files are called: one that was changed is another."""
        return _joined([self.column, *(f"{path.suffix} {_file_hash(path)}" for path in self.paths)])

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            try:
                with path.open(encoding="utf-8") as lines:
                    for number, line in enumerate(lines, 1):
                        if line.strip():
                            yield line.strip() if path.suffix == ".txt" else self._text(path, number, line)
            except UnicodeDecodeError as error:
                raise EditorError(f"{path}: not UTF-8 ({error}); save the texts as UTF-8") from error

    def _text(self, path: Path, number: int, line: str) -> str:
        try:
            return _checked(json.loads(line)[self.column])
        except (ValueError, KeyError, TypeError) as error:
            raise EditorError(
                f'{path}:{number}: not a text ({error!r}); wanted {{"{self.column}": ...}} a line; '
                "statistics.column names the field"
            ) from error


@dataclass(frozen=True)
class Dataset:
    """A dataset of the hub or of a local folder, as its settings name it."""

    config: DatasetConfig
    column: str = "text"

    def identity(self) -> str:
        """The dataset's fingerprint: on the hub the commit, of local files their paths and times of change."""
        made = self._builder()
        return _joined(
            [made.hash, made.config_id, str(made.config.version), self.column, self.config.model_dump_json()]
        )

    def __iter__(self) -> Iterator[str]:
        config = self.config
        with _Told(config):
            rows = self._builder().as_streaming_dataset(split=config.split)
            if config.shuffle is not None:
                rows = rows.shuffle(seed=config.shuffle, buffer_size=config.buffer)
            for row in rows:
                if not isinstance(row.get(self.column), str):
                    raise EditorError(
                        f"{config.path}: {self.column}: no text in a row with {', '.join(row)}; "
                        "set statistics.column to the field that holds the texts"
                    )
                yield row[self.column]

    def _builder(self) -> DatasetBuilder:
        try:
            from datasets import load_dataset_builder
        except ModuleNotFoundError as error:
            raise EditorError("statistics.dataset: needs the package datasets; pip install 'lte[align]'") from error
        with _Told(self.config):
            return load_dataset_builder(self.config.path, self.config.name, revision=self.config.revision)


class _Told:
    """Within: what goes wrong in the package `datasets` becomes an `EditorError` that names the dataset."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (OSError, ValueError, RuntimeError)) and not isinstance(error, EditorError):
            c = self.config
            what = " ".join(filter(None, [c.path, c.name, f"split {c.split}", c.revision and f"at {c.revision}"]))
            raise EditorError(
                f"statistics.dataset: {what} cannot be read: {error}; wanted a hub id or a local folder, with the name "
                "and split it has; on a machine without the hub give statistics.text a .jsonl file"
            ) from error


def _joined(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a {type(text).__name__}")
    return text
