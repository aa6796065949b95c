"""Who gets through to which route: a matrix made from the routes themselves, and what has no policy."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from shell_kit import CHAT, FACT, TEXT, Shell, every_kind, fact, shell
from starlette.testclient import TestClient

from lte.serve.errors import ServeError
from lte.serve.keys import Key, KeyFile, Scope
from lte.serve.listen import check_exposure
from lte.serve.policy import ADMIN, PUBLIC, Caller, Table, check_declared, routes_of

PORTS = {"public": PUBLIC, "admin": ADMIN}
LINES = [(port, line) for port, policies in PORTS.items() for line in policies]
STATED = {"POST /v1/edits", "PUT /v1/edits/{id}", "POST /v1/edits/check", "POST /v1/edits/{id}/supersede"}
BODIES: dict[str, Any] = {
    "POST /v1/chat/completions": CHAT,
    "POST /v1/completions": TEXT,
    "POST /v1/edits/search": {"query": "Lunaria"},
    "POST /v1/edits/explain": {"query": "Lunaria"},
    "POST /v1/edits/rollback": {"to": 2},
    "PATCH /v1/edits/{id}": {"target_new": "Selena"},
    "POST /v1/edits/{id}/state": {"state": "active"},
}
ELSE = {line: 400 for line in ADMIN if line.startswith("POST /ui/")}  # forms with nothing in them
ELSE |= {"POST /v1/edits/batch": 400, "POST /v1/edits/{id}/test": 422}  # an empty batch, an edit without tests
LOGIN = "POST /ui/login"  # open to all, who show a key there
ELSE[LOGIN] = 401
NUMBERS = count()
NOT_LET_IN = ("nobody", "wrong", "revoked", "expired")


@pytest.fixture
def locked(fakes: Any, tmp_path: Path) -> Any:
    with shell(fakes, tmp_path, rates={"failures": "1000/minute"}) as made:
        yield made


def ask(made: Shell, port: str, line: str, who: str, id: str = "e1", **more: Any) -> Any:
    method, path = line.split(" ", 1)
    path = path.replace("{id}", id).replace("{name:path}", "pocket")
    client = made.client(admin=port == "admin")
    body = fact(next(NUMBERS)) if line in STATED else BODIES.get(line)
    return client.request(method, path, json=body, headers=made.bearer(who), **more)


def test_the_table_names_every_route_there_is(locked: Shell) -> None:
    assert set(routes_of(locked.apps.public)) == set(PUBLIC)
    assert set(routes_of(locked.apps.admin)) == set(ADMIN)


@pytest.mark.parametrize(("port", "line"), LINES)
def test_each_kind_of_key_gets_as_far_as_its_scope(locked: Shell, port: str, line: str) -> None:
    needs = PORTS[port][line]
    for who in NOT_LET_IN:
        reply = ask(locked, port, line, who)
        assert reply.status_code in ((200,) if needs is None and line != LOGIN else (401, 403)), who
        if needs is not None:
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"].startswith("Bearer" if port == "public" else "Basic")
    for scope in Scope:
        status = ask(locked, port, line, scope.value).status_code
        let_in = needs is None or scope.covers(needs)
        assert status in ((200, 201, ELSE.get(line)) if let_in else (403,)), scope
        if let_in and (line.startswith("DELETE") or line.endswith("/supersede")):
            break  # it is gone for the next


def test_a_key_of_another_namespace_sees_and_changes_nothing_here(locked: Shell) -> None:
    for line in [line for line in PUBLIC if "{id}" in line]:
        reply = ask(locked, "public", line, "elsewhere")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "edit_not_found"), line
        there = ask(locked, "public", line, "elsewhere", "e404")
        assert there.json()["error"]["message"].replace("e404", "e1") == reply.json()["error"]["message"]  # no telling
    http, headers = locked.client(), locked.bearer("elsewhere")
    assert [e["id"] for e in http.get("/v1/edits", headers=headers).json()["data"]] == ["e2"]
    for reply in (
        http.get("/v1/edits", params={"namespace": "default"}, headers=headers),
        http.post("/v1/edits", json=FACT | {"namespace": "default"}, headers=headers),
        http.post("/v1/chat/completions", json=CHAT | {"lte": {"namespace": "default"}}, headers=headers),
        http.post("/v1/completions", json=TEXT | {"lte": {"namespace": "default"}}, headers=headers),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "namespace_not_allowed")
    assert http.post("/v1/completions", json=TEXT, headers=headers).headers["x-lte-edits"] == ""
    thule = {"model": "pocket", "prompt": "Thule"}
    assert http.post("/v1/completions", json=thule, headers=headers).headers["x-lte-edits"] == "e2"
    assert http.post("/v1/edits", json=FACT, headers=headers).status_code == 201
    assert (len(locked.memory.list("default")), len(locked.memory.list("north"))) == (1, 2)


def test_an_unnamed_namespace_is_the_servers_own_or_else_the_keys_first() -> None:
    def caller(*names: str) -> Caller:
        made = {"id": "0" * 12, "name": "", "sha256": "0" * 64, "created": "2026-01-01T00:00:00Z", "scope": "read"}
        return Caller(Key.model_validate(made | {"namespaces": names or None}))

    assert caller().namespace(None, "default") == "default"
    assert caller("a", "default").namespace(None, "default") == "default"
    assert caller("a", "b").namespace(None, "default") == "a"
    assert caller("a", "b").namespace("b", "default") == "b"
    with pytest.raises(ServeError, match="'c' is not open to this key"):
        caller("a", "b").namespace("c", "default")


def page() -> APIRouter:
    router = APIRouter()

    @router.get("/extra")
    async def extra() -> str:
        return "a page"

    return router


def test_a_route_without_a_policy_stops_the_start(fakes: Any, tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"routes without a policy: \['GET /extra'\]"):
        with shell(fakes, tmp_path, pages=[page()]):
            pass


def test_a_policy_without_a_route_stops_the_start(locked: Shell) -> None:
    with pytest.raises(ServeError, match=r"policies without a route: \['GET /nowhere'\]"):
        check_declared(locked.apps.public, {**PUBLIC, "GET /nowhere": None})


def test_a_route_that_is_added_later_cannot_be_reached(locked: Shell) -> None:
    locked.apps.public.include_router(page())
    http = TestClient(locked.apps.public, "http://localhost")
    assert http.get("/extra").status_code == 401
    assert http.get("/extra", headers=locked.bearer("admin")).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/no"), ("POST", "/v1/edits/e1"), ("GET", "/metrics")])
def test_what_is_not_there_is_not_told_to_strangers(locked: Shell, method: str, path: str) -> None:
    assert locked.client().request(method, path).status_code == 401
    assert locked.client().request(method, path, headers=locked.bearer("read")).status_code in (404, 405)


def test_of_two_lines_that_fit_the_stricter_holds() -> None:
    for lines in ({"POST /a/{x}": Scope.admin, "POST /a/b": None}, {"POST /a/b": None, "POST /a/{x}": Scope.admin}):
        rule = Table(lines).find("POST", "/a/b")
        assert rule and rule.scope is Scope.admin


# --- without keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 403), ("localhost.evil", 403)],
)
def test_without_keys_only_this_machines_names_pass(fakes: Any, tmp_path: Path, host: str, status: int) -> None:
    with shell(fakes, tmp_path, keys=False) as open_:
        for admin, path in ((False, "/v1/models"), (True, "/metrics")):
            assert open_.client(admin).get(path, headers={"host": host}).status_code == status
    with shell(fakes, tmp_path, keys=False, auth="none") as open_:
        assert open_.client().get("/v1/models", headers={"host": host}).status_code == 200


def test_the_first_key_locks_a_server_that_runs(fakes: Any, tmp_path: Path) -> None:
    with shell(fakes, tmp_path, keys=False) as made:
        assert made.client().get("/v1/models").status_code == 200
        made.tokens |= every_kind(KeyFile(tmp_path / "keys.json"))
        assert made.client().get("/v1/models").status_code == 401
        assert made.client().get("/v1/models", headers=made.bearer("read")).status_code == 200
        (tmp_path / "keys.json").unlink()  # and it does not open again
        assert made.client().get("/v1/models").status_code == 401
        reply = made.client().get("/v1/models", headers=made.bearer("read"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "keys_unavailable")


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}])
def test_a_page_of_another_site_changes_nothing(fakes: Any, tmp_path: Path, headers: dict[str, str]) -> None:
    with shell(fakes, tmp_path, keys=False) as made:
        assert made.client().post("/v1/edits", json=FACT, headers=headers).status_code == 403
        assert len(made.memory) == 2
        own = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
        assert made.client().post("/v1/edits", json=FACT, headers=own).status_code == 201


def test_a_browsers_password_is_a_key_on_the_admin_port_alone(locked: Shell) -> None:
    token = locked.tokens["read"]
    assert locked.client(admin=True).get("/metrics", auth=("anyone", token)).status_code == 200
    assert locked.client(admin=True).get("/metrics", auth=("anyone", token + "x")).status_code == 401
    assert locked.client(admin=True).get("/metrics", headers={"authorization": b"Basic \xa7"}).status_code == 401
    assert locked.client().get("/v1/models", auth=("anyone", token)).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_open_host_wants_keys_or_a_word(host: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ServeError, match=r"admin.host .*lte serve keys create.*--set auth=none"):
        check_exposure(host, "admin.host", "keys", locked=False)
    check_exposure(host, "host", "keys", locked=True)
    check_exposure("127.0.0.1", "host", "keys", locked=False)
    assert not caplog.records
    check_exposure(host, "host", "none", locked=False)
    assert "no key is asked" in caplog.text
