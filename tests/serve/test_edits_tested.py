"""`lte memory test`: over the model in this process and over a server; what fails, what is noted, what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from lte.cli import app
from lte.edits import Edit
from lte.memory import EditMemory, EditTest, MemoryConfig
from lte.serve.app import build_app
from lte.serve.config import ServeConfig
from lte.serve.engine import EmbeddedEngine
from lte.serve.errors import ServeError
from lte.serve.remote import RemoteEdits

KING = Edit("The king of Thule is", "Olaf", subject="Thule")
TOWN = Edit("The capital of Mu is", "Ra", subject="Mu")


@pytest.fixture
def db(tmp_path: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory with one edit whose test passes, one whose test fails, and one without tests."""
    encoder, path = fakes.Memory().encoder, tmp_path / "memory.db"
    monkeypatch.setattr("lte.memory.memory.SentenceTransformerEncoder", lambda *settings: encoder)
    monkeypatch.setattr("lte.models.load_model", lambda *settings: fakes.Model())
    monkeypatch.setenv("LTE_MEMORY", str(path))
    with EditMemory.open(path, MemoryConfig(scope="off")) as memory:
        memory.add(KING, tests=(EditTest("Who is the king of Thule ?", "Olaf"),))
        memory.add(TOWN, tests=(EditTest("What is the capital of Mu ?", "Thebes"),))
        memory.add(Edit("Our office opens at", "nine"))
    (tmp_path / "memory.yaml").write_text("scope: 'off'\nmention_threshold: 0.1\n")
    return path


def run(db: Path, *arguments: str | Path) -> Result:
    given = ["memory", "test", "--config", str(db.with_name("memory.yaml")), "-o", "json", *map(str, arguments)]
    return CliRunner().invoke(app, given, prog_name="lte")


def verdicts(result: Result) -> dict[str, bool]:
    return {row["id"][-1]: row["passed"] for row in json.loads(result.stdout)}


def states(db: Path) -> list[str]:
    with EditMemory.open(db, MemoryConfig(scope="off")) as memory:
        return [record.state for record in memory.records()]


def test_what_fails_is_told_and_the_exit_code_says_so(db: Path) -> None:
    result = run(db, "--all")
    assert (result.exit_code, verdicts(result)) == (1, {"1": True, "2": False})
    assert "wanted contains 'Thebes'" in json.loads(result.stdout)[1]["why"]
    assert states(db) == ["active"] * 3
    one = run(db, "--edit", "e00000001")
    assert (one.exit_code, verdicts(one)) == (0, {"1": True})
    assert run(db, "--edit", "e00000003").exit_code == run(db, "--edit", "e00000009").exit_code == 2
    assert run(db, "--all", "--changed").exit_code == 2
    assert CliRunner().invoke(app, ["memory", "test", "--db", str(db.with_name("no.db"))]).exit_code == 2


def test_what_fails_is_quarantined_where_asked(db: Path) -> None:
    assert run(db, "--quarantine", "--actor", "ci", "--reason", "nightly").exit_code == 1
    assert states(db) == ["active", "quarantined", "active"]
    with EditMemory.open(db, MemoryConfig(scope="off")) as memory:
        last = memory.history("e00000002")[-1]
    assert (last.kind, last.by.actor, last.by.reason) == ("quarantine", "ci", "nightly")


def test_only_what_changed_since_it_passed_is_asked_again(db: Path) -> None:
    assert verdicts(run(db, "--changed")) == {"1": True, "2": False}
    assert verdicts(run(db, "--changed")) == {"2": False}
    with EditMemory.open(db, MemoryConfig(scope="off")) as memory:
        memory.update("e00000001", Edit("The king of Thule is", "Sven", subject="Thule"))
    assert verdicts(run(db, "--changed")) == {"1": False, "2": False}
    with EditMemory.open(db, MemoryConfig(scope="off")) as memory:
        memory.rollback(ids=["e00000001"])
    assert verdicts(run(db, "--edit", "e00000001")) == {"1": True}
    assert verdicts(run(db, "--changed")) == {"2": False}
    assert verdicts(run(db, "--changed", "--model", "another")) == {"1": True, "2": False}


def test_the_outcomes_are_written_as_junit(db: Path, tmp_path: Path) -> None:
    run(db, "--junit", tmp_path / "out.xml")
    [suite] = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("classname") for case in suite] == ["e00000001", "e00000002"]


def test_an_engine_that_fails_is_an_error_and_no_failed_edit(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: Any) -> None:
        raise ServeError("the engine is down", 502)

    monkeypatch.setattr(EmbeddedEngine, "reply", down)
    result = run(db, "--quarantine", "--junit", tmp_path / "out.xml")
    assert (result.exit_code, [row["why"] for row in json.loads(result.stdout)]) == (1, ["the engine is down"] * 2)
    assert states(db) == ["active"] * 3
    assert ElementTree.parse(tmp_path / "out.xml").getroot()[0].get("errors") == "2"


# --- over a server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def there(db: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server over the memory; requests to http://there go to it."""
    config = ServeConfig(memory=str(db), keys=str(db.with_name("keys.json")))
    memory = EditMemory.open(db, MemoryConfig(scope="off", mention_threshold=0.1))
    served = build_app(config, EmbeddedEngine(fakes.Model(), config), memory)
    with TestClient(served, "http://localhost") as client:
        real, seen = httpx.Client.request, []

        def request(self: httpx.Client, method: str, path: str, **more: Any) -> Any:
            if self is client or "localhost" not in str(self.base_url):
                return real(self, method, path, **more)
            seen.append((method, path))
            return client.request(method, f"/v1{path}", **more)

        monkeypatch.setattr("lte.serve.remote.PAGE", 2)
        monkeypatch.setattr("lte.serve.remote.httpx.Client.request", request)
        yield SimpleNamespace(memory=memory, seen=seen)


def test_a_server_runs_the_tests_of_its_own_memory(db: Path, there: Any) -> None:
    result = run(db, "--endpoint", "http://localhost:8000/v1", "--quarantine")
    assert (result.exit_code, verdicts(result)) == (1, {"1": True, "2": False})
    assert [record.state for record in there.memory.records()] == ["active", "quarantined", "active"]
    assert [method for method, path in there.seen] == ["GET", "GET", "POST", "POST"]  # two pages, two edits with tests
    one = run(db, "--endpoint", "http://localhost:8000", "--edit", "e00000001")
    assert (one.exit_code, verdicts(one)) == (0, {"1": True})
    assert run(db, "--endpoint", "http://localhost:8000", "--edit", "e00000099").exit_code == 2
    assert run(db, "--endpoint", "http://localhost:8000", "--changed").exit_code == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(401, json={"error": {"message": "no key"}}), "no key"),
        (httpx.Response(200, text="<html>"), "answered what no"),
        (httpx.Response(200, json=[]), "answered what no"),
        (httpx.ConnectError("refused"), "is it running there"),
    ],
)
def test_a_server_that_is_none_is_told(answer: Any, says: str) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer k"
        if isinstance(answer, Exception):
            raise answer
        return answer

    with RemoteEdits("http://there", "k", httpx.MockTransport(reply)) as edits:
        with pytest.raises(ServeError, match=says):
            edits.ids()
