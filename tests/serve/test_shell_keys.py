"""The file of keys: what stands in it, who may read it, and what becomes of keys."""

from __future__ import annotations

import json
import logging
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from shell_kit import shell
from typer.testing import CliRunner

from lte.cli import app
from lte.serve.errors import ServeError
from lte.serve.keys import TOKEN, KeyFile, KeysFault, Scope, lasting

MODELS = "/v1/models"


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def test_the_file_holds_no_key_and_nobody_else_reads_it(file: KeyFile) -> None:
    key, token = file.create("ci", Scope.write, ("prod",))
    assert TOKEN.fullmatch(token)
    assert token.split("_", 2)[2] not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.find(token) == key and key.namespaces == ("prod",)
    assert file.find(token[:-1] + ("a" if token[-1] != "a" else "b")) is None
    assert file.find("lte_000000000000_" + token.split("_", 2)[2]) is None
    assert file.find("") is None and file.find("§") is None


def test_keys_end(file: KeyFile) -> None:
    key, token = file.create("ci", Scope.read, None, timedelta(hours=1))
    assert key.expires is not None
    assert key.state(key.expires - timedelta(microseconds=1)) == "active"
    assert key.state(key.expires) == "expired"
    beside = KeyFile(file.path)  # another process
    assert beside.find(token) == key
    revoked = file.revoke(key.id)
    assert revoked.state(datetime.now(timezone.utc)) == "revoked"
    assert beside.find(token) == revoked
    assert file.revoke(key.id) == revoked  # the time of the first stands
    with pytest.raises(ServeError, match="'nope': no such key"):
        file.revoke("nope")


def test_two_who_write_lose_nothing(file: KeyFile) -> None:
    beside = KeyFile(file.path)
    made = [one.create(str(i), Scope.read)[0].id for i in range(4) for one in (file, beside)]
    assert [key.id for key in file.every()] == [key.id for key in beside.every()] == made


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": 3}', '{"version": 2}', '{"keys": [{"id": "x"}]}', '{"keys": [], "more": 1}']
)
def test_a_damaged_file_lets_nobody_in(fakes: Any, tmp_path: Path, text: str) -> None:
    with shell(fakes, tmp_path) as made:
        assert made.client().get(MODELS, headers=made.bearer("admin")).status_code == 200
        (tmp_path / "keys.json").write_text(text)
        reply = made.client().get(MODELS, headers=made.bearer("admin"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "keys_unavailable")
        assert "not a file of keys" in reply.json()["error"]["message"]
        assert made.client().get("/readyz").status_code == 503


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_reach_is_refused(file: KeyFile, mode: int) -> None:
    _, token = file.create("ci", Scope.read)
    file.path.chmod(mode)
    with pytest.raises(KeysFault, match=f"mode {mode:o}.*chmod 600"):
        file.find(token)


def test_who_guesses_is_slowed_down_and_named(fakes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with shell(fakes, tmp_path, rates={"failures": "5/hour"}) as made, caplog.at_level(logging.INFO, "lte"):
        http = made.client(address="203.0.113.9")
        codes = [http.get(MODELS, headers=made.bearer("wrong")).status_code for _ in range(7)]
        assert codes == [401] * 5 + [429] * 2
        assert 0 < int(http.get(MODELS).headers["retry-after"]) <= 3600
        assert http.get(MODELS, headers=made.bearer("read")).status_code == 200  # behind the same address
        assert made.client(address="203.0.113.10").get(MODELS).status_code == 401
    told = [r.getMessage() for r in caplog.records if "refused a request" in r.getMessage()]
    assert [m for m in told if "203.0.113.9:" in m] == ["refused a request from 203.0.113.9: unknown key"] * 5
    assert made.tokens["wrong"] not in caplog.text


@pytest.mark.parametrize(
    ("who", "said"), [("expired", "is expired"), ("revoked", "is revoked"), ("wrong", "not one of")]
)
def test_who_holds_a_key_is_told_what_is_wrong_with_it(fakes: Any, tmp_path: Path, who: str, said: str) -> None:
    with shell(fakes, tmp_path) as made:
        assert said in made.client().get(MODELS, headers=made.bearer(who)).json()["error"]["message"]


@pytest.mark.parametrize(("text", "hours"), [("90d", 2160), ("12h", 12), (" 1 h ", 1)])
def test_how_long(text: str, hours: int) -> None:
    assert lasting(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "d", "0d", "-1d", "1w", "1.5h", "9999999d"])
def test_how_long_is_not_guessed(text: str) -> None:
    with pytest.raises(ServeError, match=r"expires: .*90d"):
        lasting(text)


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path) -> None:
    at = ["--keys", str(tmp_path / "k.json")]

    def run(*words: str) -> Any:
        result = CliRunner().invoke(app, ["serve", "keys", *words, *at])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    [made] = json.loads(run("create", "--name", "ci", "--scope", "write", "--namespace", "prod", "-o", "json"))
    assert KeyFile(tmp_path / "k.json").find(made["key"])
    plain = run("create", "--name", "me", "--expires", "1d").splitlines()[-1]
    assert KeyFile(tmp_path / "k.json").find(plain)
    listed = run("list", "-o", "json")
    assert made["key"] not in listed and plain not in listed
    assert [(k["name"], k["scope"], k["state"]) for k in json.loads(listed)] == [
        ("ci", "write", "active"),
        ("me", "read", "active"),
    ]
    assert json.loads(run("revoke", made["id"], "-o", "json"))[0]["state"] == "revoked"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list"], "No such file"),
        (["create", "--name", "x", "--scope", "root"], "wanted read, write, admin"),
        (["create", "--name", "x", "--expires", "soon"], "wanted a number of days"),
        (["revoke", "nope"], "no such key"),
    ],
)
def test_the_command_line_refuses_with_a_word(tmp_path: Path, words: list[str], said: str) -> None:
    if words[0] == "revoke":
        KeyFile(tmp_path / "k.json").create("x", Scope.read)
    result = CliRunner().invoke(app, ["serve", "keys", *words, "--keys", str(tmp_path / "k.json")])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
