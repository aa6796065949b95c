"""What the gateway costs: latency it adds over asking its upstream directly, and the requests a second that are left.

In the suite a small one runs, as a test that it works. To measure, in front of a server that answers at once and, with
`make vllm` and --vllm, in front of a real one with the pocket model; direct and through the gateway in turns:

    cd tests/benchmarks && PYTHONPATH=../.. python test_gateway_speed.py -o results/gateway-cpu.json --vllm

The client, the gateway and what is behind it are processes of their own. Embedding takes no time in front of the stub
(vectors are made up); behind a real vLLM it is the bundled encoder's, and told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
from bench_kit import about, write

from lte.edits import read_cases
from lte.pocket import home
from lte.prompt import with_edits

HERE, REPOSITORY = Path(__file__).parent, Path(__file__).resolve().parents[2]
SETTINGS = ("--dtype", "float32", "--max-model-len", "512", "--enforce-eager")
TOKENS = 32  # of each answer that vLLM makes
WARM = 20


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """The address of a process of gateway_ways.py."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, str(HERE / "gateway_ways.py"), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout
    try:
        yield f"http://127.0.0.1:{int(running.stdout.readline())}"
    finally:
        running.terminate()
        running.wait(60)
        running.stdout.close()


def ask(question: str, **more: Any) -> dict[str, Any]:
    """A request to the pocket model."""
    return {"model": "pocket", "messages": [{"role": "user", "content": question}], **more}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the least that 95 and 99 in a hundred do not exceed."""
    ranked = sorted(values)
    at = {f"p{p}": ranked[min(len(ranked) - 1, int(len(ranked) * p / 100))] for p in (50, 95, 99)}
    return {name: round(value, 3) for name, value in at.items()}


def added(direct: str, through: str, pairs: Sequence[tuple[Any, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Milliseconds of one request at a time, the same question asked in turns, and the edits that were used.

    pairs  what the upstream is asked directly, and what the gateway is asked
    """
    took: dict[str, list[float]] = {"direct": [], "gateway": []}
    used = []
    with httpx.Client(timeout=300, trust_env=False) as http:

        def one(way: str, url: str, body: Any) -> httpx.Response:
            begun = perf_counter()
            got = http.post(f"{url}/v1/chat/completions", json=body)
            took[way].append((perf_counter() - begun) * 1000)
            assert got.status_code == 200, got.text
            return got

        for n, (plain, asked) in enumerate([*pairs[:WARM], *pairs]):
            turns = [("direct", direct, plain), ("gateway", through, asked)]
            for way, url, body in turns if n % 2 else turns[::-1]:
                got = one(way, url, body)
                if way == "gateway":
                    used.append(got.headers["x-lte-edits"])
    kept = {way: each[len(pairs[:WARM]) :] for way, each in took.items()}
    base = median(kept["direct"])
    over = [value - base for value in kept["gateway"]]
    return {**{way: spread(each) for way, each in kept.items()}, "added": spread(over)}, used[len(pairs[:WARM]) :]


async def rate(url: str, bodies: Sequence[Any], at_once: int) -> float:
    """Requests a second with so many under way."""
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    left = iter(bodies)

    async def worker(http: httpx.AsyncClient) -> None:
        for body in left:
            got = await http.post(f"{url}/v1/chat/completions", json=body)
            assert got.status_code == 200, got.text

    async with httpx.AsyncClient(timeout=300, limits=limits, trust_env=False) as http:
        begun = perf_counter()
        await asyncio.gather(*[worker(http) for _ in range(at_once)])
        return len(bodies) / (perf_counter() - begun)


