"""What the routes under /v1/edits take. A field that is not named here is refused: a misspelt one would be a fact half
stated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from lte.edits import Edit
from lte.memory import Author, Record
from lte.memory.record import Match, Must, State
from lte.memory.writer import OnConflict
from lte.serve.config import Namespace

Seq = Annotated[int, Field(ge=0, lt=2**63)]
STATED = ("prompt", "target_new", "subject", "target_true", "aliases")  # of the edit itself; the rest is its record's
KEPT = ("keys", "valid_from", "valid_until", "state", "tests")


class Body(BaseModel):
    """A body, or a part of one: types as they are sent, nothing converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Why(Body):
    """Why a change is made. Who makes it is the key's to say."""

    reason: str = ""
    ticket: str = ""
    source: str = ""

    def by(self, actor: str) -> Author:
        """The author of the change; an `EditError` names the field that cannot be taken."""
        return Author(actor, self.reason, self.ticket, self.source)


class TestIn(Body):
    """A question that belongs to an edit."""

    __test__ = False  # pytest

    prompt: str
    value: str = ""
    must: Must = "answer"
    match: Match = "contains"
    repeat: int = 1
    min_pass: int = 0


class EditPatch(Body):
    """What an edit and its record may say; of a partial change, the fields that were sent count."""

    prompt: str = ""
    target_new: str = ""
    subject: str = ""
    target_true: str | None = None
    aliases: list[str] = []
    keys: list[str] = []
    valid_from: str | None = None
    valid_until: str | None = None
    state: State | None = None
    tests: list[TestIn] = []

    def fields(self, old: Edit | None = None, sent_alone: bool = False) -> dict[str, Any]:
        """The values of a `Record`'s fields, the edit in the place of `old`; a state that is not said is left out.

        sent_alone  only what was sent
        """
        said = self.model_dump(include={*STATED, *KEPT}, exclude_unset=sent_alone)
        edit: dict[str, Any] = {name: said[name] for name in STATED if name in said}
        found = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items() if name in KEPT}
        if found.get("state", "") is None:
            del found["state"]
        if edit:
            if "aliases" in edit:
                edit["aliases"] = tuple(edit["aliases"])
            standing = {} if old is None else {name: getattr(old, name) for name in STATED}
            found["edit"] = Edit(**{**standing, **edit})
        return found

    def record(self, namespace: str) -> Record:
        """A new record; an `EditError` names the field that cannot be taken."""
        return Record("", namespace, **self.fields())


class Stated(EditPatch):
    """An edit stated whole."""

    prompt: str
    target_new: str


class EditIn(Stated, Why):
    """PUT /v1/edits/{id}, and what supersedes an edit."""

    on_conflict: OnConflict | None = None


class Patch(EditPatch, Why):
    """PATCH /v1/edits/{id}."""

    on_conflict: OnConflict | None = None

    @property
    def changes(self) -> bool:
        """Whether any field of an edit or its record was sent."""
        return bool(self.model_fields_set & {*STATED, *KEPT})


class NewEdit(EditIn):
    """POST /v1/edits with one edit, and /v1/edits/check."""

    namespace: Namespace | None = None


class NewEdits(Why):
    """POST /v1/edits with several: all are written or none is."""

    edits: Annotated[list[Stated], Field(min_length=1)]
    namespace: Namespace | None = None
    on_conflict: OnConflict | None = None


class Row(Stated):
    """A line of POST /v1/edits/batch: what an export writes; the ids there are of another memory and not kept."""

    id: str | None = None
    supersedes: str | None = None
    namespace: Namespace | None = None


class StateIn(Why):
    """POST /v1/edits/{id}/state."""

    state: State
    on_conflict: OnConflict | None = None


class TestRun(Why):
    """POST /v1/edits/{id}/test."""

    __test__ = False  # pytest

    quarantine: bool = False


class RollbackOne(Why):
    """POST /v1/edits/{id}/rollback: as it was at `to`; without, as before its last change."""

    to: Seq | str | None = None


class Rollback(Why):
    """POST /v1/edits/rollback: everything, or `ids`, as at `to`; or without one write, by its number; or without the
    last change of `ids`."""

    to: Seq | str | None = None
    batch: Seq | None = None
    ids: Annotated[list[str], Field(min_length=1)] | None = None
    namespace: Namespace | None = None


class Query(Body):
    """POST /v1/edits/explain; k: how many edits are recalled at most, where not as the server is set."""

    query: str
    k: Annotated[int, Field(ge=1)] | None = None
    namespace: Namespace | None = None


class Search(Query):
    """POST /v1/edits/search."""

    as_of: Seq | str | None = None
    state: list[State] | None = None


Mode = Literal["all", "each"]


def _which(body: Any) -> str:
    several = "edits" in body if isinstance(body, Mapping) else isinstance(body, NewEdits)
    return "many" if several else "one"


OneOrMany = Annotated[Annotated[NewEdit, Tag("one")] | Annotated[NewEdits, Tag("many")], Discriminator(_which)]
