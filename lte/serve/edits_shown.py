"""Edits, changes and conflicts as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from lte.memory.change import Change
from lte.memory.checks import Outcome
from lte.memory.conflicts import Conflict
from lte.memory.record import Record

Json = dict[str, Any]


def edit_json(record: Record) -> Json:
    """A record; what depends on the time of asking is not in it, so that it has one ETag until it is changed."""
    edit = record.edit
    return {
        "id": record.id,
        "object": "edit",
        "namespace": record.namespace,
        "prompt": edit.prompt,
        "target_new": edit.target_new,
        "subject": edit.subject,
        "target_true": edit.target_true,
        "aliases": list(edit.aliases),
        "keys": list(record.keys),
        "valid_from": _iso(record.valid_from),
        "valid_until": _iso(record.valid_until),
        "state": record.state,
        "tests": [asdict(test) for test in record.tests],
        "supersedes": record.supersedes,
        "seq": record.seq,
        "version": record.version,
        "created_at": _iso(record.created),
        "updated_at": _iso(record.updated),
    }


def change_json(change: Change) -> Json:
    """A change of the log: what, when, who and why, and the record that it left."""
    return {
        "object": "edit.change",
        "seq": change.seq,
        "batch": change.batch,
        "id": change.id,
        "kind": change.kind,
        "namespace": change.namespace,
        "time": change.time,
        **asdict(change.by),
        "digest": change.digest,
        "edit": None if change.record is None else edit_json(change.record),
    }


def conflict_json(conflict: Conflict) -> Json:
    """A conflict: its kind, how alike the two are, and the record that is there already."""
    return {"kind": conflict.kind, "score": round(conflict.score, 4), "edit": edit_json(conflict.record)}


def outcome_json(outcome: Outcome) -> Json:
    """What came of a test."""
    told = {name: getattr(outcome, name) for name in ("passed", "passes", "base", "why")}
    return asdict(outcome.test) | told | {"answers": list(outcome.answers)}


def listing(data: Sequence[Json], more: bool = False, **said: Any) -> Json:
    """A page."""
    ids = [d.get("id") for d in data]
    return {
        "object": "list",
        "data": list(data),
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": more,
        **said,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
