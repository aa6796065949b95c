"""Requests made from the server's own description of itself, right and wrong ones: none makes it fail.

LTE_FUZZ=2000 asks for so many of each route.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import FakeMemory, FakeModel
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from shell_kit import Shell, shell

schemathesis = pytest.importorskip("schemathesis")

schemathesis.serializer.alias("application/jsonl", "text/plain")
EXAMPLES = int(os.environ.get("LTE_FUZZ", "8"))
MODES = ["positive", "negative"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    fakes = SimpleNamespace(Model=FakeModel, Memory=FakeMemory)
    with shell(fakes, tmp_path_factory.mktemp("fuzz")) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("port", "least"), [("public", 12), ("admin", 3)])
def test_no_request_whatever_makes_a_route_fail(made: Shell, port: str, least: int, mode: str) -> None:
    app = made.apps.admin if port == "admin" else made.apps.public
    http, key = made.client(admin=port == "admin"), made.bearer("admin")
    operations = [found.ok() for found in schemathesis.openapi.from_dict(app.openapi()).get_all_operations()]
    assert len(operations) >= least
    told = set[int]()
    for operation in operations:
        codes = asked(http, key, operation, schemathesis.GenerationMode(mode))
        assert max(codes, default=0) < 500, f"{operation.label}: {codes}"
        assert codes or mode == "negative", f"{operation.label} was not asked"
        told |= codes
    assert 200 in told if mode == "positive" else not told or min(told - {200, 201}) >= 400


def asked(http: Any, key: dict[str, str], operation: Any, mode: Any) -> set[int]:
    """The codes that an operation answers with."""
    codes = set[int]()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://localhost", headers=key)
        # Without that header: a change that never comes is waited for, and told with a 503.
        headers = {name: value for name, value in sent["headers"].items() if name.lower() != "x-lte-min-seq"}
        body = sent.get("data")
        wire = {"content": body} if isinstance(body, (bytes, str)) else {"data": body}
        if "json" in sent:
            wire = {"json": sent["json"]}
        reply = http.request(sent["method"], sent["url"], params=sent.get("params"), headers=headers, **wire)
        codes.add(reply.status_code)
        assert reply.status_code < 500, reply.text

    try:
        ask()
    except Unsatisfiable:
        pass  # a route that takes nothing cannot be asked wrongly
    return codes
