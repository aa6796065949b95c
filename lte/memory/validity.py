"""Moments and windows of validity: aware UTC times to the microsecond, windows closed at the start, open at the end."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Protocol

from lte.edits import EditError

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
ALWAYS = -(2**62), 2**62  # a window without ends, in microseconds
_TICK = timedelta(microseconds=1)


class Windowed(Protocol):
    """Something that holds from one moment on and until another."""

    @property
    def valid_from(self) -> datetime | None:
        """The first moment at which it holds; None: it always did."""

    @property
    def valid_until(self) -> datetime | None:
        """The first moment at which it holds no more; None: it always will."""


def now() -> datetime:
    """The time by the machine's clock."""
    return datetime.now(timezone.utc)


def moment(name: str, value: datetime | str) -> datetime:
    """A moment in UTC, from an aware datetime or ISO 8601 text; a bare date is its midnight in UTC.

    A time of day without a zone is refused: it names another moment on every machine.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
        except ValueError:
            raise EditError(f"{name}: {text!r}; wanted a time like 2027-01-31T09:00:00+01:00, or a date") from None
        if len(text) <= len("2027-01-31"):
            value = value.replace(tzinfo=timezone.utc)
    if not isinstance(value, datetime):
        raise EditError(f"{name}: got {type(value).__name__} {value!r}; wanted an aware datetime or ISO 8601 text")
    if value.utcoffset() is None:
        raise EditError(f"{name}: {value.isoformat()} has no time zone; say which, e.g. {value.isoformat()}+00:00")
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        raise EditError(f"{name}: {value.isoformat()} is out of range in UTC; leave the end open instead") from None


def ticks(at: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (at - EPOCH) // _TICK


def window(of: Windowed) -> tuple[int, int]:
    """First moment at which `of` holds and first at which it holds no more, in microseconds since 1970."""
    return (
        ALWAYS[0] if of.valid_from is None else ticks(of.valid_from),
        ALWAYS[1] if of.valid_until is None else ticks(of.valid_until),
    )


def holds(of: Windowed, at: datetime) -> bool:
    """Whether `of` holds at a moment: from `valid_from` on, and no more at `valid_until`."""
    begin, end = window(of)
    return begin <= ticks(at) < end


def overlap(one: Windowed, other: Windowed) -> bool:
    """Whether there is a moment at which both hold; windows that merely touch share none."""
    (a, b), (c, d) = window(one), window(other)
    return max(a, c) < min(b, d)
