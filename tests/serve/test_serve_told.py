"""What a response tells of its edits where it is asked: which were near, in play, decisive; alike for both engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from upstream_kit import Stub, gateway

from lte.edits import Edit
from lte.serve import Limits, ServeConfig
from lte.serve.told import normalised

ASK: dict[str, Any] = {"model": "pocket", "messages": [{"role": "user", "content": "Lunaria and Thule?"}]}
HTTP = httpx.Client(timeout=60)


class Deciding(Stub):
    """Repeats its prompt only as far as Selene goes: what is said of Thule decides nothing."""

    async def answer(self, path: str, body: Any, send: Any) -> None:
        if not body.get("stream"):
            text = "SELENE. " if "Selene" in json.dumps(body["messages"]) else "Luna"
            said = {"message": {"content": text}} if not body.get("n") else {"message": {"content": f" {text}"}}
            from upstream_kit import reply

            await reply(send, 200, {"choices": [said], "model": body["model"]})
            return
        await super().answer(path, body, send)


@pytest.fixture
def memory(fakes: Any) -> Any:
    held = fakes.Memory()
    held.add(Edit("The capital of Lunaria is", "Selene", subject="Lunaria"))
    held.add(Edit("The king of Thule is", "Olaf", subject="Thule"))
    held.add(Edit("The moon of Mars is", "Deimos", subject="Mars"))
    return held


@pytest.fixture(params=["embedded", "upstream"])
def there(request: pytest.FixtureRequest, serve: Any, fakes: Any, memory: Any) -> Iterator[Any]:
    if request.param == "embedded":
        with serve(fakes.Model(), memory, ServeConfig(drain_seconds=2, limits=Limits())) as running:
            yield running
    else:
        with gateway(serve, memory, Stub()) as running:
            yield running


def post(there: Any, lte: Any, **more: Any) -> httpx.Response:
    return HTTP.post(f"{there.url}/v1/chat/completions", json={**ASK, "lte": lte, **more})


def test_nothing_is_told_unless_it_is_asked_for(there: Any) -> None:
    for lte in (None, {}, {"edits": "auto"}, {"namespace": "default"}):
        got = post(there, lte)
        assert got.headers["x-lte-edits"] == "e1,e2" and "lte" not in got.json()


def test_a_request_may_narrow_its_edits(there: Any) -> None:
    assert post(there, {"max_edits": 1}).headers["x-lte-edits"] == "e1"
    assert post(there, {"edits": "off"}).headers["x-lte-edits"] == ""
    assert post(there, {"namespace": "elsewhere"}).headers["x-lte-edits"] == ""


@pytest.mark.parametrize("wish", [{"edit": "off"}, {"edits": "none"}, {"max_edits": 0}, {"attribution": True}, 3])
def test_a_wish_that_is_misspelt_is_refused(there: Any, wish: Any) -> None:
    got = post(there, wish)
    assert got.status_code == 400 and got.json()["error"]["param"].startswith("lte")


def test_attribution_tells_which_edits_were_near_and_in_play(there: Any) -> None:
    told = post(there, {"attribution": "injected"}).json()["lte"]
    assert told["injected"] == ["e1", "e2"]
    assert [(r["id"], r["score"]) for r in told["retrieved"]] == [("e1", 1.0), ("e2", 1.0)]
    assert (told["memory_seq"], told["prompt_only"], told["edits"]) == (3, False, "auto")
    assert "decisive" not in told
    none = post(there, {"attribution": "injected", "edits": "off"}).json()["lte"]
    assert (none["injected"], none["retrieved"]) == ([], [])


def test_explain_tells_how_near_the_others_came(there: Any) -> None:
    [near] = post(there, {"explain": True}).json()["lte"]["explain"]
    assert [(e["id"], e["in_play"]) for e in near] == [("e1", True), ("e2", True), ("e3", False)]


def test_a_shadow_answers_without_the_edits_and_tells_what_they_change(there: Any) -> None:
    got = post(there, {"edits": "shadow"})
    assert got.headers["x-lte-edits"] == ""
    answer = got.json()
    [choice] = answer["lte"]["shadow"]["choices"]
    assert choice["unedited"] == answer["choices"][0]["message"]["content"]
    assert "Selene" in choice["edited"] and "Selene" not in choice["unedited"]
    assert answer["lte"]["shadow"]["differs"] is True and not choice["same"]
    refused = post(there, {"edits": "shadow"}, stream=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lte.edits")


def test_a_shadow_that_no_edit_touches_differs_in_nothing(there: Any) -> None:
    got = post(there, {"edits": "shadow"}, messages=[{"role": "user", "content": "Peru?"}]).json()
    assert got["lte"]["shadow"]["differs"] is False


@pytest.mark.parametrize("more", [{}, {"temperature": 0}, {"n": 2, "temperature": 0.9}])
def test_the_edit_that_changed_the_answer_is_the_decisive_one(serve: Any, memory: Any, more: Any) -> None:
    with gateway(serve, memory, stub := Deciding()) as there:
        got = post(there, {"attribution": "decisive"}, **more).json()
        assert got["lte"]["decisive"] == ["e1"]
        assert got["lte"]["injected"] == ["e1", "e2"]
        asked = [json.loads(b) for b in stub.bodies]
        assert len(asked) == (3 if more == {"temperature": 0} else 4)
        assert all(b["temperature"] == 0 and b["n"] == 1 for b in asked[1:])
        assert all("lte" not in b for b in asked)
        stream = {"stream": True, "stream_options": {"include_lte": True}}
        body = post(there, {"attribution": "decisive"}, **stream).text
        told = json.loads(body.split("\n\n")[-3].removeprefix("data: "))["lte"]
        assert told["decisive"] == ["e1"]


def test_the_embedded_engine_finds_the_decisive_edits_too(serve: Any, fakes: Any, memory: Any) -> None:
    with serve(fakes.Model(), memory, ServeConfig(drain_seconds=2)) as there:  # it repeats all it reads
        assert post(there, {"attribution": "decisive"}).json()["lte"]["decisive"] == ["e1", "e2"]


def test_answers_are_compared_without_case_and_outer_marks() -> None:
    assert normalised(' "Selene,  the city." ') == normalised("selene, THE city")
    assert normalised("a.b") != normalised("ab")
