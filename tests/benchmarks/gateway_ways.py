"""The processes of test_gateway_speed.py: an upstream that answers at once, and a gateway in front of an upstream."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import uvicorn

Stages = dict[str, list[float]]


async def at_once(scope: Any, receive: Any, send: Any) -> None:
    """An upstream that answers as soon as it has read the question."""
    if scope["type"] != "http":
        return
    more = scope["method"] == "POST"
    while more:
        more = (await receive()).get("more_body", False)
    said: Any = {"data": [{"id": "pocket", "parent": None}, {"id": "lte", "parent": "pocket"}]}
    if scope["method"] == "POST":
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        said = {"id": "x", "object": "chat.completion", "created": 1, "model": "pocket", "choices": [choice]}
    body = json.dumps(said).encode()
    kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    await send({"type": "http.response.body", "body": body})


def stub() -> None:
    """Serve `at_once`, and say where."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as door:
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print(door.getsockname()[1], flush=True)
        config = uvicorn.Config(at_once, log_config=None, access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[door])


def gateway(upstream: str, edits: int, real: bool, stages_file: Path) -> None:
    """Serve a gateway in front of `upstream`, say where, and at the end write how long each stage took."""
    from test_speed import Stub

    from lte.memory import EditMemory, MemoryConfig
    from lte.memory.index import Index
    from lte.memory.stages import Gate
    from lte.serve import Limits, ServeConfig
    from lte.serve.app import build_app
    from lte.serve.listen import listening, run_both
    from lte.serve.run import uvicorn_config
    from lte.serve.upstream import UpstreamEngine

    limits = Limits(waiting=512)
    config = ServeConfig(upstreams=(upstream,), limits=limits, log={"requests": False})
    engine = UpstreamEngine.connect(config)
    made_up = MemoryConfig(mention_threshold=-1)  # random vectors are far apart
    memory = EditMemory.open(config=MemoryConfig()) if real else EditMemory.open(config=made_up, encoder=Stub())
    memory.add_many(facts(edits, real))
    stages: Stages = {}
    # what is timed here is the product as it is, each call within it with two looks at the clock around it
    memory.encoder.encode = timed(memory.encoder.encode, "embed", stages)  # type: ignore[method-assign]
    Index.search = timed(Index.search, "search", stages)  # type: ignore[method-assign]
    Gate.cut = timed(Gate.cut, "gate", stages)  # type: ignore[method-assign]
    engine.body = timed(engine.body, "render", stages)  # type: ignore[method-assign]
    app = build_app(config, engine, memory)
    with listening("127.0.0.1", 0) as door:
        print(door.getsockname()[1], flush=True)
        run_both((uvicorn_config(config, app), door), None, lambda: None)
    stages_file.write_text(json.dumps(stages))


def timed(call: Callable[..., Any], stage: str, stages: Stages) -> Callable[..., Any]:
    """The same, noting the milliseconds that each call takes."""
    took = stages.setdefault(stage, [])

    def one(*given: Any, **named: Any) -> Any:
        begun = perf_counter()
        try:
            return call(*given, **named)
        finally:
            took.append((perf_counter() - begun) * 1000)

    return one


def facts(count: int, real: bool) -> list[Any]:
    """`count` edits: of the pocket model's world, or made up."""
    from lte.edits import Edit, read_cases
    from lte.pocket import home

    if real:
        return [case.edit for case in read_cases(home() / "align.jsonl")][:count]
    return [Edit(f"The mother tongue of Person{i} is", "English", f"Person{i}") for i in range(count)]


def main() -> None:
    """Be one of the processes until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("stub", "gateway"))
    parser.add_argument("--upstream")
    parser.add_argument("--stages", type=Path)
    parser.add_argument("--edits", type=int)
    parser.add_argument("--real", action="store_true", help="the bundled encoder and the pocket model's facts")
    asked = parser.parse_args()
    if asked.role == "stub":
        stub()
    else:
        gateway(asked.upstream, asked.edits, asked.real, asked.stages)


if __name__ == "__main__":
    main()
