"""Windows of validity: half-open, in any time zone; records begin and cease to hold by the clock alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_samples import CAPITAL, CONFIG, FakeEncoder

from lte import Edit
from lte.edits import EditError
from lte.memory import EditMemory, Record
from lte.memory.validity import EPOCH, holds, moment, overlap, ticks

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=zones)
ends = st.none() | times


@dataclass(frozen=True)
class Span:
    valid_from: datetime | None
    valid_until: datetime | None


spans = st.builds(Span, ends, ends)


@settings(max_examples=400, deadline=None)
@given(spans, times)
@example(Span(NOON, NOON + HOUR), NOON)
@example(Span(NOON, NOON + HOUR), NOON + HOUR)
@example(Span(NOON, NOON), NOON)
def test_a_window_holds_its_start_and_not_its_end(span: Span, at: datetime) -> None:
    wanted = (span.valid_from is None or span.valid_from <= at) and (span.valid_until is None or at < span.valid_until)
    assert holds(span, at) == wanted


@settings(max_examples=400, deadline=None)
@given(spans, spans, times)
def test_windows_overlap_where_some_moment_lies_in_both(one: Span, other: Span, at: datetime) -> None:
    assert overlap(one, other) == overlap(other, one)
    if holds(one, at) and holds(other, at):
        assert overlap(one, other)
    if overlap(one, other):  # then the later start is a moment of both, or there is none
        starts = [s for s in (one.valid_from, other.valid_from) if s is not None]
        stops = [s for s in (one.valid_until, other.valid_until) if s is not None]
        shared = max(starts) if starts else (min(stops) - timedelta(microseconds=1) if stops else at)
        assert holds(one, shared) and holds(other, shared)


@given(times, st.integers(-(10**15), 10**15))
def test_ticks_are_exact_to_the_microsecond(at: datetime, more: int) -> None:
    assert EPOCH + timedelta(microseconds=ticks(at)) == at
    assert ticks(at + timedelta(microseconds=1)) == ticks(at) + 1


@given(times, zones)
def test_a_moment_is_the_same_in_every_zone(at: datetime, zone: timezone) -> None:
    there = at.astimezone(zone)
    assert moment("t", there) == moment("t", at.isoformat()) == at and moment("t", there).tzinfo is timezone.utc


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-06-01T14:00:00+02:00", NOON),
        ("2026-06-01T12:00:00Z", NOON),
        ("2026-06-01", NOON - 12 * HOUR),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=timezone.utc)),
    ],
)
def test_times_are_read(text: str, wanted: datetime) -> None:
    assert moment("t", text) == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2026-06-01T12:00:00", "no time zone; say which"),
        (datetime(2026, 6, 1), "no time zone"),
        ("tomorrow", "wanted a time like"),
        ("2026-02-29", "wanted a time like"),
        (datetime.max.replace(tzinfo=timezone(-HOUR)), "out of range in UTC"),
        (12, "got int 12"),
    ],
)
def test_what_is_no_moment_is_refused(value: object, message: str) -> None:
    with pytest.raises(EditError, match=f"valid_from: .*{message}"):
        Record("", "default", CAPITAL, valid_from=value)  # type: ignore[arg-type]


def test_a_window_that_holds_nothing_is_refused() -> None:
    with pytest.raises(EditError, match=r"valid_until: .* is not after valid_from"):
        Record("", "default", CAPITAL, valid_from=NOON, valid_until=NOON)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def test_a_record_begins_and_ceases_to_hold_without_a_write() -> None:
    clock = Clock()
    with EditMemory.open(config=CONFIG, encoder=FakeEncoder(), clock=clock) as memory:
        memory.add(CAPITAL, valid_from=NOON + HOUR, valid_until=NOON + 2 * HOUR)
        seq, found = memory.seq, {}
        for minutes in (0, 59, 60, 119, 120, 30, 90):  # also back: a clock may be set right
            clock.now = NOON + timedelta(minutes=minutes)
            found[minutes] = len(memory.recall("capital of Vorland"))
        assert found == {0: 0, 59: 0, 60: 1, 119: 1, 120: 0, 30: 0, 90: 1} and memory.seq == seq
        clock.now = NOON
        assert memory.recall("capital of Vorland", as_of=NOON + HOUR)  # what is scheduled
        assert not memory.recall("capital of Vorland", as_of=NOON + 2 * HOUR)
        assert len(memory) == 1 and len(memory.search("capital of Vorland")) == 0


def test_what_does_not_hold_takes_nobodys_place() -> None:
    clock = Clock()
    with EditMemory.open(config=CONFIG, encoder=FakeEncoder(), clock=clock) as memory:
        near = [Edit("The colour of the box is", f"red {i}") for i in range(40)]
        for n, edit in enumerate(near):
            more = {"state": "disabled"} if n % 2 else {"valid_until": NOON - HOUR}
            memory.add(edit, **more)
        far = memory.add(Edit("The colour of the box and of the bag is", "blue"))
        assert [r.edit for r in memory.recall("The colour of the box is", k=1)] == [far]


def test_times_of_changes_never_go_back() -> None:
    clock = Clock()
    with EditMemory.open(config=CONFIG, encoder=FakeEncoder(), clock=clock) as memory:
        for step in (0, 5, -3, 7):
            clock.now = NOON + step * HOUR
            memory.add(CAPITAL)
        assert [c.time[11:13] for c in memory.changes()] == ["12", "17", "17", "19"]
        assert [len(memory.list(as_of=NOON + n * HOUR)) for n in (-1, 0, 4, 5, 6, 7)] == [0, 1, 1, 3, 3, 4]
