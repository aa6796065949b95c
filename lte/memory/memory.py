"""EditMemory: keeps edits, recalls those a query touches."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from lte.config import Config
from lte.edits import Edit, EditError, checked, read_jsonl, write_rows
from lte.memory import signing, validity
from lte.memory.change import Change
from lte.memory.conflicts import Alike, Conflict
from lte.memory.encoder import Encoder, SentenceTransformerEncoder, checked_vectors
from lte.memory.explain import Explanation, explained, kept_out
from lte.memory.fault import MemoryFault
from lte.memory.gate import Thresholds, query_views
from lte.memory.index import ACTIVE, Index, bit, views
from lte.memory.mirror import Mirror
from lte.memory.past import Past
from lte.memory.record import LOCAL, STATES, Author, Record, State, record_from, record_row
from lte.memory.scope import Verdict
from lte.memory.signing import Checkpoint
from lte.memory.stages import MORE, Gated, gate_of
from lte.memory.store import Store, unknown
from lte.memory.writer import KIND, OnConflict, Writer

NAMESPACE = "default"


class MemoryConfig(Config):
    """Settings of an edit memory; configs/memory.yaml says how the thresholds were measured."""

    encoder: str = "auto"  # "auto", "offline", or a hub id or folder of a sentence-transformers model
    device: str | None = None  # of the encoder; None: its own choice
    batch_size: int = Field(64, gt=0)  # texts encoded at once
    threshold: float = Field(0.94, ge=-1, le=1)  # the edit has a subject and the query does not mention it
    mention_threshold: float = Field(0.5, ge=-1, le=1)  # the query mentions the edit's subject or an alias
    free_threshold: float = Field(0.8, ge=-1, le=1)  # the edit has no subject
    scope: str = "off"  # the learned check: "off", "auto" (the shipped one, where it fits the encoder), or a file
    cross_encoder: str | None = None  # hub id or folder of a CrossEncoder that looks at each candidate as well
    cross_threshold: float = Field(0.5, ge=0, le=1)  # the least score of that, after a sigmoid
    conflict_threshold: float = Field(0.6, ge=-1, le=1)  # two prompts without their subject ask for the same
    duplicate_threshold: float = Field(0.97, ge=-1, le=1)  # two statements, one without a subject, say the same
    key_file: str | None = None  # private key that signs checkpoints; none: PATH.key, made with the first one
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
    in_play    whether it did, and no check refused it; always so for what `recall` returns
    verdicts   what the checks said
    """

    edit: Edit
    score: float
    mentioned: bool = False
    threshold: float = 0.0
    in_play: bool = True
    verdicts: tuple[Verdict, ...] = ()


# The class has a method `list`, which would stand for the type inside it
Edits = list[Edit]
Changes = list[Change]
Recall = list[Recalled]
Recalls = list[Recall]
Faults = list[str]
Records = list[Record]
Conflicts = list[Conflict]
Checkpoints = list[Checkpoint]
Gates = list[list[Gated]]


