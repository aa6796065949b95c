"""/v1/edits: what is written is in force when the call returns, what is deleted is not."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from lte.memory.fault import MemoryFault

FACT = {"prompt": "The king of Thule is", "target_new": "Olaf", "subject": "Thule"}


@pytest.fixture
def http(served: Any) -> Any:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def used(http: httpx.Client, question: str) -> str:
    body = {"model": "pocket", "messages": [{"role": "user", "content": question}]}
    return http.post("/v1/chat/completions", json=body).headers["x-lte-edits"]


def test_the_life_of_an_edit(http: httpx.Client) -> None:
    assert used(http, "Who is king of Thule?") == ""
    created = http.post("/v1/edits", json=FACT | {"aliases": ["Ultima Thule"]})
    assert created.status_code == 201
    edit = created.json()
    said = FACT | {"id": "e2", "object": "edit", "namespace": "default", "aliases": ["Ultima Thule"], "state": "active"}
    given = {name: edit[name] for name in ("created_at", "updated_at")}
    empty = {"target_true": None, "keys": [], "valid_from": None, "valid_until": None, "tests": [], "supersedes": None}
    assert edit == said | empty | {"seq": 2, "version": 1} | given
    assert given["created_at"] == given["updated_at"] != ""
    assert http.get("/v1/edits/e2").json() == edit
    assert used(http, "Who is king of Thule?") == "e2"

    updated = http.put("/v1/edits/e2", json=FACT | {"target_new": "Sven"})
    assert (updated.status_code, updated.json()["target_new"], updated.json()["aliases"]) == (200, "Sven", [])

    deleted = http.delete("/v1/edits/e2")
    assert deleted.json() == {"id": "e2", "object": "edit.deleted", "deleted": True, "seq": 4}
    assert used(http, "Who is king of Thule?") == ""
    assert http.get("/v1/edits/e2").status_code == 404

    history = http.get("/v1/edits/e2/history").json()["data"]
    assert [c["kind"] for c in history] == ["add", "update", "delete"]
    assert [c["edit"] and c["edit"]["target_new"] for c in history] == ["Olaf", "Sven", None]


def test_a_batch_is_written_whole_or_not_at_all(http: httpx.Client) -> None:
    good = http.post("/v1/edits", json={"edits": [FACT, FACT | {"subject": "Mu"}]})
    assert good.status_code == 201
    assert [e["id"] for e in good.json()["data"]] == ["e2", "e3"]
    bad = http.post("/v1/edits", json={"edits": [FACT, FACT | {"target_new": " "}]})
    assert (bad.status_code, bad.json()["error"]["param"]) == (422, "edits[1].target_new")
    assert len(http.get("/v1/edits").json()["data"]) == 3


def test_pages_follow_each_other(http: httpx.Client) -> None:
    http.post("/v1/edits", json={"edits": [FACT] * 4, "on_conflict": "coexist"})
    ids, after = [], {}
    while True:
        page = http.get("/v1/edits", params={"limit": 2, **after}).json()
        ids += [e["id"] for e in page["data"]]
        assert page["last_id"] == ids[-1]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert ids == ["e1", "e2", "e3", "e4", "e5"]


def test_namespaces_keep_apart(http: httpx.Client) -> None:
    http.post("/v1/edits", json=FACT | {"namespace": "north"})
    assert used(http, "Who is king of Thule?") == ""
    assert [e["id"] for e in http.get("/v1/edits", params={"namespace": "north"}).json()["data"]] == ["e2"]
    body = {"model": "pocket", "prompt": "Thule", "lte": {"namespace": "north"}}
    assert http.post("/v1/completions", json=body).headers["x-lte-edits"] == "e2"


BAD = [
    ({"prompt": "x"}, 400, "target_new"),
    (FACT | {"target_new": 3}, 400, "target_new"),
    (FACT | {"alias": []}, 400, "alias"),
    (FACT | {"aliases": "Thule"}, 400, "aliases"),
    (FACT | {"prompt": ""}, 422, "prompt"),
    (FACT | {"prompt": "The king <|eot_id|> is"}, 422, "prompt"),
    (FACT | {"subject": "Thu\u202ele"}, 422, "subject"),
    (FACT | {"target_new": "x" * 3000}, 422, "target_new"),
    (FACT | {"aliases": ["[Question]"]}, 422, "aliases"),
    (FACT | {"namespace": " "}, 400, "namespace"),
    (FACT | {"namespace": "a\u202eb"}, 400, "namespace"),
    ({"edits": []}, 400, "edits"),
    ({"edits": [FACT] * 6}, 413, "edits"),
    ({"edits": [FACT, {"prompt": "x"}]}, 400, "edits[1].target_new"),
    ([FACT], 400, None),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD)
def test_a_bad_edit_is_refused_by_field_and_nothing_is_written(
    http: httpx.Client, body: Any, status: int, param: str | None
) -> None:
    reply = http.post("/v1/edits", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
    assert len(http.get("/v1/edits").json()["data"]) == 1


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/history")])
def test_an_unknown_id_is_404(http: httpx.Client, method: str, path: str) -> None:
    reply = http.request(method, f"/v1/edits/e99{path}", json=FACT if method == "PUT" else None)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "edit_not_found")


BAD_PAGES = [
    ({"limit": 0}, 400, "limit"),
    ({"limit": "x"}, 400, "limit"),
    ({"limit": 6}, 422, "limit"),
    ({"after": "first"}, 400, "after"),
    ({"order": "up"}, 400, "order"),
    ({"state": "gone"}, 400, "state[0]"),
    ({"as_of": "yesterday"}, 422, "as_of"),
    ({"as_of": "99"}, 422, "as_of"),
]


@pytest.mark.parametrize(("query", "status", "param"), BAD_PAGES)
def test_a_bad_page_is_refused(http: httpx.Client, query: dict[str, Any], status: int, param: str) -> None:
    reply = http.get("/v1/edits", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize("fault", [MemoryFault("memory.db: locked by another process"), OSError(28, "No space left")])
def test_a_memory_that_fails_is_503_and_never_an_unedited_answer(
    served: Any, http: httpx.Client, fault: Exception
) -> None:
    served.memory.fault = fault
    question = {"model": "pocket", "messages": [{"role": "user", "content": "Lunaria?"}]}
    for reply in (
        http.post("/v1/edits", json=FACT),
        http.get("/v1/edits"),
        http.post("/v1/chat/completions", json=question),
        http.get("/health"),
    ):
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert str(fault) in reply.json()["error"]["message"]
    base = http.post("/v1/chat/completions", json=question | {"model": "pocket:base"})
    assert base.status_code == 200  # needs no memory
    served.memory.fault = None
    assert http.get("/health").json() == {"status": "ok", "model": "pocket", "edits": 1}


def test_a_page_from_elsewhere_cannot_write_an_edit(http: httpx.Client) -> None:
    reply = http.post("/v1/edits", content=json.dumps(FACT), headers={"content-type": "text/plain"})
    assert reply.status_code == 400
    assert "application/json" in reply.json()["error"]["message"]
    assert len(http.get("/v1/edits").json()["data"]) == 1
