"""What the log says of requests, and that it quotes neither prompts nor keys."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shell_kit import CHAT, FACT, shell

from lte.memory.fault import MemoryFault
from lte.serve.logs import LogConfig, formatter, install, without_keys

CANARY = "canary-7f3a"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What every logger writes, as JSON lines without prompts."""
    yield from listening(lines=True, prompts=False)


def listening(lines: bool, prompts: bool) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(lines, prompts))
    handler.addFilter(lambda record: not record.name.startswith("httpx"))  # the tests' own client
    root, own = logging.getLogger(), logging.getLogger("lte")
    before = root.level, own.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    own.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        own.setLevel(before[1])


def everything(made: Any) -> None:
    """Requests of every kind with the canary in each place that a client fills, also where the server fails."""
    http = made.client()
    chat = {"model": "pocket", "messages": [{"role": "user", "content": CANARY}]}
    edit = FACT | {"prompt": CANARY, "subject": CANARY}
    for who in ("read", "write", "admin", "wrong", "expired", "nobody"):
        headers = made.bearer(who)
        for fault in (None, ZeroDivisionError(CANARY), ValueError(CANARY)):
            made.lm.fail = fault
            http.post("/v1/chat/completions", json=chat, headers=headers)
            http.post("/v1/chat/completions", json=chat | {"stream": True}, headers=headers)
            http.post("/v1/completions", json={"model": "pocket", "prompt": CANARY}, headers=headers)
        made.lm.fail = None
        http.post("/v1/chat/completions", json=chat | {"model": CANARY}, headers=headers)
        http.post("/v1/chat/completions", content=f'{{"model": "{CANARY}', headers=headers)
        http.post("/v1/edits", json=edit, headers=headers)
        http.post("/v1/edits", json=edit, headers=headers | {"idempotency-key": CANARY})
        http.post("/v1/edits", json=edit | {"target_new": "<|eot_id|>"}, headers=headers)
        http.get(f"/v1/edits/{CANARY}?after={CANARY}", headers=headers | {"cookie": CANARY, "user-agent": CANARY})
        http.get(f"/{CANARY}", headers=headers)
        http.get("/v1/models", headers={"authorization": f"Basic {CANARY}"})
        http.get("/v1/models", headers={"authorization": f"Bearer {CANARY}"})
        made.memory.fault = RuntimeError(f"the encoder cannot read {CANARY}")
        http.post("/v1/chat/completions", json=chat, headers=headers)
        http.post("/v1/edits", json=edit, headers=headers)
        made.memory.fault = MemoryFault("memory.db: locked")
        http.post("/v1/chat/completions", json=chat, headers=headers)
        made.memory.fault = None


def test_no_prompt_and_no_key_is_logged_whatever_fails(fakes: Any, tmp_path: Path, written: io.StringIO) -> None:
    with shell(fakes, tmp_path) as made:
        everything(made)
    text = written.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert CANARY not in text
    assert all(token[17:] not in text for token in made.tokens.values())
    failed = [line for line in lines if "exception" in line]
    assert any("ZeroDivisionError" in line["exception"] and "conftest.py" in line["exception"] for line in failed)
    assert any(line["exception"].endswith("MemoryFault: memory.db: locked") for line in failed)
    assert sum("route" in line for line in lines) >= 100


def test_prompts_are_logged_where_that_is_asked_for(fakes: Any, tmp_path: Path) -> None:
    for stream in listening(lines=True, prompts=True):
        with shell(fakes, tmp_path, log={"prompts": True}) as made:
            everything(made)
        assert f"ZeroDivisionError: {CANARY}" in stream.getvalue()
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert any(CANARY in line.get("body", "") for line in lines)
        assert all(token[17:] not in stream.getvalue() for token in made.tokens.values())


def test_a_request_is_a_line(fakes: Any, tmp_path: Path, written: io.StringIO) -> None:
    with shell(fakes, tmp_path) as made:
        made.client().post("/v1/chat/completions", json=CHAT, headers=made.bearer("read") | {"x-request-id": "abc"})
    [line] = [one for one in map(json.loads, written.getvalue().splitlines()) if one.get("request_id") == "abc"]
    assert line.pop("ms") >= 0 and line.pop("time").endswith("Z")
    assert line.pop("message").startswith("POST /v1/chat/completions 200 in ")
    assert line == {
        "level": "INFO",
        "logger": "lte.serve.observe",
        "request_id": "abc",
        "route": "POST /v1/chat/completions",
        "status": 200,
        "key": made.tokens["read"].split("_")[1],
        "edits": "e1",
    }


def test_other_handlers_and_formats_do_not_bring_the_words_back() -> None:
    for lines in (False, True):
        for stream in listening(lines, prompts=False):
            try:
                raise ValueError(CANARY)
            except ValueError:
                record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", None, __import__("sys").exc_info())
            logging.Formatter().format(record)  # caches the text with the words
            logging.getLogger("x").handle(record)
            assert "failed" in stream.getvalue() and "ValueError" in stream.getvalue()
            assert CANARY not in stream.getvalue()
            assert record.exc_text and CANARY in record.exc_text  # the other handler's is left to it


def test_an_exceptions_causes_are_told_by_kind(written: io.StringIO) -> None:
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise OSError(28, "No space left") from error
    except OSError:
        logging.getLogger("x").exception("failed")
    exception = json.loads(written.getvalue())["exception"]
    assert exception.index("KeyError") < exception.index("OSError: [Errno 28] No space left")
    assert CANARY not in exception


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lte_0123456789ab_" + "x" * 43, "lte_0123456789ab_[removed]"),
        ("Authorization: Bearer sk-abc.def", "Authorization: Bearer [removed]"),
        ("{'authorization': 'basic dXNlcg=='}", "{'authorization': 'basic [removed]'}"),
        ("a bearer of news", "a bearer [removed] news"),
        ("plain", "plain"),
    ],
)
def test_keys_are_cut_out(text: str, wanted: str) -> None:
    assert without_keys(text) == wanted


def test_the_form_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    root, handler = logging.getLogger(), logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(root, "handlers", [handler])
    for form, terminal, kind in (("auto", True, "Plain"), ("auto", False, "Lines"), ("json", True, "Lines")):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        install(LogConfig.model_validate({"form": form}))
        assert type(handler.formatter).__name__ == kind
