"""Probes a second: ours against one forward pass for each (prompt, target), as ROME's, MEMIT's and EasyEdit's do it.

In the suite each runs once on a few cases, as a test that the numbers are equal. To measure, in turns, so that whatever
else the machine does falls on both:

    cd tests/benchmarks && PYTHONPATH=../.. python test_throughput.py --threads 1 2 -o results/throughput-cpu.json

or, the pocket model alone and one after the other: pytest --benchmark-enable --benchmark-only -k throughput
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_kit import about, compared, in_turns, random_model, write

from lte.edits import Case, read_cases
from lte.models import LM, load_model
from lte.pocket import home

Probes = list[tuple[str, list[str]]]


def probes_of(lm: LM, cases: Sequence[Case], steps: int = 32) -> Probes:
    """Every question with the targets that teacher forcing and preference ask for, each once.

    What the edit says and what was true before; of a neighbour its own answer, what the edit says, and the answer that
    the unedited model gave, at most `steps` tokens of it.
    """
    neighbours = [p for case in cases for p in case.locality]
    given = dict(zip([p.prompt for p in neighbours], lm.answer([p.prompt for p in neighbours], steps)))
    probes: Probes = []
    for case in cases:
        new = case.edit.target_new
        asked = [
            (p, [new, case.edit.target_true]) for p in (case.edit.prompt, *(p.prompt for p in case.generalization))
        ]
        asked += [(p.prompt, [p.answers[0], new, given[p.prompt]]) for p in case.locality]
        probes += [(prompt, list(dict.fromkeys(t for t in targets if t))) for prompt, targets in asked]
    return probes


@torch.no_grad()
def one_at_a_time(lm: LM, probes: Probes) -> list[tuple[float, float]]:
    """(mean log-probability, share of argmax hits) of each target: tokenised, and a forward pass, for each anew.

    Kinder than the field, whose tools ask the teacher-forced target and the preferred one separately, though they are
    the same.
    """
    rows = []
    for prompt, targets in probes:
        for target in targets:
            text = lm.render(prompt)
            before = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
            batch = lm.tokenizer(text + target, add_special_tokens=False, return_tensors="pt")
            logits = lm.model(**batch.to(lm.device)).logits[0].float()
            gold, start = batch["input_ids"][0], len(before)
            assert gold[:start].tolist() == before
            table = logits.log_softmax(-1)[start - 1 : -1]
            logprob = table.gather(1, gold[start:, None]).mean().item()
            rows.append((logprob, (table.argmax(-1) == gold[start:]).float().mean().item()))
    return rows


def ours(lm: LM, probes: Probes) -> list[tuple[float, float]]:
    """The same by one call."""
    pairs = [(prompt, target) for prompt, targets in probes for target in targets]
    return [(s.logprob, s.match) for s in lm.score([p for p, _ in pairs], [t for _, t in pairs])]


WAYS = {"one_at_a_time": one_at_a_time, "ours": ours}


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_model("pocket", device="cpu")


@pytest.mark.parametrize("way", WAYS)
def test_throughput_of_scoring(benchmark: Any, lm: LM, way: str) -> None:
    measured = benchmark.enabled
    probes = probes_of(lm, read_cases(home() / "cases.jsonl")[: 200 if measured else 6])
    rows = benchmark.pedantic(WAYS[way], (lm, probes), rounds=3 if measured else 1)
    benchmark.extra_info.update(probes=len(probes), targets=len(rows), threads=torch.get_num_threads())
    for other in WAYS.values():
        agree(rows, other(lm, probes), 1e-4)  # log-probabilities down to -30 in float32


def agree(rows: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]], tolerance: float) -> None:
    """No two log-probabilities are further apart than `tolerance`, and all hits are the same."""
    assert [m for _, m in rows] == pytest.approx([m for _, m in other])
    assert [p for p, _ in rows] == pytest.approx([p for p, _ in other], abs=tolerance)


@pytest.mark.parametrize("way", ["one_at_a_time", "ours"])
def test_throughput_of_answers(benchmark: Any, lm: LM, way: str) -> None:
    measured = benchmark.enabled
    cases = read_cases(home() / "cases.jsonl")[: 200 if measured else 6]
    prompts = [p.prompt for case in cases for p in case.locality]
    size = {"one_at_a_time": 1, "ours": 64}[way]

    def answer() -> list[str]:
        if size > 1:
            return lm.answer(prompts)
        return [a for p in prompts for a in lm.answer([p])]

    answers = benchmark.pedantic(answer, rounds=3 if measured else 1)
    benchmark.extra_info.update(answers=len(prompts), threads=torch.get_num_threads())
    assert answers == [a for p in prompts for a in lm.answer([p])]


# --- the measurement ------------------------------------------------------------------------------------------------


def measure(lm: LM, cases: Sequence[Case], threads: int, rounds: int, steps: int = 32) -> dict[str, Any]:
    """Probes a second of both ways on one model, and how far their numbers lie apart."""
    torch.set_num_threads(threads)
    probes, load = probes_of(lm, cases, steps), os.getloadavg()
    for way in WAYS.values():
        way(lm, probes[:2])
    given, took = in_turns({name: partial(way, lm, probes) for name, way in WAYS.items()}, rounds)
    apart = [abs(a - b) for (a, _), (b, _) in zip(given["one_at_a_time"], given["ours"], strict=True)]
    if lm.dtype == torch.float32:
        agree(given["one_at_a_time"], given["ours"], 1e-4)
    return {
        "model": lm.name,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "threads": threads,
        "cases": len(cases),
        "probes": len(probes),
        "targets": len(apart),
        "difference_of_log_probabilities": {"largest": max(apart), "mean": sum(apart) / len(apart)},
        "load_before": [round(x, 2) for x in load],
        **compared(took, dict.fromkeys(WAYS, len(probes))),
    }


def measure_answers(lm: LM, cases: Sequence[Case], threads: int, rounds: int) -> dict[str, Any]:
    """Greedy answers a second, one call a prompt against one call."""
    torch.set_num_threads(threads)
    prompts, load = [p.prompt for case in cases for p in case.locality], os.getloadavg()
    given, took = in_turns(
        {"one_at_a_time": lambda: [a for p in prompts for a in lm.answer([p])], "ours": lambda: lm.answer(prompts)},
        rounds,
    )
    assert given["ours"] == given["one_at_a_time"]
    said = {"model": lm.name, "threads": threads, "answers": len(prompts), "load_before": [round(x, 2) for x in load]}
    return {**said, **compared(took, dict.fromkeys(given, len(prompts)))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="Probes a second, against one forward pass for each target.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large-cases", type=int, default=3, help="cases for the 1B shape; 0 leaves it out")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    cases = read_cases(home() / "cases.jsonl")
    lm = load_model("pocket", device="cpu")
    found: dict[str, Any] = {
        **about(__file__, arguments),
        "how": "both ways in turn in one process, medians of the rounds",
        "scoring": [measure(lm, cases[: asked.cases], n, asked.rounds) for n in asked.threads],
        "answers": [measure_answers(lm, cases[: asked.cases], n, asked.rounds) for n in asked.threads],
    }
    if asked.large_cases:
        large = random_model("llama3.2-1b")
        found["scoring"] += [measure(large, cases[: asked.large_cases], n, 1, steps=2) for n in asked.threads]
    write(asked.output, found)


if __name__ == "__main__":
    main()