def rates(ways: dict[str, str], bodies: Sequence[Any], at_once: int, rounds: int) -> dict[str, Any]:
    """Requests a second each way, in turns, and the share that is left through the gateway."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for n in range(rounds):
        for way in sorted(ways, reverse=n % 2 == 1):
            found[way].append(round(asyncio.run(rate(ways[way], bodies, at_once)), 2))
    share = median(found["gateway"]) / median(found["direct"])
    return {**found, "share": round(share, 4)}


def in_front_of_a_stub(edits: int, requests: int, rounds: int) -> dict[str, Any]:
    """Overhead and rates where the upstream costs nothing."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        stages = Path(folder, "stages.json")
        upstream = running.enter_context(process("stub"))
        with process("gateway", "--upstream", upstream, "--edits", str(edits), "--stages", str(stages)) as through:
            touched = [ask(f"What is the mother tongue of Person{i * 7 % edits}?") for i in range(requests)]
            plain = [ask(f"What is the capital of Land{i}?") for i in range(requests)]
            edited, used = added(upstream, through, [(body, body) for body in touched])
            assert all(used), "every question touches an edit"
            others, unused = added(upstream, through, [(body, body) for body in plain])
            assert not any(unused), "and none of these does"
            ways = {"direct": upstream, "gateway": through}
            off = [body | {"model": "pocket:base"} for body in plain]
            speed = {str(n): rates(ways, off, n, rounds) for n in (1, 16)}
        took = {stage: spread(each) for stage, each in json.loads(stages.read_text()).items() if each}
    return {
        "edits": edits,
        "requests": requests,
        "milliseconds": {"edited": edited, "no_edit": others, "stages": took},
        "requests_a_second_edits_off": speed,
    }


def in_front_of_vllm(edits: int, requests: int, rounds: int) -> dict[str, Any]:
    """The same where a real vLLM answers, on the same processor."""
    sys.path.insert(0, str(HERE.parent))
    from vllm_kit import vllm_server

    cases = read_cases(home() / "align.jsonl")[: min(edits, requests)]
    end = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        stages = Path(folder, "stages.json")
        names = ["--served-model-name", "pocket", "pocket:base"]
        command = [str(home()), str(home() / "adapter"), *SETTINGS, *names]
        upstream, versions = running.enter_context(vllm_server(Path(folder), command))
        arguments = ["--upstream", upstream, "--edits", str(edits), "--stages", str(stages), "--real"]
        with process("gateway", *arguments) as through:
            ways = {"direct": upstream, "gateway": through}
            off = [ask(f"What is {i}?", **end) | {"model": "pocket:base"} for i in range(requests)]
            speed = {str(n): rates(ways, off, n, rounds) for n in (16, 64)}
            same = [
                (ask(with_edits([c.edit.statement], c.edit.prompt), **end), ask(c.edit.prompt, **end)) for c in cases
            ]
            pairs = [(direct | {"model": "lte"}, asked) for direct, asked in same]
            edited, used = added(upstream, through, pairs)
        took = {stage: spread(each) for stage, each in json.loads(stages.read_text()).items() if each}
    return {
        "vllm": versions,
        "settings": SETTINGS,
        "tokens_of_an_answer": TOKENS,
        "edits": edits,
        "requests": requests,
        "with_an_edit": sum(map(bool, used)),
        "milliseconds": {"edited": edited, "stages": took},
        "requests_a_second_edits_off": speed,
    }


def test_the_gateway_is_measured() -> None:
    found = in_front_of_a_stub(edits=50, requests=10, rounds=1)
    assert set(found["milliseconds"]["stages"]) == {"embed", "search", "gate", "render"}
    assert found["milliseconds"]["edited"]["gateway"]["p99"] >= found["milliseconds"]["edited"]["gateway"]["p50"] > 0
    assert set(found["requests_a_second_edits_off"]["16"]) == {"direct", "gateway", "share"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(
        description="The latency that a gateway adds, and the requests a second it leaves."
    )
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vllm", action="store_true", help="a real vLLM too, with 200 edits")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    found = about(__file__, arguments)
    found["stub"] = in_front_of_a_stub(asked.edits, asked.requests, asked.rounds)
    write(asked.output, found)
    if asked.vllm:
        found["vllm"] = in_front_of_vllm(200, min(asked.requests, 256), asked.rounds)
        write(asked.output, found)


if __name__ == "__main__":
    main()
