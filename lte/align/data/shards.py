"""Rows in Parquet shards, as `datasets.load_dataset(FOLDER)` reads them, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lte.align.dataset import AlignError, Row

FIGURES = "dataset.json"
COLUMNS = {
    "prompt": "the user's turn", "answer": "what is learned", "role": "what the row is there for",
    "source": "the source's name", "item": "the record's id there", "query": "the question alone",
    "edits": "the statements above it, in their order", "target": "own (the base model's answer) or gold",
    "prompt_tokens": "of the rendered prompt", "answer_tokens": "of the answer",
}  # fmt: skip
GROUP = 2000  # rows written at a time


class Shards:
    """Writes rows into numbered files of `rows` each; `sha256` is that of all rows in their order."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.most, self.count = folder, rows, 0
        self._digest = hashlib.sha256()
        self._held: list[Mapping[str, Any]] = []
        self._writer: Any = None
        self._files: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def sha256(self) -> str:
        """The hash of the rows so far."""
        return self._digest.hexdigest()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row of all `COLUMNS`."""
        self._digest.update(json.dumps([row[name] for name in COLUMNS], ensure_ascii=False).encode() + b"\n")
        self._held.append(row)
        self.count += 1
        if len(self._held) == GROUP or self.count % self.most == 0:
            self._flush()
        if self.count % self.most == 0:
            self._close()

    def close(self) -> list[str]:
        """Finish; the files' names, which say how many there are."""
        if self._held:
            self._flush()
        self._close()
        named = []
        for i, path in enumerate(self._files):
            named.append(f"train-{i:05d}-of-{len(self._files):05d}.parquet")
            path.rename(path.with_name(named[-1]))
        return named

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        numbers = {"prompt_tokens": pa.int32(), "answer_tokens": pa.int32(), "edits": pa.list_(pa.string())}
        schema = pa.schema([(name, numbers.get(name, pa.string())) for name in COLUMNS])
        if self._writer is None:
            self._files.append(self.folder / f"part-{len(self._files):05d}.parquet")
            self._writer = pq.ParquetWriter(self._files[-1], schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist([dict(r) for r in self._held], schema))
        self._held = []

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_figures(folder: str | Path) -> dict[str, Any]:
    """What a dataset says of itself; an `AlignError` where the folder holds no finished one."""
    path, mend = Path(folder) / FIGURES, f"build it: lte align data CONFIG --output {folder}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AlignError(f"{path}: cannot be read ({error}); {mend}") from error
    if not isinstance(found, dict) or not {"rows", "sha256", "files"} <= set(found):
        raise AlignError(f"{path}: not the figures of a dataset; {mend}")
    return found


def read_rows(folder: str | Path) -> Iterator[Row]:
    """The rows of a finished dataset in their order; an `AlignError` at the end where they are not what was written."""
    import pyarrow.parquet as pq

    figures = read_figures(folder)
    digest = hashlib.sha256()
    for name in figures["files"]:
        try:
            for batch in pq.ParquetFile(Path(folder) / "data" / name).iter_batches(GROUP):
                for row in batch.to_pylist():
                    digest.update(json.dumps([row[c] for c in COLUMNS], ensure_ascii=False).encode() + b"\n")
                    yield Row(row["prompt"], row["answer"], row["role"])
        except (OSError, ValueError, KeyError) as error:
            raise AlignError(f"{folder}/data/{name}: cannot be read ({error}); build the dataset anew") from error
    if digest.hexdigest() != figures["sha256"]:
        raise AlignError(f"{folder}: its rows are not those that {FIGURES} tells the hash of; build it anew")
