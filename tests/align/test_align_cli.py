"""`lte align data` from the command line: a model in this process, and one behind a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import align_kit as kit
import pytest
import yaml
from typer.testing import CliRunner

from lte.align.data import read_rows
from lte.cli import app
from lte.models import LM, load_model

pytest.importorskip("pyarrow", reason="alignment needs the extra: pip install 'lte[align]'")


class Words:
    """In the place of the memory's encoder."""

    dim = 512

    def __init__(self, name: str) -> None:
        self.id = name
        self.encode = kit.vectors


class Server(BaseHTTPRequestHandler):
    """A chat endpoint that says what it was asked; the depth of a lake it never finishes."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        query = body["messages"][-1]["content"]
        self.server.asked.append(body)  # type: ignore[attr-defined]
        why = "length" if "depth" in query else "stop"
        said = {"choices": [{"message": {"role": "assistant", "content": f"own({query})"}, "finish_reason": why}]}
        text = json.dumps({} if body["model"] == "mute" else said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def config(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("lte.memory.encoder.SentenceTransformerEncoder", Words)
    tiny_lm.model.save_pretrained(tmp_path / "model")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "model")
    source = kit.written(tmp_path / "wiki.json", [kit.knowedit(i) for i in range(6)], array=True)
    rates = dict.fromkeys(("paraphrase", "same_relation", "general", "general_edited"), 0) | {"near_miss": 1}
    settings = {
        "model": str(tmp_path / "model"), "sources": {"wiki": {"kind": "wikidata", "path": source}}, "rates": rates,
        "max_new_tokens": 8, "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["align", "data", *map(str, arguments)])


def test_the_models_own_answers_become_rows(config: Path, tmp_path: Path):
    result = run(config, "--output", tmp_path / "set", "--set", "max_new_tokens=3")
    # a random model seldom comes to an end by itself: what it did not finish is no target
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["roles"]["rewrite"] == 6 and figures["lost"]["unfinished"] + figures["lost"]["empty"] > 0
    assert figures["base"] == load_model(tmp_path / "model").weight_hash()
    assert sum(1 for _ in read_rows(tmp_path / "set")) == figures["rows"]


def test_a_server_answers_in_its_place(config: Path, tmp_path: Path, server: Any):
    url = f"http://127.0.0.1:{server.server_port}"
    result = run(config, "--output", tmp_path / "set", "--endpoint", url, "--endpoint-model", "base")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    own = [r for r in read_rows(tmp_path / "set") if r.role in ("unrelated", "near_miss", "absent", "twin", "negated")]
    assert own and all(r.answer == f"own({r.prompt.rpartition('[Question] ')[2]})" for r in own)
    assert "same_subject" not in figures["roles"] and figures["lost"]["unfinished"] >= 6
    assert {(b["model"], b["temperature"], b["max_tokens"]) for b in server.asked} == {("base", 0, 8)}
    asked = len(server.asked)
    assert run(config, "--output", tmp_path / "again", "--endpoint", url, "--endpoint-model", "base").exit_code == 0
    assert len(server.asked) == asked  # kept by server and model, for every dataset


def test_what_cannot_be_built_is_one_message_and_exit_code_2(config: Path, tmp_path: Path, server: Any):
    url = f"http://127.0.0.1:{server.server_port}"
    mute = run(config, "--output", tmp_path / "a", "--endpoint", url, "--endpoint-model", "mute")
    assert mute.exit_code == 2 and "wanted choices of one message, it answered '{}'" in mute.stderr
    assert "What was answered is kept" in mute.stderr
    for override, told in (
        ("rates.multi_edit=1", "rates.multi_edit: no source has an item for it"),
        ("sources.wiki.kind=wiki", "no such kind of source; there are cases, zsre"),
        ("sources.wiki.path=gone.json", "gone.json: no such file"),
    ):
        result = run(config, "--output", tmp_path / "b", "--set", override)
        assert result.exit_code == 2 and told in result.stderr, result.stderr
    (tmp_path / "wiki.json").write_text('[{"subject": "a", "prompt": "b is"}]')
    result = run(config, "--output", tmp_path / "c")
    assert result.exit_code == 2 and "wiki.json: record 0: target_new: missing" in result.stderr


def test_a_config_may_still_follow_the_command_at_once(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    monkeypatch.setattr("lte.align.train.main", lambda *told: seen.append(told) or {"rows": 1})
    for arguments in (["align", "data.yaml"], ["align", "run", "data.yaml"], ["align", "--preview", "2", "data.yaml"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [told[0] for told in seen] == [Path("data.yaml")] * 3