class EditMemory:
    """Edits in a log on disk, searchable. `open` makes one; safe for several threads and several processes."""

    def __init__(
        self,
        store: Store,
        config: MemoryConfig,
        encoder: Encoder,
        clock: Callable[[], datetime] = validity.now,
    ) -> None:
        self.config, self.encoder = config, encoder
        on_disk = store.path != ":memory:"
        self._store, self._clock = store, clock
        self._mirror = Mirror(store, encoder, Path(store.path + ".index") if config.index_file and on_disk else None)
        self._past = Past(store, clock)
        self._gate = gate_of(encoder, config.scope, config.cross_encoder, config.cross_threshold)
        self._writing = threading.RLock()
        alike = Alike(config.conflict_threshold, config.duplicate_threshold)
        self._writer = Writer(store, self._mirror, encoder, alike, self._writing, self._check_open)
        key = config.key_file or (store.path + ".key" if on_disk else None)
        self._signer = signing.Signer(Path(key)) if key else None
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path = ":memory:",
        config: MemoryConfig | None = None,
        encoder: Encoder | None = None,
        rebuild: bool = False,
        clock: Callable[[], datetime] = validity.now,
    ) -> EditMemory:
        """The memory in a database file (made where there is none), or one that lives as long as the process.

        encoder  in place of the one that the config names
        rebuild  encode every edit anew: for a memory that was written with another encoder, or whose vectors are lost
        clock    what time it is, aware: records become valid and expire by it without any write
        """
        config = config or MemoryConfig()
        store = Store(path, config.lock_timeout, clock)
        try:
            stands = store.encoder()
            if encoder is None:
                name = stands[0] if stands and config.encoder == "auto" and not rebuild else config.encoder
                encoder = SentenceTransformerEncoder(name, config.device, config.batch_size)
            memory = cls(store, config, encoder, clock)
            if rebuild:
                memory.rebuild()
            else:
                memory._index()
            return memory
        except BaseException:
            store.close()
            raise

    # --- writing: durable, and searched by every reader, once a call returns -----------------------------------------

    def add(
        self,
        edit: Edit,
        namespace: str = NAMESPACE,
        *,
        by: Author = LOCAL,
        on_conflict: OnConflict = "coexist",
        **more: Any,
    ) -> Edit:
        """The edit under the id it was given; on disk and searchable when this returns.

        more         keys, valid_from, valid_until, state, tests of its `Record`
        on_conflict  where it contradicts or repeats others: "refuse" raises `ConflictFault`, "coexist" lets them be (of
                     edits with one subject and prompt the one written last is recalled), "supersede" takes their place
        """
        return self.add_records([Record("", namespace, _edit(edit), **more)], by=by, on_conflict=on_conflict)[0].edit

    def add_many(
        self,
        edits: Iterable[Edit],
        namespace: str = NAMESPACE,
        *,
        by: Author = LOCAL,
        on_conflict: OnConflict = "coexist",
    ) -> Edits:
        """The edits under their ids: all are written, or none."""
        records = [Record("", _namespace(namespace), _edit(e)) for e in edits]
        return [record.edit for record in self.add_records(records, by=by, on_conflict=on_conflict)]

    def add_records(
        self, records: Iterable[Record], *, by: Author = LOCAL, on_conflict: OnConflict = "coexist"
    ) -> Records:
        """New records under ids of their own, whatever id they came with: all are written, or none."""
        self._check_open()
        found = list(records)
        for record in found:
            _namespace(record.namespace)
        return self._writer.add(found, by, on_conflict) if found else []

    def update(
        self,
        id: str,
        edit: Edit,
        *,
        by: Author = LOCAL,
        expected: int | None = None,
        on_conflict: OnConflict = "coexist",
    ) -> Edit:
        """The edit in place of the one that `id` stood for; its keys, validity, state and tests stay."""
        return self.change(id, by=by, expected=expected, on_conflict=on_conflict, edit=_edit(edit)).edit

    def change(
        self,
        id: str,
        *,
        by: Author = LOCAL,
        expected: int | None = None,
        on_conflict: OnConflict = "coexist",
        **fields: Any,
    ) -> Record:
        """The record with other values of edit, keys, valid_from, valid_until, state or tests.

        expected  the record's `seq` that the caller saw; where it was changed since, `Outdated` is raised
        """
        return self._writer.change(id, fields, by, expected, on_conflict, "update")

    def set_state(
        self,
        id: str,
        state: State,
        *,
        by: Author = LOCAL,
        expected: int | None = None,
        on_conflict: OnConflict = "coexist",
    ) -> Record:
        """The record in another state: only an active one is recalled."""
        kind = KIND.get(state, str(state))
        return self._writer.change(id, {"state": state}, by, expected, on_conflict, kind)

    def supersede(
        self,
        id: str,
        edit: Edit,
        *,
        by: Author = LOCAL,
        expected: int | None = None,
        on_conflict: OnConflict = "coexist",
        **more: Any,
    ) -> Record:
        """A new record in the place of the one under `id`, both changes in one write.

        Without `valid_from` it takes over at once and the old one is disabled; else the old holds until then.
        """
        return self._writer.supersede(id, Record("", NAMESPACE, _edit(edit), **more), by, expected, on_conflict)

    def delete(self, id: str, *, by: Author = LOCAL, expected: int | None = None) -> None:
        """Take the edit away; the log keeps what it was."""
        self._writer.delete([id], by, expected)

    def delete_many(self, ids: Iterable[str], *, by: Author = LOCAL) -> None:
        """Take edits away: all of them, or none."""
        self._writer.delete(list(ids), by, None)

    def rollback(
        self,
        to: int | datetime | None = None,
        ids: Iterable[str] | None = None,
        batch: int | None = None,
        *,
        by: Author = LOCAL,
    ) -> Changes:
        """Write again what was: everything as it was at `to` (only `ids`, where given), or undo the last change of each
        of `ids`, or undo the write whose changes have the number `batch`. The log keeps what is rolled back.

        Raises `Outdated` where a record of the batch was changed by a later write.
        """
        self._check_open()
        ids, then, seen = self._past.target(to, None if ids is None else list(ids), batch)
        return self._writer.restore(ids, then, by, seen)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, id: str, as_of: int | datetime | None = None) -> Edit:
        """The edit under `id`, whatever its state; as it is, or as it was after a change or at a moment."""
        return self.record(id, as_of).edit

    def record(self, id: str, as_of: int | datetime | None = None) -> Record:
        """The whole record under `id`; as it is, or as it was after a change or at a moment."""
        if as_of is None:
            return self._writer.current(self._index(), id)
        self._check_open()
        for change in self._store.standing(self._past.resolve(as_of).seq, [id]):
            if change.record is not None:
                return change.record
        raise unknown(self._store.path, id)

    def list(self, namespace: str | None = None, as_of: int | datetime | None = None) -> Edits:
        """The edits that are not deleted, of one namespace or of all, in the order in which they were added."""
        return [record.edit for record in self.records(namespace, as_of)]

    def records(
        self,
        namespace: str | None = None,
        as_of: int | datetime | None = None,
        states: Collection[State] | None = None,
    ) -> Records:
        """The whole records that are not deleted, all or those in some states, in the order of adding."""
        if as_of is None:
            found = [entry.record for entry in self._index().entries(namespace)]
        else:
            self._check_open()
            there = sorted(self._store.standing(self._past.resolve(as_of).seq), key=lambda c: (len(c.id), c.id))
            found = [change.record for change in there if namespace in (None, change.namespace)]
        return [record for record in found if record is not None and (states is None or record.state in states)]

    def namespaces(self) -> dict[str, int]:
        """How many edits there are in each namespace."""
        return dict(Counter(entry.namespace for entry in self._index().entries()))

    def states(self) -> dict[State, int]:
        """How many edits there are in each state, whatever the time they hold for."""
        found = Counter("active" if e.record is None else e.record.state for e in self._index().entries())
        return {state: found[state] for state in STATES}

    @property
    def seq(self) -> int:
        """Number of the newest change; 0 where there is none."""
        self._check_open()
        return self._store.last()

    def history(self, id: str) -> Changes:
        """Everything that happened to the edit, in order."""
        self._check_open()
        return self._store.history(id)

    def changes(self, after: int = 0, count: int | None = None) -> Changes:
        """What was changed behind number `after`, in order, all or at most so many changes."""
        self._check_open()
        return self._store.changes(after, count)

    def conflicts(self, edit: Edit, namespace: str = NAMESPACE, *, but: Iterable[str] = (), **more: Any) -> Conflicts:
        """The active records that an edit would contradict or repeat at a time at which both hold; nothing is written.

        more  valid_from and valid_until of the edit; but: ids that do not count, such as the one it is to replace
        """
        return self._writer.conflicts(Record("", _namespace(namespace), _edit(edit), **more), self._index(), but)

    def recall(
        self,
        query: str,
        k: int = 3,
        namespace: str = NAMESPACE,
        *,
        as_of: int | datetime | None = None,
        states: Collection[State] = ACTIVE,
    ) -> Recall:
        """At most k edits that the query touches: those it mentions first, then by similarity; often none.

        Active ones that are valid now; with `as_of` those that were after a change (at its time) or at a moment. A
        moment to come shows what is scheduled.
        """
        return self.recall_many([query], k, namespace, as_of=as_of, states=states)[0]

    def recall_many(
        self,
        queries: Sequence[str],
        k: int = 3,
        namespace: str = NAMESPACE,
        *,
        as_of: int | datetime | None = None,
        states: Collection[State] = ACTIVE,
    ) -> Recalls:
        """`recall` of each query; they are encoded and searched together."""
        return self._search(queries, k, namespace, False, as_of, states)

    def search(
        self,
        query: str,
        k: int = 10,
        namespace: str = NAMESPACE,
        *,
        as_of: int | datetime | None = None,
        states: Collection[State] = ACTIVE,
    ) -> Recall:
        """The k nearest edits with score and threshold, those in play first."""
        return self._search([query], k, namespace, True, as_of, states)[0]

    def explain(self, query: str, k: int = 3, namespace: str = NAMESPACE) -> Explanation:
        """Why `recall` gives what it gives: the candidates, what each stage said of them, the nearest miss."""
        [gated] = self._gated([query], k + MORE, namespace, True, None, ACTIVE)
        index, at = self._index(), validity.ticks(validity.moment("clock", self._clock()))
        out = kept_out(index.entries(), namespace, at, bit(ACTIVE))
        asked = query_views(query)
        texts = [asked, *(views(one.hit.entry.edit, one.hit.entry.keys) for one in gated)]
        flat = list(dict.fromkeys(t for some in texts for t in some))
        vector = dict(zip(flat, checked_vectors(self.encoder, flat, index.dim))) if gated else {}
        of = [np.stack([vector[t] for t in some]) for some in texts] if gated else []
        return explained(query, k, self.config.thresholds, gated, [of[0] @ v.T for v in of[1:]], out)

    def export_jsonl(self, path: str | Path, namespace: str | None = None) -> int:
        """Write the records that are not deleted, one JSON object a line; returns how many.

        A record that is no more than its edit is written as the edit.
        """
        records = self.records(namespace)
        try:
            write_rows(path, map(record_row, records))
        except OSError as error:
            raise MemoryFault(f"{path}: cannot be written ({error.strerror}); name another file") from error
        return len(records)

    def import_jsonl(
        self,
        path: str | Path,
        namespace: str = NAMESPACE,
        *,
        by: Author = LOCAL,
        on_conflict: OnConflict = "coexist",
    ) -> Edits:
        """The records of a file as `export_jsonl` writes it, added under new ids: all of them, or none."""
        records = read_records(path, _namespace(namespace))
        return [record.edit for record in self.add_records(records, by=by, on_conflict=on_conflict)]

    # --- what it rests on --------------------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """The state of the log, signed by this memory's key and kept beside it; the key is made where there is none."""
        self._check_open()
        if self._signer is None:
            raise MemoryFault("a memory in this process has no key; name one: key_file")
        (seq, digest), kept = self._store.head(), self._store.checkpoints()
        key = self._signer.public_key()
        if found := next((c for c in kept if (c.seq, c.digest, c.public_key) == (seq, digest, key)), None):
            return found
        made = self._signer.sign(self._store.memory_id, seq, digest, self._clock().isoformat(timespec="seconds"))
        self._store.keep(made)
        return made

    def checkpoints(self) -> Checkpoints:
        """The checkpoints that are kept beside the log, oldest first."""
        self._check_open()
        return self._store.checkpoints()

    def anchor(self, path: str | Path) -> Checkpoint:
        """Add a checkpoint to a file to be kept elsewhere: only against it does a rewrite of everything show."""
        made = self.checkpoint()
        signing.write_anchor(Path(path), made)
        return made

    def public_key(self) -> str:
        """The key that checks this memory's checkpoints, as PEM."""
        if self._signer is None:
            raise MemoryFault("a memory in this process has no key; name one: key_file")
        return self._signer.public_pem()

    def verify(self, anchor: str | Path | None = None, public_key: str | None = None) -> Faults:
        """What is wrong with the memory, one line each: a damaged file, a log or checkpoint that was tampered with, an
        index that the log does not make.

        anchor      a file that `anchor` wrote: also a log that was rewritten as a whole is found
        public_key  PEM of the only key whose signatures count; else the anchor's, else the memory's own key
        """
        self._check_open()
        faults, digests = self._store.check()
        kept, memory = self._store.checkpoints(), self._store.memory_id
        anchored = [] if anchor is None else signing.read_anchor(Path(anchor))
        own = self._signer.public_key() if self._signer else None
        trusted = {c.public_key for c in anchored} or ({own} if own else set())
        if public_key is not None:
            trusted = {signing.public_key_of(public_key)}
        told = [*faults, *signing.untrue(memory, digests, [*dict.fromkeys([*kept, *anchored])], trusted)]
        return [*told, *signing.absent(anchored, kept), *self._mirror.differences()]

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

    def _search(
        self,
        queries: Sequence[str],
        k: int,
        namespace: str,
        all_scores: bool,
        as_of: int | datetime | None,
        states: Collection[State],
    ) -> Recalls:
        found = self._gated(queries, k, namespace, all_scores, as_of, states)
        return [[_recalled(one) for one in of_query] for of_query in found]

    def _gated(
        self,
        queries: Sequence[str],
        k: int,
        namespace: str,
        all_scores: bool,
        as_of: int | datetime | None,
        states: Collection[State],
    ) -> Gates:
        if isinstance(queries, str) or not all(isinstance(q, str) for q in queries):
            raise MemoryFault(f"queries: got {queries!r:.80}; wanted a list of texts")
        if k < 1:
            raise MemoryFault(f"k: got {k}; wanted how many edits to recall at most, 1 or more")
        index, at = self._index(), self._clock()
        if as_of is not None:
            moment = self._past.resolve(as_of)
            index, at = self._mirror.past(moment.seq), moment.at
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
            self._gate.deep(k),
            self.config.thresholds,
            all_scores,
            validity.ticks(validity.moment("clock", at)),
            states,
        )
        found: Gates = [[] for _ in queries]
        for i, of_query in zip(asked, self._gate.cut([queries[i] for i in asked], hits, k, all_scores)):
            found[i] = of_query
        return found

    def _index(self) -> Index:
        self._check_open()
        return self._mirror.index()

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryFault(f"{self._store.path}: this memory was closed; open it again")


def read_records(path: str | Path, namespace: str) -> Records:
    """The records of a JSONL file of records or edits; an `EditError` names file and line."""
    return read_jsonl(path, lambda row: replace(record_from(row, namespace), supersedes=None))  # of another memory


def _recalled(one: Gated) -> Recalled:
    hit = one.hit
    return Recalled(hit.entry.edit, hit.score, hit.mentioned, hit.threshold, one.in_play, one.verdicts)


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
