"""The memory at full size: recall with filters, writes seen by another reader, verification of the whole log.

In the suite: a small one does all of it. To measure:

    cd tests/benchmarks && PYTHONPATH=../.. python test_memory_speed.py -o results/memory-cpu.json

`--edits 2000` shows in seconds that it runs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from bench_kit import about, write
from numpy.typing import NDArray

from lte.edits import Edit
from lte.memory import EditMemory, MemoryConfig, Record

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
BATCH = 5000  # edits written at once


class Placed:
    """Random unit vectors of real length, near each other where texts share their subject; it takes no time to ask.

    What is timed is the memory and not an encoder. An edit's views lie at a cosine of about 0.8.
    """

    id, dim = "placed", 384

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text; the subject is the word that has a digit."""
        made = np.empty((len(texts), self.dim), np.float32)
        for row, text in zip(made, texts):
            subject = next((w for w in text.split() if any(c.isdigit() for c in w)), "none").strip("?.,")
            shared, own = (np.random.default_rng(abs(hash(t))) for t in (subject, text))
            row[:] = shared.standard_normal(self.dim, dtype=np.float32)
            row += 0.5 * own.standard_normal(self.dim, dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made


def records(count: int) -> list[Record]:
    """`count` edits: one in ten disabled, one of the past, one still to come; one in three without a subject."""
    made = []
    for i in range(count):
        edit = Edit(f"The mother tongue of Person{i} is", "English", f"Person{i}" if i % 3 else "")
        times: dict[str, Any] = {}
        if i % 10 == 1:
            times = {"valid_until": NOW - timedelta(days=1)}
        elif i % 10 == 2:
            times = {"valid_from": NOW + timedelta(days=1)}
        made.append(Record("", "default", edit, state="disabled" if i % 10 == 3 else "active", **times))
    return made


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst, in milliseconds."""
    p50, p99, worst = (1e3 * float(np.quantile(seconds, q)) for q in (0.5, 0.99, 1.0))
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "worst_ms": round(worst, 3)}


def each(calls: Sequence[Callable[[], Any]]) -> dict[str, Any]:
    """How long each call took, by the clock and in processor time."""
    clock, work = [], []
    for call in calls:
        begun, worked = perf_counter(), process_time()
        call()
        clock.append(perf_counter() - begun)
        work.append(process_time() - worked)
    return {"calls": len(calls), "clock": spread(clock), "processor": spread(work)}


def once(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gave, and its seconds."""
    begun = perf_counter()
    given = call()
    return given, round(perf_counter() - begun, 3)


def measured(folder: Path, edits: int, asked: int) -> dict[str, Any]:
    """All figures of a memory of `edits` edits in `folder`, each question asked of it `asked` times."""
    encoder, config = Placed(), MemoryConfig(mention_threshold=-1, scope="off")
    clock: dict[str, Any] = {"clock": lambda: NOW}
    memory = EditMemory.open(folder / "memory.db", config, encoder, **clock)
    made = records(edits)
    found: dict[str, Any] = {"edits": edits, "rows": 2 * edits}
    _, found["write_all_seconds"] = once(
        lambda: [memory.add_records(made[i : i + BATCH]) for i in range(0, edits, BATCH)]
    )
    numbers = np.random.default_rng(0).integers(0, edits, asked).tolist()
    ways = {
        "mentioned": [f"What is the mother tongue of Person{n}?" for n in numbers],
        "near_words": [f"The mother tongue of Person{n} is" for n in numbers],
        "nothing_near": [f"Tell me of Town{n} please" for n in numbers],
        "two_views": [f"It rained in Town{n}. What is the mother tongue of Person{n}?" for n in numbers],
    }
    for texts in ways.values():
        for text in texts:
            hash(text)
    found["recall"] = {
        name: each([lambda t=t: memory.recall(t) for t in texts])  # type: ignore[misc]
        for name, texts in ways.items()
    }
    one = [{"subject": f"New{n}"} for n in range(min(asked, 50))]
    found["write_one"] = each(
        [lambda e=e: memory.add(Edit(f"The capital of {e['subject']} is", "Lima", e["subject"])) for e in one]  # type: ignore[misc]
    )
    with EditMemory.open(folder / "memory.db", config, encoder, **clock) as beside:
        len(beside)
        seen = []
        for n in range(min(asked, 50)):
            memory.add(Edit(f"The river of Late{n} is", "Po", f"Late{n}"))
            begun = perf_counter()
            assert [r.edit.target_new for r in beside.recall(f"which river flows by Late{n}")] == ["Po"]
            seen.append(perf_counter() - begun)
        found["seen_by_another_reader"] = spread(seen)
    faults, found["check_of_the_log_seconds"] = once(lambda: memory._store.check()[0])
    problems, found["verify_seconds"] = once(memory.verify)
    assert faults == problems == []
    _, found["close_seconds"] = once(memory.close)
    again, found["open_seconds"] = once(lambda: EditMemory.open(folder / "memory.db", config, encoder, **clock))
    again.close()
    return found


def test_a_small_memory_is_measured(tmp_path: Path) -> None:
    found = measured(tmp_path, 300, 5)
    assert found["recall"].keys() == {"mentioned", "near_words", "nothing_near", "two_views"}
    assert all(figures["clock"]["p99_ms"] > 0 for figures in found["recall"].values())
    assert found["seen_by_another_reader"]["worst_ms"] > 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="The memory at full size, the encoder's time excluded.")
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=300, help="questions of each kind")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), asked.edits, asked.asked)
    how = "one thread searches; the encoder is a stub of real dimension, whose own time (some 0.1 ms) is included"
    write(asked.output, {**about(__file__, arguments), "how": how, **figures})


if __name__ == "__main__":
    main()
