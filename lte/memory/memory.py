"""EditMemory: keeps edits, recalls those a query touches."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from lte.config import Config
from lte.edits import Edit, EditError, checked, read_edits, write_jsonl
from lte.memory.encoder import Encoder, SentenceTransformerEncoder, checked_vectors
from lte.memory.fault import MemoryFault
from lte.memory.gate import Thresholds, query_views
from lte.memory.index import Hit, Index
from lte.memory.mirror import Mirror
from lte.memory.store import Change, Draft, Store, unknown

NAMESPACE = "default"


class MemoryConfig(Config):
    """Settings of an edit memory; configs/memory.yaml says how the thresholds were measured."""

    encoder: str = "auto"  # "auto", "offline", or a hub id or folder of a sentence-transformers model
    device: str | None = None  # of the encoder; None: its own choice
    batch_size: int = Field(64, gt=0)  # texts encoded at once
    threshold: float = Field(0.94, ge=-1, le=1)  # the edit has a subject and the query does not mention it
    mention_threshold: float = Field(0.5, ge=-1, le=1)  # the query mentions the edit's subject or an alias
    free_threshold: float = Field(0.8, ge=-1, le=1)  # the edit has no subject
    lock_timeout: float = Field(5.0, ge=0)  # seconds to wait while another process writes
    index_file: bool = True  # keep the vectors in PATH.index between runs; a large memory then opens faster

    @property
    def thresholds(self) -> Thresholds:
        """The three thresholds as the gate takes them."""
        return Thresholds(named=self.threshold, mentioned=self.mention_threshold, free=self.free_threshold)


@dataclass(frozen=True)
class Recalled:
    """An edit that a query came near.

    score      cosine similarity of the nearest pair of views
    mentioned  whether the query names the edit's subject or an alias
    threshold  what the score had to reach
    in_play    whether it did; always so for what `recall` returns
    """

    edit: Edit
    score: float
    mentioned: bool = False
    threshold: float = 0.0
    in_play: bool = True


# The class has a method `list`, which would stand for the type inside it
Edits = list[Edit]
Changes = list[Change]
Recall = list[Recalled]
Recalls = list[Recall]
Faults = list[str]


class EditMemory:
    """Edits in a log on disk, searchable. `open` makes one; safe for several threads and several processes."""

    def __init__(self, store: Store, config: MemoryConfig, encoder: Encoder) -> None:
        self.config, self.encoder = config, encoder
        file = Path(store.path + ".index") if config.index_file and store.path != ":memory:" else None
        self._store, self._mirror = store, Mirror(store, encoder, file)
        self._writing = threading.RLock()  # threads take turns here rather than at the file's lock, which is not fair
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path = ":memory:",
        config: MemoryConfig | None = None,
        encoder: Encoder | None = None,
        rebuild: bool = False,
    ) -> EditMemory:
        """The memory in a database file (made where there is none), or one that lives as long as the process.

        encoder  in place of the one that the config names
        rebuild  encode every edit anew: for a memory that was written with another encoder, or whose vectors are lost
        """
        config = config or MemoryConfig()
        store = Store(path, config.lock_timeout)
        try:
            stands = store.encoder()
            if encoder is None:
                name = stands[0] if stands and config.encoder == "auto" and not rebuild else config.encoder
                encoder = SentenceTransformerEncoder(name, config.device, config.batch_size)
            memory = cls(store, config, encoder)
            if rebuild:
                memory.rebuild()
            else:
                memory._index()
            return memory
        except BaseException:
            store.close()
            raise

    def add(self, edit: Edit, namespace: str = NAMESPACE) -> Edit:
        """The edit under the id it was given; on disk and searchable when this returns."""
        return self.add_many([edit], namespace)[0]

    def add_many(self, edits: Iterable[Edit], namespace: str = NAMESPACE) -> Edits:
        """The edits under their ids: all are written, or none."""
        edits, namespace = [_edit(e) for e in edits], _namespace(namespace)
        encoded = self._mirror.encode(edits)
        return self._write([Draft("add", namespace, e, None, v) for e, v in zip(edits, encoded)])

    def update(self, id: str, edit: Edit) -> Edit:
        """The edit in place of the one that `id` stood for."""
        [encoded] = self._mirror.encode([_edit(edit)])
        return self._write([Draft("update", "", edit, id, encoded)])[0]

    def delete(self, id: str) -> None:
        """Take the edit out of force; the log keeps what it was."""
        self._write([Draft("delete", "", None, id)])

    def get(self, id: str) -> Edit:
        """The edit in force under `id`."""
        entry = self._index().get(id)
        if entry is None:
            raise unknown(self._store.path, id)
        return entry.edit

    def list(self, namespace: str | None = None) -> Edits:
        """The edits in force, of one namespace or of all, in the order in which they were added."""
        return [entry.edit for entry in self._index().entries(namespace)]

    def namespaces(self) -> dict[str, int]:
        """How many edits are in force in each namespace."""
        found: dict[str, int] = {}
        for entry in self._index().entries():
            found[entry.namespace] = found.get(entry.namespace, 0) + 1
        return found

    def history(self, id: str) -> Changes:
        """Everything that happened to the edit, in order."""
        self._check_open()
        return self._store.history(id)

    def recall(self, query: str, k: int = 3, namespace: str = NAMESPACE) -> Recall:
        """At most k edits that the query touches: those it mentions first, then by similarity; often none."""
        return self.recall_many([query], k, namespace)[0]

    def recall_many(self, queries: Sequence[str], k: int = 3, namespace: str = NAMESPACE) -> Recalls:
        """`recall` of each query; they are encoded and searched together."""
        return self._search(queries, k, namespace, all_scores=False)

    def search(self, query: str, k: int = 10, namespace: str = NAMESPACE) -> Recall:
        """The k nearest edits with score and threshold, those in play first: why an edit was recalled, or was not."""
        return self._search([query], k, namespace, all_scores=True)[0]

    def export_jsonl(self, path: str | Path, namespace: str | None = None) -> int:
        """Write the edits in force, one JSON object a line; returns how many."""
        edits = self.list(namespace)
        try:
            write_jsonl(path, edits)
        except OSError as error:
            raise MemoryFault(f"{path}: cannot be written ({error.strerror}); name another file") from error
        return len(edits)

    def import_jsonl(self, path: str | Path, namespace: str = NAMESPACE) -> Edits:
        """The edits of a file as `export_jsonl` writes it, added under new ids: all of them, or none."""
        return self.add_many(read_edits(path), namespace)

    def verify(self) -> Faults:
        """What is wrong with the memory, one line each: a damaged file, an index that the log does not make."""
        self._check_open()
        return self._store.check() + self._mirror.differences()

    def rebuild(self) -> None:
        """Encode every edit in force anew, with this memory's encoder, and build the index from that."""
        with self._writing:
            self._check_open()
            self._mirror.rebuild()

    def close(self) -> None:
        """Keep the index file where one is wanted, and let go of the database."""
        with self._writing:
            if not self._closed:
                self._mirror.save()
                self._store.close()
                self._closed = True

    def __len__(self) -> int:
        return len(self._index())

    def __enter__(self) -> EditMemory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _search(self, queries: Sequence[str], k: int, namespace: str, all_scores: bool) -> Recalls:
        if isinstance(queries, str) or not all(isinstance(q, str) for q in queries):
            raise MemoryFault(f"queries: got {queries!r:.80}; wanted a list of texts")
        if k < 1:
            raise MemoryFault(f"k: got {k}; wanted how many edits to recall at most, 1 or more")
        index = self._index()
        texts = [query_views(q) for q in queries]
        flat = list(dict.fromkeys(t for views_ in texts for t in views_))
        if not flat or not len(index):  # nothing to compare: the encoder need not even be loaded
            return [[] for _ in queries]
        row = {text: i for i, text in enumerate(flat)}
        encoded = checked_vectors(self.encoder, flat, index.dim)
        asked = [i for i, views_ in enumerate(texts) if views_]
        hits = index.search(
            _namespace(namespace),
            [queries[i] for i in asked],
            [encoded[[row[t] for t in texts[i]]] for i in asked],
            k,
            self.config.thresholds,
            all_scores,
        )
        found: Recalls = [[] for _ in queries]
        for i, of_query in zip(asked, hits):
            found[i] = [_recalled(hit) for hit in of_query]
        return found

    def _write(self, drafts: Sequence[Draft]) -> Edits:
        if not drafts:
            return []
        with self._writing:
            self._check_open()
            if self._store.encoder() is None:
                self._store.encode_with(self.encoder.id, self.encoder.dim, {})
            changes = self._store.append(drafts, self.encoder.id)
            self._mirror.index()  # acknowledged only once it is searchable
        return [change.edit for change in changes if change.edit is not None]

    def _index(self) -> Index:
        self._check_open()
        return self._mirror.index()

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryFault(f"{self._store.path}: this memory was closed; open it again")


def _recalled(hit: Hit) -> Recalled:
    return Recalled(hit.entry.edit, hit.score, hit.mentioned, hit.threshold, hit.in_play)


def _edit(edit: Edit) -> Edit:
    if not isinstance(edit, Edit):
        raise MemoryFault(f"edit: got {type(edit).__name__} {edit!r:.80}; wanted lte.Edit(prompt=..., target_new=...)")
    return edit


def _namespace(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise MemoryFault(f"namespace: got {name!r}; wanted a name, e.g. {NAMESPACE!r}")
    try:
        return checked("namespace", name)
    except EditError as error:
        raise MemoryFault(str(error)) from error
