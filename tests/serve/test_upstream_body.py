"""What an upstream is sent differs from what came in by what was meant to change, and by nothing else."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lte.serve.upstream_body import rewritten
from lte.serve.upstream_stream import rename, whole_events

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(st.sampled_from(["model", "lte", "messages", "a", "é", '"', "}"]), VALUES, max_size=6)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
LAYOUTS = st.sampled_from([{}, {"indent": 2}, {"separators": (" , ", " :\t")}, {"ensure_ascii": False}])


@QUICK
@given(BODIES, LAYOUTS)
def test_without_a_change_the_bytes_are_the_same_object(body: dict[str, Any], layout: dict[str, Any]) -> None:
    raw = json.dumps(body, **layout).encode()
    assert rewritten(raw, {}) is raw


@QUICK
@given(BODIES, LAYOUTS, st.dictionaries(st.sampled_from(["model", "lte", "new"]), VALUES, max_size=3))
def test_only_what_is_named_changes(body: dict[str, Any], layout: dict[str, Any], changes: dict[str, Any]) -> None:
    raw = json.dumps(body, **layout).encode()
    wanted = {name: value for name, value in {**body, **changes}.items() if name not in changes or value is not None}
    got = json.loads(rewritten(raw, changes))
    assert got == wanted
    assert [name for name in got if name in body] == [name for name in body if name in wanted]  # their order stays


def test_a_renamed_model_is_the_only_byte_that_differs() -> None:
    raw = b' {"x" : 1.10e0,\n"model":"a", "big": 123456789012345678901234567890, "x2":"\\u00e9"} '
    assert rewritten(raw, {"model": "b"}) == raw.replace(b'"a"', b'"b"')
    assert rewritten(raw, {"x": None}) == b'{"model":"a","big": 123456789012345678901234567890,"x2":"\\u00e9"}'


def test_a_name_that_stands_twice_is_changed_twice() -> None:
    assert rewritten(b'{"model":"a","model":"a"}', {"model": "b"}) == b'{"model":"b","model":"b"}'
    assert rewritten(b'{"lte":1,"m":2,"lte":3}', {"lte": None}) == b'{"m":2}'


EVENTS = st.lists(
    st.sampled_from([b"data: {}\n\n", b": ping\r\n\r\n", b"event: x\ndata: 1\n\n", b"data: \xc3\xa9\n\n"])
)


@QUICK
@given(EVENTS, st.lists(st.integers(0, 60)), st.sampled_from([b"", b"data: [DONE]\n"]))
def test_a_stream_is_cut_between_events_only_and_loses_no_byte(
    parts: list[bytes], cuts: list[int], tail: bytes
) -> None:
    stream = b"".join(parts) + tail
    marks = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})

    async def chunks() -> Any:
        for a, b in pairwise(marks):
            yield stream[a:b]

    async def read() -> list[bytes]:
        return [event async for event in whole_events(chunks())]

    given_out = asyncio.run(read())
    assert b"".join(given_out) == stream
    assert all(event.endswith((b"\n\n", b"\r\n\r\n")) for event in given_out[: -1 if tail else None])


def test_a_name_within_an_answer_is_left_alone() -> None:
    said = json.dumps({"model": "lte", "text": 'its "model":"lte" and "model": "lte"', "model2": "lte"}).encode()
    assert json.loads(rename(said, "lte", "pocket")) == {**json.loads(said), "model": "pocket"}
