"""Any order of writes, reopenings and recalls: the memory does what a dictionary does."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from memory_samples import CONFIG, FakeEncoder

from lte import Edit
from lte.memory import EditMemory

NAMES = ("Ada Quill", "Bo Reed", "Bo", "Cy Reed-Quill", "")
EDITS = st.builds(
    lambda subject, verb, answer, aliases: Edit(f"{subject} {verb}".strip(), answer, subject, aliases=aliases),
    st.sampled_from(NAMES),
    st.sampled_from(("speaks", "was born in", "plays the")),
    st.sampled_from(("Breton", "Ostby", "lute")),
    st.lists(st.sampled_from(("A. Q.", "the poet")), max_size=2, unique=True).map(tuple),
)
SPACES = st.sampled_from(("default", "other"))


class MemoryIsADictionary(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "memory.db"
        self.encoder = FakeEncoder()
        self.memory, self.beside = self.opened(), self.opened()
        self.wanted: dict[str, tuple[str, Edit]] = {}

    def opened(self) -> EditMemory:
        return EditMemory.open(self.path, CONFIG, self.encoder)

    @rule(target=ids, edits=st.lists(EDITS, max_size=3), space=SPACES)
    def add(self, edits: list[Edit], space: str):
        added = self.memory.add_many(edits, space)
        self.wanted |= {e.id or "": (space, e) for e in added}
        return multiple(*(e.id for e in added))

    @rule(id=ids, edit=EDITS)
    def update(self, id: str, edit: Edit) -> None:
        self.wanted[id] = (self.wanted[id][0], self.beside.update(id, edit))

    @rule(id=consumes(ids))
    def delete(self, id: str) -> None:
        self.memory.delete(id)
        del self.wanted[id]

    @rule(kept=st.booleans())
    def reopen(self, kept: bool) -> None:
        if kept:
            self.memory.close()
        else:
            self.memory._store.close()  # without writing the index file
        self.memory = self.opened()

    @rule()
    def rebuild(self) -> None:
        self.memory.rebuild()

    @rule(
        query=st.sampled_from(("Ada Quill speaks", "where was Bo Reed born", "the poet", "plays the lute")),
        space=SPACES,
    )
    def recall(self, query: str, space: str) -> None:
        found = self.memory.recall(query, k=100, namespace=space)
        assert found == self.beside.recall(query, k=100, namespace=space)
        assert all(self.wanted[r.edit.id or ""] == (space, r.edit) for r in found)
        said = f" {query.lower()} "
        named = {e.id for s, e in self.wanted.values() if s == space and e.subject and f" {e.subject.lower()} " in said}
        assert named >= {r.edit.id for r in found if r.mentioned and not r.edit.aliases}
        topics = {(e.subject, e.prompt) for s, e in self.wanted.values() if s == space and e.id in named}
        assert len([r for r in found if r.edit.id in named]) <= len(topics)

    @invariant()
    def holds_what_was_written(self) -> None:
        for memory in (self.memory, self.beside):
            assert {e.id: e for e in memory.list()} == {id: e for id, (_, e) in self.wanted.items()}
            assert len(memory) == len(self.wanted)

    def teardown(self) -> None:
        assert self.memory.verify() == [] == self.beside.verify()
        self.memory.close()
        self.beside.close()
        self.folder.cleanup()


TestMemoryIsADictionary = MemoryIsADictionary.TestCase
TestMemoryIsADictionary.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
