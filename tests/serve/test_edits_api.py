"""/v1/edits over whole records: conflicts, tags, pages, batches, states, roll-back; who and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lte.edits import Edit
from lte.memory import EditTest
from lte.serve.app import build_app
from lte.serve.config import Limits, ServeConfig
from lte.serve.engine import EmbeddedEngine
from lte.serve.keys import KeyFile, Scope

OLAF = {"prompt": "The king of Thule is", "target_new": "Olaf", "subject": "Thule"}
SVEN = OLAF | {"target_new": "Sven"}
MU = {"prompt": "The king of Mu is", "target_new": "Ra", "subject": "Mu"}
GOOD = {"prompt": "Who is king of Thule?", "value": "Olaf"}
WRONG = {"prompt": "Who is king of Thule?", "value": "Knut"}


@pytest.fixture
def memory(fakes: Any) -> Any:
    made = fakes.Memory()
    made.add(Edit("The capital of Lunaria is", "Selene", subject="Lunaria"))
    return made


@pytest.fixture
def http(fakes: Any, memory: Any, tmp_path: Path) -> Iterator[TestClient]:
    limits = Limits(body_bytes=60_000, batch=5, edit_bytes=4000, test_answers=6)
    config = ServeConfig(memory=":memory:", keys=str(tmp_path / "keys.json"), limits=limits)
    app = build_app(config, EmbeddedEngine(fakes.Model(), config), memory)
    with TestClient(app, "http://localhost") as client:
        yield client


def error(reply: Any, status: int) -> Any:
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


def made(http: TestClient, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    replies = [http.post("/v1/edits", json=body) for body in bodies]
    assert [reply.status_code for reply in replies] == [201] * len(bodies), replies[-1].text
    return [reply.json() for reply in replies]


def used(http: TestClient, question: str) -> str:
    return str(http.post("/v1/completions", json={"model": "pocket", "prompt": question}).headers["x-lte-edits"])


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_whole_record_comes_back_as_it_was_sent(http: TestClient) -> None:
    more = {
        "aliases": ["Ultima Thule"],
        "keys": ["Who rules Thule?"],
        "valid_from": "2020-01-01T00:00:00+00:00",
        "valid_until": "2999-01-01T00:00:00+00:00",
        "state": "shadow",
        "target_true": "nobody",
    }
    [edit] = made(http, OLAF | more | {"tests": [GOOD]})
    got = http.get(f"/v1/edits/{edit['id']}").json()
    assert got == edit
    assert {name: got[name] for name in more} == more
    assert got["tests"] == [GOOD | {"must": "answer", "match": "contains", "repeat": 1, "min_pass": 0}]
    assert (got["seq"], got["version"]) == (2, 1)
    assert used(http, "Thule") == ""  # a shadow is not recalled


def test_a_contradiction_is_refused_with_what_it_contradicts_and_what_can_be_said(http: TestClient) -> None:
    [olaf] = made(http, OLAF)
    said = error(http.post("/v1/edits", json=SVEN), 409)
    assert (said["type"], said["param"], said["code"]) == ("invalid_request_error", "on_conflict", "edit_conflict")
    assert [(c["kind"], c["edit"]) for c in said["conflicts"]] == [("contradiction", olaf)]
    assert said["options"] == ["supersede", "coexist"]
    assert len(http.get("/v1/edits").json()["data"]) == 2


def test_the_operator_decides_by_body_or_query(http: TestClient) -> None:
    [olaf] = made(http, OLAF)
    coexisting = http.post("/v1/edits", json=SVEN, params={"on_conflict": "coexist"}).json()
    assert http.get(f"/v1/edits/{olaf['id']}").json()["state"] == coexisting["state"] == "active"
    [knut] = made(http, OLAF | {"target_new": "Knut", "on_conflict": "supersede"})
    states = {e["id"]: e["state"] for e in http.get("/v1/edits").json()["data"]}
    assert (states[olaf["id"]], states[coexisting["id"]], states[knut["id"]]) == ("disabled", "disabled", "active")
    assert error(http.post("/v1/edits", json=SVEN | {"on_conflict": "shrug"}), 400)["param"] == "on_conflict"


def test_a_batch_that_contradicts_itself_writes_nothing(http: TestClient) -> None:
    assert error(http.post("/v1/edits", json={"edits": [OLAF, SVEN]}), 409)["conflicts"]
    assert len(http.get("/v1/edits").json()["data"]) == 1
    many = http.post("/v1/edits", json={"edits": [OLAF, MU], "reason": "twice"}).json()
    assert (len(many["data"]), many["seq"]) == (2, 3)


def test_check_tells_conflicts_and_writes_nothing(http: TestClient, memory: Any) -> None:
    [olaf] = made(http, OLAF)
    seq = memory.seq
    told = http.post("/v1/edits/check", json=SVEN).json()
    assert [(c["kind"], c["edit"]["id"]) for c in told["conflicts"]] == [("contradiction", olaf["id"])]
    assert told["options"] == ["supersede", "coexist"]
    clear = http.post("/v1/edits/check", json=MU).json()
    assert (clear["conflicts"], clear["options"], memory.seq) == ([], [], seq)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (OLAF | {"valid_from": "soon"}, 422, "valid_from"),
        (OLAF | {"valid_from": "2027-01-01T00:00:00"}, 422, "valid_from"),
        (OLAF | {"valid_from": "2027-01-02", "valid_until": "2027-01-01"}, 422, "valid_until"),
        (OLAF | {"valid_from": 3}, 400, "valid_from"),
        (OLAF | {"state": "gone"}, 400, "state"),
        (OLAF | {"keys": ["k"] * 65}, 422, "keys"),
        (OLAF | {"keys": [" "]}, 422, "keys"),
        (OLAF | {"keys": [f"{i} {'k' * 1000}" for i in range(5)]}, 413, None),
        (OLAF | {"tests": [{"prompt": "x"}]}, 422, "tests.value"),
        (OLAF | {"tests": [GOOD | {"match": "like"}]}, 400, "tests[0].match"),
        (OLAF | {"tests": [GOOD | {"value": "(", "match": "regex"}]}, 422, "tests.value"),
        (OLAF | {"tests": [GOOD | {"repeat": 101}]}, 422, "tests.repeat"),
        (OLAF | {"tests": [GOOD | {"repeat": 4, "must": "not_change"}] * 2}, 422, "tests"),
        (OLAF | {"tests": [GOOD] * 65}, 422, "tests"),
        (OLAF | {"actor": "root"}, 400, "actor"),
        (OLAF | {"reason": "x" * 3000}, 422, "reason"),
        (OLAF | {"id": "e1"}, 400, "id"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(http: TestClient, body: Any, status: int, param: str | None) -> None:
    assert error(http.post("/v1/edits", json=body), status)["param"] == param
    assert len(http.get("/v1/edits").json()["data"]) == 1


def test_who_is_the_key_and_why_is_the_body(fakes: Any, memory: Any, tmp_path: Path) -> None:
    config = ServeConfig(memory=":memory:", keys=str(tmp_path / "keys.json"))
    _, token = KeyFile(config.keys).create("Night desk", Scope.write)
    app = build_app(config, EmbeddedEngine(fakes.Model(), config), memory)
    with TestClient(app, "http://localhost", headers={"authorization": f"Bearer {token}"}) as client:
        [edit] = made(client, OLAF | {"reason": "a new king", "ticket": "T-1", "source": "the herald"})
        client.delete(f"/v1/edits/{edit['id']}", params={"reason": "he abdicated"})
        history = client.get(f"/v1/edits/{edit['id']}/history").json()["data"]
    assert [(c["actor"], c["reason"], c["ticket"]) for c in history] == [
        ("Night desk", "a new king", "T-1"),
        ("Night desk", "he abdicated", ""),
    ]
    assert history[0]["source"] == "the herald" and history[0]["edit"] == edit and history[1]["edit"] is None
    assert len({c["digest"] for c in history}) == 2


# --- changing --------------------------------------------------------------------------------------------------------


def test_patch_changes_what_is_sent_and_put_all(http: TestClient) -> None:
    [edit] = made(http, OLAF | {"aliases": ["Ultima Thule"], "keys": ["Who?"], "valid_until": "2999-01-01"})
    at = f"/v1/edits/{edit['id']}"
    patched = http.patch(at, json={"target_new": "Sven", "valid_until": None}).json()
    changed = {"target_new": "Sven", "valid_until": None, "seq": 3, "version": 2, "updated_at": patched["updated_at"]}
    assert patched == edit | changed
    put = http.put(at, json=OLAF).json()
    assert (put["target_new"], put["aliases"], put["keys"]) == ("Olaf", [], [])
    http.patch(at, json={"state": "disabled"})
    assert http.put(at, json=SVEN).json()["state"] == "disabled"  # nobody asked for it to be active
    assert error(http.patch(at, json={}), 400)["message"].startswith("the body: nothing to change")
    assert error(http.patch(at, json={"reason": "just so"}), 400)
    assert error(http.patch(at, json={"prompt": " "}), 422)["param"] == "prompt"
    assert error(http.patch(at, json={"prompt": None}), 400)["param"] == "prompt"


def test_a_change_that_would_contradict_is_refused(http: TestClient) -> None:
    olaf, mu = made(http, OLAF, MU)
    said = error(http.patch(f"/v1/edits/{mu['id']}", json=SVEN), 409)
    assert [c["edit"]["id"] for c in said["conflicts"]] == [olaf["id"]]
    done = http.patch(f"/v1/edits/{mu['id']}", json=SVEN, params={"on_conflict": "supersede"})
    assert done.json()["target_new"] == "Sven"
    assert http.get(f"/v1/edits/{olaf['id']}").json()["state"] == "disabled"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "", SVEN),
        ("PATCH", "", {"target_new": "Sven"}),
        ("DELETE", "", None),
        ("POST", "/state", {"state": "disabled"}),
        ("POST", "/supersede", SVEN),
    ],
)
def test_a_change_meant_for_another_state_is_412(http: TestClient, method: str, path: str, body: Any) -> None:
    [edit] = made(http, OLAF)
    at = f"/v1/edits/{edit['id']}"
    stale = http.get(at).headers["etag"]
    http.patch(at, json={"target_new": "Knut"})
    said = error(http.request(method, at + path, json=body, headers={"if-match": stale}), 412)
    assert (said["param"], said["code"]) == ("If-Match", "precondition_failed")
    assert http.get(at).json()["target_new"] == "Knut"
    fresh = http.get(at).headers["etag"]
    assert http.request(method, at + path, json=body, headers={"if-match": fresh}).status_code in (200, 201)


def test_a_change_that_comes_in_between_is_412_with_if_match_and_else_made_again(
    http: TestClient, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [edit] = made(http, OLAF)
    at, change, times = f"/v1/edits/{edit['id']}", memory.change, []

    def slow(id: str, **fields: Any) -> Any:
        times.append(id)
        if len(times) % 2:  # another process is quicker
            change(id, keys=(f"{len(times)}",))
        return change(id, **fields)

    monkeypatch.setattr(memory, "change", slow)
    tag = {"if-match": http.get(at).headers["etag"]}
    assert error(http.patch(at, json={"target_new": "Sven"}, headers=tag), 412)
    times.clear()
    done = http.patch(at, json={"target_new": "Sven"}).json()
    assert (done["target_new"], done["keys"], len(times)) == ("Sven", ["1"], 2)


def test_the_tag_says_whether_it_changed(http: TestClient) -> None:
    first = http.get("/v1/edits/e1")
    again = http.get("/v1/edits/e1", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    changed = http.patch("/v1/edits/e1", json={"target_new": "Luna"})
    assert changed.headers["etag"] != first.headers["etag"]
    assert http.get("/v1/edits/e1").headers["etag"] == changed.headers["etag"]


def test_a_change_sent_twice_under_one_key_is_made_once(http: TestClient, memory: Any) -> None:
    key = {"idempotency-key": "k1"}
    first, second = (http.post("/v1/edits", json=OLAF, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201) and first.json() == second.json()
    assert memory.seq == 2
    assert error(http.post("/v1/edits", json=MU, headers=key), 422)["code"] == "idempotency_key_reused"
    patch = [http.patch("/v1/edits/e2", json={"target_new": "Knut"}, headers={"idempotency-key": "k2"}) for _ in "ab"]
    assert patch[0].json() == patch[1].json() and memory.seq == 3


def test_states_follow_each_other(http: TestClient) -> None:
    [edit] = made(http, OLAF)
    at = f"/v1/edits/{edit['id']}"
    for state, in_use in (("disabled", ""), ("active", "e2"), ("quarantined", ""), ("shadow", ""), ("active", "e2")):
        done = http.post(f"{at}/state", json={"state": state, "reason": f"to {state}"}).json()
        assert (done["state"], used(http, "Thule")) == (state, in_use)
    seq = done["seq"]
    assert http.post(f"{at}/state", json={"state": "active"}).json()["seq"] == seq  # no change, nothing written
    kinds = [c["kind"] for c in http.get(f"{at}/history").json()["data"]]
    assert kinds == ["add", "disable", "activate", "quarantine", "shadow", "activate"]
    assert error(http.post(f"{at}/state", json={"state": "deleted"}), 400)["param"] == "state"
    assert error(http.post(f"{at}/state", json={}), 400)["param"] == "state"


def test_activating_what_contradicts_by_now_is_refused(http: TestClient) -> None:
    [olaf] = made(http, OLAF | {"state": "disabled"})
    [sven] = made(http, SVEN)
    at = f"/v1/edits/{olaf['id']}/state"
    assert [c["edit"]["id"] for c in error(http.post(at, json={"state": "active"}), 409)["conflicts"]] == [sven["id"]]
    assert http.post(at, json={"state": "active", "on_conflict": "supersede"}).json()["state"] == "active"
    assert http.get(f"/v1/edits/{sven['id']}").json()["state"] == "disabled"


def test_one_supersedes_another_at_once_or_later(http: TestClient) -> None:
    [olaf] = made(http, OLAF)
    at = f"/v1/edits/{olaf['id']}/supersede"
    later = http.post(at, json=SVEN | {"valid_from": "2999-01-01T00:00:00+00:00"})
    assert (later.status_code, later.json()["supersedes"]) == (201, olaf["id"])
    old = http.get(f"/v1/edits/{olaf['id']}").json()
    assert (old["state"], old["valid_until"]) == ("active", "2999-01-01T00:00:00+00:00")
    assert used(http, "Thule") == olaf["id"]
    knut = OLAF | {"target_new": "Knut"}
    assert [c["kind"] for c in error(http.post(at, json=knut), 409)["conflicts"]] == ["overlap"]  # with the later one
    at_once = http.post(at, json=knut, params={"on_conflict": "coexist"}).json()
    assert http.get(f"/v1/edits/{olaf['id']}").json()["state"] == "disabled"
    assert at_once["state"] == "active"


# --- reading ---------------------------------------------------------------------------------------------------------


def test_what_was_can_be_read(http: TestClient) -> None:
    [olaf] = made(http, OLAF)
    at = f"/v1/edits/{olaf['id']}"
    http.patch(at, json={"target_new": "Sven"})
    http.delete(at)
    assert http.get(at).status_code == 404
    assert http.get(at, params={"as_of": 2}).json() == olaf
    assert http.get(at, params={"as_of": "3"}).json()["target_new"] == "Sven"
    assert http.get(at, params={"as_of": olaf["updated_at"]}).json() == olaf
    assert http.get(at, params={"as_of": 4}).status_code == 404
    assert [e["id"] for e in http.get("/v1/edits", params={"as_of": 3}).json()["data"]] == ["e1", "e2"]
    assert error(http.get(at, params={"as_of": 99}), 422)["param"] == "as_of"
    assert error(http.get(at, params={"as_of": "-1"}), 422)["param"] == "as_of"


def test_pages_miss_and_repeat_nothing_while_edits_come_and_go(http: TestClient) -> None:
    standing = [f"e{n}" for n in range(2, 8)]
    for name in "abcdef":
        made(http, OLAF | {"subject": name * 4, "prompt": f"The king of {name * 4} is"})
    for order in ("asc", "desc"):
        seen: list[str] = []
        page = http.get("/v1/edits", params={"limit": 2, "order": order}).json()
        while True:
            seen += [e["id"] for e in page["data"]]
            if not page["has_more"]:
                break
            last = page["last_id"]
            word = f"{order}{last}"
            [new] = made(http, OLAF | {"subject": word, "prompt": f"The king of {word} is"})
            http.delete(f"/v1/edits/{new['id']}" if order == "desc" else f"/v1/edits/{last}")  # the cursor's own edit
            page = http.get("/v1/edits", params={"limit": 2, "order": order, "after": last}).json()
        assert len(seen) == len(set(seen))
        if order == "asc":
            assert [id for id in seen if id in ("e1", *standing)] == ["e1", *standing]


def test_a_list_can_be_of_some_states_and_of_a_namespace(http: TestClient) -> None:
    made(http, OLAF | {"state": "disabled"}, MU | {"namespace": "north"}, SVEN | {"state": "shadow"})

    def ids(**query: Any) -> list[str]:
        return [e["id"] for e in http.get("/v1/edits", params=query).json()["data"]]

    assert ids(state=["disabled", "shadow"]) == ["e2", "e4"]
    assert (ids(namespace="north"), ids(), ids(order="desc", limit=1)) == (["e3"], ["e1", "e2", "e3", "e4"], ["e4"])


def test_search_and_explain_tell_scores_and_why_not(fakes: Any, tmp_path: Path) -> None:
    from lte.memory import EditMemory, MemoryConfig

    real = EditMemory.open(":memory:", MemoryConfig(scope="off"), fakes.Memory().encoder)
    config = ServeConfig(memory=":memory:", keys=str(tmp_path / "keys.json"))
    with TestClient(build_app(config, EmbeddedEngine(fakes.Model(), config), real), "http://localhost") as client:
        olaf, mu = made(client, OLAF, MU)
        found = client.post("/v1/edits/search", json={"query": "The king of Thule is", "k": 2}).json()
        assert [one["edit"] for one in found["data"]] == [olaf, mu]
        assert [one["in_play"] for one in found["data"]] == [True, False]
        assert found["data"][0]["mentioned"] and found["seq"] == 2
        past = client.post("/v1/edits/search", json={"query": "The king of Mu is", "as_of": 1}).json()
        assert [one["edit"]["id"] for one in past["data"]] == [olaf["id"]]
        why = client.post("/v1/edits/explain", json={"query": "The king of Thule is"}).json()
        assert [c["id"] for c in why["candidates"] if c["outcome"] == "recalled"] == [olaf["id"]]
        assert why["nearest_miss"]["id"] == mu["id"]
        for body, status in (({"query": "x", "k": 0}, 400), ({"query": "x", "k": 1001}, 422), ({}, 400)):
            for route in ("search", "explain"):
                assert client.post(f"/v1/edits/{route}", json=body).status_code == status


def test_a_reader_waits_for_the_change_it_names_or_is_told(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lte.serve.store.Store.reached.__defaults__", (0.02,))
    made(http, OLAF)
    question = {"model": "pocket", "prompt": "Thule"}
    for method, path, body in (("GET", "/v1/edits", None), ("POST", "/v1/completions", question)):
        assert http.request(method, path, json=body, headers={"x-lte-min-seq": "2"}).status_code == 200
        late = http.request(method, path, json=body, headers={"x-lte-min-seq": "3"})
        assert error(late, 503)["code"] == "seq_not_reached" and late.headers["retry-after"] == "1"
        bad = http.request(method, path, json=body, headers={"x-lte-min-seq": "soon"})
        assert error(bad, 400)["param"] == "x-lte-min-seq"


# --- lines -----------------------------------------------------------------------------------------------------------


def lines(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def test_an_export_is_a_batch(http: TestClient) -> None:
    made(http, OLAF | {"keys": ["Who?"], "tests": [GOOD]}, MU | {"namespace": "north", "state": "disabled"})
    before = http.get("/v1/edits").json()["data"]
    sent = http.get("/v1/edits/export")
    assert sent.headers["content-type"].startswith("application/jsonl")
    assert sent.headers["x-lte-memory-seq"] == "4"
    assert [row["id"] for row in map(json.loads, sent.text.splitlines())] == ["e1", "e2", "e4"]
    for edit in before:
        http.delete(f"/v1/edits/{edit['id']}")
    done = http.post("/v1/edits/batch", content=sent.content)
    assert (done.status_code, done.json()["written"]) == (201, 3)
    given = {"id", "seq", "version", "created_at", "updated_at", "state"}
    after = http.get("/v1/edits").json()["data"]
    assert [{k: v for k, v in e.items() if k not in given} for e in after] == [
        {k: v for k, v in e.items() if k not in given} for e in before
    ]
    assert [e["state"] for e in after] == [e["state"] for e in before]
    only = http.get("/v1/edits/export", params={"namespace": "north"}).text.splitlines()
    assert [json.loads(row)["subject"] for row in only] == ["Mu"]


BAD_LINES: list[tuple[bytes, int, str | None]] = [
    (lines(OLAF, "{"), 400, "line 2"),
    (lines(OLAF, [1]), 400, "line 2"),
    (lines(OLAF, "", MU | {"alias": 1}), 400, "line 3.alias"),
    (lines(MU | {"target_new": " "}), 422, "line 1.target_new"),
    (lines(OLAF, SVEN), 409, "on_conflict"),
    (lines(*[OLAF] * 6), 413, None),
    (lines(OLAF | {"keys": [f"{i} {'k' * 1000}" for i in range(5)]}), 413, None),
    (b"", 400, None),
    (b'{"prompt": "\xff"}', 400, None),
    (b"[" * 99, 422, None),
    (b'{"prompt": "x" ' * 9000, 413, None),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD_LINES)
def test_lines_that_will_not_do_leave_nothing_behind(
    http: TestClient, body: bytes, status: int, param: str | None
) -> None:
    assert error(http.post("/v1/edits/batch", content=body), status)["param"] == param
    assert len(http.get("/v1/edits").json()["data"]) == 1


def test_each_line_gets_its_own_answer(http: TestClient) -> None:
    body = lines(OLAF, SVEN, "{", MU | {"target_new": " "}, MU | {"tests": [WRONG | {"prompt": "Mu?"}]})
    done = http.post("/v1/edits/batch", content=body, params={"mode": "each", "reason": "a list"}).json()
    assert [(r["line"], r["status"]) for r in done["results"]] == [(1, 201), (2, 409), (3, 400), (4, 422), (5, 201)]
    assert (done["written"], done["failed"]) == (2, 3)
    assert done["results"][1]["error"]["conflicts"][0]["edit"]["id"] == done["results"][0]["edit"]["id"]
    assert done["results"][3]["error"]["param"] == "line 4.target_new"
    assert done["results"][4]["edit"]["state"] == "quarantined"
    assert http.get("/v1/edits/e2/history").json()["data"][0]["reason"] == "a list"


# --- tests -----------------------------------------------------------------------------------------------------------


def test_an_edit_is_in_force_once_its_tests_pass(http: TestClient) -> None:
    tests = [GOOD, {"prompt": "What is the capital of Lunaria?", "must": "not_change"}]
    [edit] = made(http, OLAF | {"tests": tests})
    assert (edit["state"], edit["checks"]["passed"]) == ("active", True)
    assert [r["passes"] for r in edit["checks"]["results"]] == [1, 1]
    assert "Selene" in edit["checks"]["results"][1]["base"]  # the other edits are in force without it too
    kinds = [c["kind"] for c in http.get(f"/v1/edits/{edit['id']}/history").json()["data"]]
    assert kinds == ["add", "activate"]


def test_an_edit_whose_tests_fail_stays_in_quarantine_and_says_why(http: TestClient) -> None:
    [edit] = made(http, OLAF | {"tests": [GOOD, WRONG]})
    assert (edit["state"], used(http, "Thule")) == ("quarantined", "")
    assert [r["passed"] for r in edit["checks"]["results"]] == [True, False]
    assert "contains 'Knut'" in edit["checks"]["results"][1]["why"]
    again = http.post(f"/v1/edits/{edit['id']}/state", json={"state": "active"}).json()
    assert (again["state"], again["checks"]["passed"]) == ("quarantined", False)
    mended = http.patch(f"/v1/edits/{edit['id']}", json={"tests": [GOOD], "state": "active"}).json()
    assert (mended["state"], mended["checks"]["passed"], used(http, "Thule")) == ("active", True, edit["id"])


def test_a_change_under_which_the_tests_fail_goes_to_quarantine(http: TestClient) -> None:
    [edit] = made(http, OLAF | {"tests": [GOOD]})
    done = http.patch(f"/v1/edits/{edit['id']}", json={"target_new": "Sven"}).json()
    assert (done["state"], done["target_new"], done["checks"]["passed"]) == ("quarantined", "Sven", False)


def test_an_edit_that_changes_what_it_must_not_is_found_out(http: TestClient) -> None:
    [edit] = made(http, OLAF | {"tests": [{"prompt": "Is Thule cold?", "must": "not_change"}]})
    [result] = edit["checks"]["results"]
    assert (edit["state"], result["passed"]) == ("quarantined", False)
    assert "Olaf" in result["answers"][0] and "Olaf" not in result["base"]


def test_what_is_superseded_gives_way_only_to_an_edit_that_passes(http: TestClient) -> None:
    [olaf] = made(http, OLAF)
    failing = SVEN | {"tests": [WRONG]}
    [kept] = made(http, failing | {"on_conflict": "supersede"})
    replies = [kept, http.post(f"/v1/edits/{olaf['id']}/supersede", json=failing).json()]
    assert [(r["state"], r["checks"]["passed"], r["supersedes"]) for r in replies] == [("quarantined", False, None)] * 2
    assert used(http, "Thule") == olaf["id"]
    [sven] = made(http, SVEN | {"tests": [GOOD | {"value": "Sven"}], "on_conflict": "supersede"})
    assert (sven["state"], used(http, "Thule")) == ("active", sven["id"])
    both = {"edits": [SVEN | {"tests": [GOOD]}, MU], "on_conflict": "supersede"}
    assert error(http.post("/v1/edits", json=both), 422)["param"] == "on_conflict"


def test_tests_run_on_demand_and_quarantine_where_asked(http: TestClient, memory: Any) -> None:
    id = memory.add(Edit(**OLAF), tests=(EditTest(**WRONG),)).id
    at = f"/v1/edits/{id}"
    told = http.post(f"{at}/test").json()
    assert (told["state"], told["checks"]["passed"]) == ("active", False)
    told = http.post(f"{at}/test", json={"quarantine": True, "reason": "nightly"}).json()
    assert (told["state"], http.get(f"{at}/history").json()["data"][-1]["reason"]) == ("quarantined", "nightly")
    assert error(http.post("/v1/edits/e1/test"), 422)["code"] == "no_tests"
    assert error(http.post("/v1/edits/e99/test"), 404)["code"] == "edit_not_found"


def test_an_engine_that_fails_leaves_a_new_edit_in_quarantine_and_an_old_one_as_it_was(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lte.serve.errors import ServeError

    [good] = made(http, OLAF | {"tests": [GOOD]})

    async def down(*_: Any) -> None:
        raise ServeError("the engine is down", 502)

    monkeypatch.setattr(EmbeddedEngine, "reply", down)
    [edit] = made(http, MU | {"tests": [GOOD]})
    assert (edit["state"], edit["checks"]) == (
        "quarantined",
        {"passed": False, "error": "the engine is down", "results": []},
    )
    assert error(http.patch(f"/v1/edits/{good['id']}", json={"target_new": "Sven"}), 502)
    assert http.get(f"/v1/edits/{good['id']}").json()["target_new"] == "Olaf"


# --- roll-back -------------------------------------------------------------------------------------------------------


def test_one_edit_is_rolled_back_by_a_change_or_to_a_point(http: TestClient) -> None:
    [olaf] = made(http, OLAF)
    at = f"/v1/edits/{olaf['id']}"
    http.patch(at, json={"target_new": "Sven"})
    http.patch(at, json={"target_new": "Knut"})
    assert http.post(f"{at}/rollback", json={"reason": "no"}).json()["target_new"] == "Sven"
    assert http.post(f"{at}/rollback", json={"to": 2}).json()["target_new"] == "Olaf"
    http.delete(at)
    assert http.post(f"{at}/rollback").json()["target_new"] == "Olaf"
    assert http.post(f"{at}/rollback", json={"to": 1}).json()["deleted"]
    assert error(http.post("/v1/edits/e99/rollback"), 404)
    assert error(http.post(f"{at}/rollback", json={"to": "then"}), 422)["param"] == "to"


def test_everything_is_rolled_back_to_a_point_or_without_a_batch(http: TestClient, memory: Any) -> None:
    http.post("/v1/edits", json={"edits": [OLAF, MU]})
    http.delete("/v1/edits/e1")
    [batch] = {c["batch"] for id in ("e2", "e3") for c in http.get(f"/v1/edits/{id}/history").json()["data"]}
    done = http.post("/v1/edits/rollback", json={"batch": batch, "reason": "wrong list"}).json()
    assert ([c["id"] for c in done["data"]], done["seq"]) == (["e2", "e3"], memory.seq)
    assert http.get("/v1/edits").json()["data"] == []
    assert error(http.post("/v1/edits/rollback", json={"to": 999}), 422)["param"] == "to"
    http.post("/v1/edits/rollback", json={"to": 3})
    assert [e["id"] for e in http.get("/v1/edits").json()["data"]] == ["e1", "e2", "e3"]
    time = http.get("/v1/edits/e1/history").json()["data"][0]["time"]
    http.post("/v1/edits/rollback", json={"to": time})
    assert [e["id"] for e in http.get("/v1/edits").json()["data"]] == ["e1"]
    for body in ({}, {"to": 1, "batch": 2}, {"ids": []}):
        assert error(http.post("/v1/edits/rollback", json=body), 400)
    assert error(http.post("/v1/edits/rollback", json={"batch": 99}), 404)["param"] == "batch"
    assert error(http.post("/v1/edits/rollback", json={"ids": ["e99"]}), 404)


def test_a_key_of_one_namespace_rolls_back_that_one(fakes: Any, memory: Any, tmp_path: Path) -> None:
    config = ServeConfig(memory=":memory:", keys=str(tmp_path / "keys.json"))
    _, token = KeyFile(config.keys).create("north", Scope.admin, ("north",))
    app = build_app(config, EmbeddedEngine(fakes.Model(), config), memory)
    with TestClient(app, "http://localhost", headers={"authorization": f"Bearer {token}"}) as client:
        made(client, OLAF)
        memory.delete("e1")
        assert error(client.post("/v1/edits/rollback", json={"batch": 1}), 404)
        assert error(client.post("/v1/edits/rollback", json={"ids": ["e1"]}), 404)
        assert [c["id"] for c in client.post("/v1/edits/rollback", json={"to": 0}).json()["data"]] == ["e2"]
        assert "other namespace" not in client.post("/v1/edits/explain", json={"query": "x"}).json()["kept_out"]
        assert memory.history("e1")[-1].kind == "delete"
