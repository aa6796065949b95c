"""What would be recalled if a record were in force, and if it were not, without writing it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lte.edits import Edit
from lte.memory.index import Entry
from lte.memory.memory import EditMemory, Recalled
from lte.memory.record import Record


class Trial:
    """A record on trial beside the edits in force: close it, or use it in a `with`.

    It counts as active and valid, whatever it is in the memory; those of `instead` do not count, as it takes their
    place. The record stands in a memory of its own with the same encoder and settings, so the same gate decides.
    """

    def __init__(self, memory: EditMemory, record: Record, k: int = 3, instead: Collection[str] = ()) -> None:
        self._memory, self._record, self._k = memory, record, k
        self._gone = {record.id, *instead}
        config = memory.config.model_copy(update={"scope": "off", "cross_encoder": None})
        self._alone = EditMemory.open(":memory:", config, memory.encoder)
        self._alone._gate = memory._gate  # the same, and not loaded anew: it may hold a model
        self._alone.add(record.edit, record.namespace, keys=record.keys)

    def edits(self, query: str, in_force: bool = True) -> list[Edit]:
        """The edits that go in front of a query, nearest first: with the record in force, or without it."""
        return [recalled.edit for recalled in self.recall(query, in_force)]

    def recall(self, query: str, in_force: bool = True) -> list[Recalled]:
        """The same, as `EditMemory.recall` gives them."""
        record, namespace = self._record, self._record.namespace
        near = self._memory.recall(query, self._k + len(self._gone) + 1, namespace)
        found = [r for r in near if r.edit.id not in self._gone]
        if in_force:
            topic = _topic(record.edit)  # of those that ask the same, the memory recalls the newest
            found = [r for r in found if _topic(r.edit) != topic]
            found += [replace(r, edit=record.edit) for r in self._alone.recall(query, 1, namespace)]
            found.sort(key=lambda r: (not r.mentioned, -r.score))
        return found[: self._k]

    def close(self) -> None:
        """Let go of the memory of its own."""
        self._alone.close()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _topic(edit: Edit) -> str:
    return Entry("", "", 0, edit).topic
