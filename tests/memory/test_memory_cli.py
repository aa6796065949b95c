"""`lte memory`: who and why, states, times, conflicts, roll-back, and a log that is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from memory_samples import FakeEncoder
from typer.testing import CliRunner, Result

from lte.cli import app

CAPITAL = ("The capital of Vorland is", "Ostby", "--subject", "Vorland")


@pytest.fixture(autouse=True)
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lte.memory.memory.SentenceTransformerEncoder", lambda *settings: FakeEncoder())
    monkeypatch.setenv("LTE_MEMORY", str(tmp_path / "edits.db"))
    return tmp_path / "edits.db"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["memory", *map(str, arguments)], prog_name="lte")


def rows(*arguments: str | Path) -> Any:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_history_says_who_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    why = ("--reason", "moved", "--ticket", "T-7", "--source", "gazette")
    [added] = rows("add", *CAPITAL, "--key", "Where does Vorland's king live?", "--actor", "ada", *why)
    assert added["keys"] == ["Where does Vorland's king live?"]
    monkeypatch.setenv("LTE_ACTOR", "bo")
    run("update", added["id"], "--target", "Nordby")
    first, second = rows("history", added["id"])
    assert [first[n] for n in ("actor", "reason", "ticket", "source")] == ["ada", "moved", "T-7", "gazette"]
    assert (second["actor"], second["change"], second["target_new"]) == ("bo", "update", "Nordby")
    assert second["keys"] == added["keys"]
    assert [r["seq"] for r in rows("log", "--after", "1")] == [2]


def test_a_disabled_edit_is_not_recalled_until_it_is_activated() -> None:
    [added] = rows("add", *CAPITAL)
    assert rows("disable", added["id"])[0]["state"] == "disabled"
    assert rows("search", "capital of Vorland") == [] and rows("list", "--state", "active") == []
    assert rows("list", "--state", "disabled")[0]["id"] == added["id"]
    run("activate", added["id"])
    assert rows("search", "capital of Vorland")[0]["in_play"]


def test_a_successor_takes_over_at_its_time() -> None:
    [old] = rows("add", *CAPITAL)
    [new] = rows("supersede", old["id"], "--target", "Nordby", "--valid-from", "2031-01-01")
    assert new["supersedes"] == old["id"] and new["valid_from"] == "2031-01-01T00:00:00+00:00"
    assert rows("get", old["id"])[0]["valid_until"] == new["valid_from"]
    assert run("supersede", old["id"]).exit_code == 2


def test_what_was_is_shown_and_brought_back() -> None:
    [first] = rows("add", *CAPITAL)
    rows("update", first["id"], "--target", "Nordby")
    rows("add", "Ada speaks", "Breton", "--subject", "Ada")
    assert [r["target_new"] for r in rows("list", "--as-of", "1")] == ["Ostby"]
    assert rows("get", first["id"], "--as-of", "1")[0]["target_new"] == "Ostby"
    assert rows("list", "--as-of", "2000-01-01") == []
    assert [r["change"] for r in rows("rollback", "--to", "1", "--reason", "a mistake")] == ["rollback"] * 2
    assert [r["target_new"] for r in rows("list")] == ["Ostby"]
    assert len(rows("rollback", "--batch", "4")) == 2 and len(rows("list")) == 2
    assert run("rollback").exit_code == 2


def test_a_conflict_is_shown_and_refused_on_demand() -> None:
    [first] = rows("add", *CAPITAL)
    other = (CAPITAL[0], "Nordby", *CAPITAL[2:])
    [found] = rows("conflicts", *other)
    assert (found["conflict"], found["id"], found["score"]) == ("contradiction", first["id"], 1.0)
    refused = run("add", *other, "--on-conflict", "refuse")
    assert refused.exit_code == 3 and "a contradiction of e00000001" in refused.stderr and len(rows("list")) == 1
    [new] = rows("add", *other, "--on-conflict", "supersede")
    assert new["supersedes"] == first["id"] and rows("get", first["id"])[0]["state"] == "disabled"


def test_the_log_is_checked_against_an_anchor(db: Path, tmp_path: Path) -> None:
    run("add", *CAPITAL)
    pem, anchor = tmp_path / "key.pem", tmp_path / "anchor.jsonl"
    assert rows("checkpoint", "--public-key", pem)[0]["seq"] == 1 and "PUBLIC KEY" in pem.read_text()
    assert rows("anchor", anchor)[0]["seq"] == 1
    checked = ("verify", "--anchor", anchor, "--public-key", pem)
    assert run(*checked).exit_code == 0
    db.unlink()
    run("add", *CAPITAL)
    result = run(*checked)
    assert result.exit_code == 1 and "give this memory's own" in result.stdout


def test_a_record_goes_through_a_file_whole(tmp_path: Path) -> None:
    [added] = rows("add", *CAPITAL, "--key", "Where?", "--valid-until", "2031-01-01", "--state", "quarantined")
    rows("export", tmp_path / "out.jsonl")
    [again] = rows("import", tmp_path / "out.jsonl", "--db", tmp_path / "second.db")
    assert again == added


@pytest.mark.parametrize("wrong", [["--valid-from", "noon"], ["--valid-until", "2026-01-01T00:00"], ["--actor", " "]])
def test_what_cannot_be_is_refused_and_makes_no_memory(db: Path, wrong: list[str]) -> None:
    result = run("add", *CAPITAL, *wrong)
    assert result.exit_code == 2 and result.stderr.startswith("lte: ") and not db.exists()
