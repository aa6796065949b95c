"""Records of a local file, read here, or of a dataset on the hub, streamed with `datasets`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lte.align.dataset import AlignError
from lte.records.reading import stream_records
from lte.records.record import Record

ROWS = {".json", ".jsonl"}


def records_of(
    path: str, subset: str | None = None, split: str = "train", revision: str | None = None, file: str | None = None
) -> Iterator[Record]:
    """The records of a JSON, JSONL or Parquet file, or of a folder or hub id that `datasets` reads.

    JSON is read here and not by `datasets`: one field of a published file may be text in one record and a list in the
    next, which no Arrow schema holds.
    """
    place = Path(path)
    if place.is_file() and place.suffix != ".parquet":
        yield from stream_records(place)
    elif place.is_file():
        yield from _streamed(path, "parquet", data_files=path, split="train")
    elif file and Path(file).suffix in ROWS:
        yield from stream_records(_fetched(path, file, revision))
    elif place.suffix in {*ROWS, ".parquet"} or place.is_absolute():
        if not place.is_dir():
            raise AlignError(f"{path}: no such file; give the path of a JSON, JSONL or Parquet file, or a hub id")
        yield from _streamed(path, path, name=subset, split=split)
    else:
        yield from _streamed(path, path, name=subset, split=split, revision=revision, data_files=file)


def file_hash(path: str) -> str | None:
    """SHA-256 of a local file, or of a folder's files and their names; None for a dataset on the hub."""
    place = Path(path)
    if place.is_file():
        digest = hashlib.sha256()
        with place.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        return digest.hexdigest()
    if not place.is_dir():
        return None
    found = sorted(p for p in place.rglob("*") if p.is_file())
    told = [f"{p.relative_to(place)}\0{file_hash(str(p))}" for p in found]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _fetched(repository: str, file: str, revision: str | None) -> Path:
    """A JSON file of a dataset on the hub, as a local copy: read here, for the reason that `records_of` names."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:
        raise AlignError(
            f"{repository}: {file} cannot be had ({str(error).splitlines()[0]}); check id, file and revision, or fetch "
            "the file and give its path"
        ) from error


def _streamed(shown: str, path: str, **wanted: Any) -> Iterator[Record]:
    from datasets import load_dataset

    number = -1
    try:
        for number, row in enumerate(load_dataset(path, streaming=True, **wanted)):
            # a field that some records lack is null in the others
            yield Record({k: v for k, v in row.items() if v is not None}, Path(shown), number)
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError) or type(error).__module__.startswith("lte."):
            raise
        at = f"after record {number}: " if number >= 0 else ""
        raise AlignError(
            f"{shown}: {at}cannot be read ({error}); check the id, subset, split and revision, or fetch the file and "
            "give its path"
        ) from error
