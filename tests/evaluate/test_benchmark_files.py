"""Where a benchmark's file is found; fetched whole or not at all, over a real server on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from http_kit import Handler, listening

from lte.evaluate.benchmarks import download, file_hash, find, load_cases, registry
from lte.evaluate.benchmarks.download import Source, fetch
from lte.evaluate.benchmarks.files import cache
from lte.evaluate.benchmarks.registry import BENCHMARKS
from lte.evaluate.config import BenchmarkConfig, EvaluateError

RECORD = {"subject": "Ada", "prompt": "Ada speaks", "target_new": "Zorlandish"}
BODY = json.dumps([RECORD]).encode()
HASH = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """Answers from `replies`: path -> status, body, stated length (None: the true one)."""

    replies: dict[str, tuple[int, bytes, int | None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Files(Handler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            status, body, length = found.replies.get(self.path, (404, b"none", None))
            self.send(status, body, {} if length is None else {"Content-Length": str(length)})

    with listening(Files) as found.url:
        yield found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, no proxy in the way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "lte" / "benchmarks"


def published(monkeypatch: pytest.MonkeyPatch, server: Server, pin: str | None = None, **more: Any) -> str:
    """A benchmark "made" that the server has; its address."""
    url = f"{server.url}/{'{revision}/' if more.get('revision') else ''}made.json"
    entry = registry.Benchmark(
        BENCHMARKS["zsre"].case, "made up", ("made_test.json", "sub/made.json"), Source(url, sha256=pin, **more)
    )
    monkeypatch.setitem(BENCHMARKS, "made", entry)
    server.replies["/made.json"] = (200, BODY, None)
    return url


def chosen(**more: Any) -> BenchmarkConfig:
    return BenchmarkConfig(name="made", **more)


def put(path: Path, body: bytes = BODY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def test_the_order_of_the_search(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    published(monkeypatch, server)
    fetched = find(chosen(), None, download=True)
    assert fetched == home / "made" / "unpinned" / "made.json" and cache() == home
    assert find(chosen(), None, download=False) == fetched
    bundled = {"made": put(tmp_path / "bundled.json")}
    assert find(chosen(), None, False, bundled) == bundled["made"]
    assert find(chosen(), tmp_path, False, bundled) == bundled["made"]  # the folder has none of its names
    inside = put(tmp_path / "data" / "sub" / "made.json")
    assert find(chosen(), tmp_path / "data", True, bundled) == inside
    alone = put(tmp_path / "alone.json")
    assert find(chosen(), alone, True, bundled) == alone
    named = put(tmp_path / "named.json")
    assert find(chosen(path=named), alone, True, bundled) == named
    assert find(chosen(path=tmp_path / "data"), alone, True, bundled) == inside
    assert server.asked == ["/made.json"]


def test_a_test_file_goes_first_and_the_choice_is_told(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    published(monkeypatch, server)
    other, test = put(tmp_path / "sub" / "made.json"), put(tmp_path / "made_test.json")
    with caplog.at_level(logging.INFO, "lte"):
        assert find(chosen(), tmp_path, False) == test
    assert f"{test} is taken; there are also {other}: set path for another" in caplog.text


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (
            "zsre",
            ["benchmark/ZsRE/ZsRE-test-all.json", "ZsRE-test-all.json", "knowedit/zsre_test.json", "zsre_test.json"],
        ),
        ("wiki_recent", ["wiki_recent/recent_test.json", "knowedit/wiki_recent_train.json", "recent_train.json"]),
        ("wiki_counterfact", ["test_cf.json", "knowedit/wiki_counterfact_train.json"]),
        ("wikibio", ["benchmark/WikiBio/wikibio-test-all.json", "knowedit/wikibio_train.json"]),
        (
            "counterfact",
            ["counterfact.json", "counterfact/counterfact_edit.json", "counterfact/counterfact_train.json"],
        ),
        ("mquake_cf_3k_v2", ["datasets/MQuAKE-CF-3k-v2.json", "MQuAKE-CF-3k-v2.json"]),
        ("rippleedits_recent", ["data/benchmark/recent.json", "ripple_edits/RECENT.json"]),
    ],
)
def test_upstreams_names_are_known(tmp_path: Path, name: str, files: list[str]) -> None:
    for file in reversed(files):  # each found before those behind it
        wanted = put(tmp_path / file)
        assert find(BenchmarkConfig(name=name), tmp_path, False) == wanted


def test_what_is_missing_is_said_with_every_way_to_mend_it(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = published(monkeypatch, server)
    with pytest.raises(EvaluateError) as caught:
        find(chosen(), tmp_path, False)
    said = str(caught.value)
    assert f"no made_test.json, made.json in {tmp_path}" in said and url in said
    assert "path: FILE" in said and "--set data=FOLDER" in said and "--set download=true" in said
    for more, data in (({"path": tmp_path / "gone.json"}, None), ({}, tmp_path / "gone.json")):
        with pytest.raises(EvaluateError, match=r"(path|data): .*gone.json: no such file or folder; name the file"):
            find(chosen(**more), data, False)
    with pytest.raises(EvaluateError, match=f"no made_test.json, made.json in {tmp_path}"):
        find(chosen(path=tmp_path), None, True)  # a folder that was named is not passed over
    with pytest.raises(EvaluateError, match=r"benchmark 'cases': no file of it is at hand; name the file"):
        find(BenchmarkConfig(name="cases"), None, True)
    with pytest.raises(EvaluateError, match="did you mean 'made'"):
        find(BenchmarkConfig(name="mad"), None, True)


def test_a_fetched_file_is_held_to_its_first_hash(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    published(monkeypatch, server)
    with caplog.at_level(logging.INFO, "lte"):
        path = find(chosen(), None, True)
    assert "MB from http://127.0.0.1" in caplog.text
    assert path.read_bytes() == BODY and load_cases("made", path)[0].edit.subject == "Ada"
    assert path.with_name("made.json.sha256").read_text() == f"{HASH}  made.json\n" and file_hash(path) == HASH
    path.write_bytes(BODY + b" ")
    with pytest.raises(EvaluateError, match=r"made.json.sha256 says .*: the file has changed since; remove both"):
        find(chosen(), None, True)
    path.with_name("made.json.sha256").unlink()
    assert find(chosen(), None, False) == path  # as the message says


def test_a_pinned_hash_holds_wherever_the_file_is_from(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    published(monkeypatch, server)
    wrong = "0" * 64
    for given in ({"path": put(tmp_path / "own.json")}, {}):
        with pytest.raises(EvaluateError, match=f"SHA-256 {HASH}, wanted {wrong}"):
            find(chosen(sha256=wrong, **given), None, True)
    assert not list(home.rglob("made.json*"))  # what is not what was wanted is not kept
    assert find(chosen(sha256=HASH.upper()), None, True).read_bytes() == BODY
    with pytest.raises(EvaluateError, match="sha256 of the benchmark's settings"):
        find(chosen(sha256=wrong), None, True)


def test_the_authors_hash_holds_at_their_revision(server: Server, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    published(monkeypatch, server, pin="0" * 64, revision="v1")
    server.replies |= {f"/{v}/made.json": (200, BODY, None) for v in ("v1", "v2", "a/b")}
    with pytest.raises(EvaluateError, match="not the one that was pinned"):
        find(chosen(), None, True)
    assert find(chosen(revision="v2"), None, True) == home / "made" / "v2" / "made.json"
    assert find(chosen(revision="a/b"), None, True) == home / "made" / "a-b" / "made.json"
    assert find(chosen(sha256=HASH), None, True).parent.name == "v1"


def test_a_source_without_revisions_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, server)
    with pytest.raises(EvaluateError, match=r"revision: http.* has none; leave it out, and pin sha256 instead"):
        find(chosen(revision="v2"), None, True)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((404, b"none", None), "HTTP 404"),
        ((500, b"none", None), "HTTP 500"),
        ((200, BODY[:20], len(BODY)), f"20 of {len(BODY)} bytes came"),
        ((200, b"<html>log in</html>", None), "no JSON came, but b'<html>"),
        ((200, b"", None), "no JSON came"),
        ((200, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None), "a Git LFS pointer came"),
    ],
)
def test_what_does_not_come_whole_leaves_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, home: Path, reply: tuple[int, bytes, int | None], told: str
) -> None:
    published(monkeypatch, server)
    server.replies["/made.json"] = reply
    with pytest.raises(EvaluateError, match="not fetched") as caught:
        find(chosen(), None, True)
    assert told in str(caught.value) and "set path to it" in str(caught.value)
    assert not [path for path in home.rglob("*") if path.is_file()]
    server.replies["/made.json"] = (200, BODY, None)
    assert find(chosen(), None, True).read_bytes() == BODY


def test_what_a_killed_run_left_is_not_taken_for_the_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    published(monkeypatch, server)

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    put(home / "made" / "unpinned" / "made.json.x1.part", BODY[:5])  # of a kill that left no time to clean up
    with monkeypatch.context() as patched:
        patched.setattr(download.os, "replace", kill)
        with pytest.raises(Killed):
            find(chosen(), None, True)
    assert not (home / "made" / "unpinned" / "made.json").exists()
    with pytest.raises(EvaluateError, match="no file of it is at hand"):
        find(chosen(), None, False)
    assert find(chosen(), None, True).read_bytes() == BODY


def test_a_server_that_is_not_there_or_says_nothing(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port  # listens, and answers nobody
        with pytest.raises(EvaluateError, match=r"not fetched \(.*timed out"):
            fetch(Source(f"http://127.0.0.1:{port}/a.json"), tmp_path / "a.json", timeout=0.2)
    with pytest.raises(EvaluateError, match=r"not fetched \(URLError"):
        fetch(Source(f"http://127.0.0.1:{port}/a.json"), tmp_path / "a.json")
    with pytest.raises(EvaluateError, match=r"not fetched \(ValueError"):
        fetch(Source("no address"), tmp_path / "a.json")
    assert not list(tmp_path.glob("a.json*"))


def test_the_hub_is_asked_for_a_data_set_at_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    asked: list[tuple[Any, ...]] = []
    held = put(tmp_path / "hub" / "snapshots" / "c0ffee" / "f.json")

    def hub(repo: str, file: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((repo, file, repo_type, revision))
        return str(held)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    pinned = BENCHMARKS["zsre"].home
    assert pinned is not None and pinned.revision is not None
    path = find(BenchmarkConfig(name="zsre"), None, True)
    assert path == home / "zsre" / pinned.revision / "ZsRE-test-all.json" and load_cases("zsre", path)
    assert find(BenchmarkConfig(name="zsre", revision="main"), None, True).parent.name == "main"
    assert asked == [("zjunlp/KnowEdit", pinned.file, "dataset", v) for v in (pinned.revision, "main")]
    held.unlink()
    assert find(BenchmarkConfig(name="zsre"), None, True) == path  # a copy of our own


def test_a_hub_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def hub(*_: Any, **__: Any) -> str:
        raise RuntimeError("401 Client Error.\nmany more lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    with pytest.raises(
        EvaluateError, match=r"zjunlp/KnowEdit: benchmark/.*: not fetched \(RuntimeError: 401 Client Error\.\);"
    ):
        find(BenchmarkConfig(name="wikibio"), None, True)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_an_offline_hub_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(EvaluateError, match=r"not fetched \(\w+: .*set path to it"):
        find(BenchmarkConfig(name="wikibio"), None, True)


def test_every_address_is_plain_or_pinned() -> None:
    for name, entry in BENCHMARKS.items():
        if entry.home is not None:
            assert bool(entry.home.url) != bool(entry.home.repo), name
            assert entry.home.url.startswith("https://") or entry.home.repo == "zjunlp/KnowEdit"
            assert entry.home.revision is None or len(entry.home.revision) == 40
            assert entry.home.revised == (entry.home.revision is not None)
            assert "{" not in entry.home.address(None)
