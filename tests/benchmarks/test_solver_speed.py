"""One batch's change to a matrix: our solve by a factor of C beside `torch.linalg.inv` of the same system.

In the suite: both give the same change. To measure, each case in a process of its own:

    cd tests/benchmarks && PYTHONPATH=../.. python test_solver_speed.py --threads 2 -o results/solver-cpu.json

The smaller `--inputs 1024` shows in seconds that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_kit import about, device, now, peak_bytes, write
from torch import Tensor

from lte.editors.solve import RIDGE, Factor, memit_update

WEIGHT = 50000.0  # λ, that of Llama-3-8B's settings
BLOCK = 4096  # keys of one product


def moment(inputs: int, on: torch.device) -> Tensor:
    """C + εI of 1.25 random keys a dimension, (inputs, inputs) in float64: what `Factor.of(C)` factors."""
    g = torch.Generator(on).manual_seed(0)
    C, count = torch.zeros(inputs, inputs, dtype=torch.float64, device=on), inputs + inputs // 4
    for start in range(0, count, BLOCK):
        k = torch.randn(min(BLOCK, count - start), inputs, generator=g, dtype=torch.float64, device=on)
        C.addmm_(k.T, k, alpha=1 / count)
    C.diagonal().add_(RIDGE * C.trace() / inputs)
    return C


def problem(inputs: int, outputs: int, edits: int, on: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(W, K, V) of random numbers in float64."""
    g = torch.Generator(on).manual_seed(edits)
    made = [(outputs, inputs), (inputs, edits), (outputs, edits)]
    W, K, V = (torch.randn(shape, generator=g, dtype=torch.float64, device=on) for shape in made)
    return W, K, V


def ours(lower: Tensor, W: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Δ by the Cholesky factor of C, in the smaller of the two systems."""
    return memit_update(W, Factor(lower), K, V, WEIGHT)


def inverse(C: Tensor, W: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Δ = R Kᵀ (λC + KKᵀ)⁻¹ with the inverse written out."""
    return (V - W @ K) @ K.T @ torch.linalg.inv(WEIGHT * C + K @ K.T)


WAYS = {"ours": ours, "inverse": inverse}


@pytest.mark.parametrize("edits", [1, 12, 90])  # more and fewer than the 64 entries of a key
def test_solve_and_inverse_give_the_same_change(edits: int) -> None:
    C, (W, K, V) = moment(64, torch.device("cpu")), problem(64, 24, edits, torch.device("cpu"))
    torch.testing.assert_close(ours(Factor.of(C, ridge=0).lower, W, K, V), inverse(C, W, K, V), rtol=1e-8, atol=1e-12)


def test_the_solver_is_measured_case_by_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(what: str, edits: int = 0) -> dict[str, Any]:  # in this process: to begin one takes seconds
        main(["--inputs", "96", "--outputs", "32", "--folder", str(tmp_path), "--case", what, str(edits)])
        figures: dict[str, Any] = json.loads(capsys.readouterr().out)
        return figures

    found = figures_of([2, 128], measured)
    assert [row["edits"] for row in found["solves"]] == [2, 128]
    assert all(0 < row["apart"] < 1e-8 for row in found["solves"])  # not the same figures twice
    assert all(row[way]["seconds"] > 0 for row in found["solves"] for way in WAYS)
    assert found["factor"]["peak_bytes"] >= found["at_start"]["peak_bytes"] > 0


# --- the measurement ------------------------------------------------------------------------------------------------


def case(what: str, folder: Path, inputs: int, outputs: int, edits: int, on: torch.device) -> dict[str, Any]:
    """One case by itself: its seconds, and the most memory that the process held until its end.

    what  "start": nothing but what the others begin with; "factor": C's, which stays in the folder; or a way to Δ
    """
    if what == "start":
        return {"peak_bytes": peak_bytes(on)}
    if what == "factor":
        C = moment(inputs, on)
        begun = now()
        factor = Factor.of(C, ridge=0)
        seconds, peak = now() - begun, peak_bytes(on)
        torch.save(C.cpu(), folder / "inverse.pt")
        torch.save(factor.lower.cpu(), folder / "ours.pt")
        return {"seconds": round(seconds, 4), "peak_bytes": peak}
    held = torch.load(folder / f"{what}.pt", map_location=on, weights_only=True)
    W, K, V = problem(inputs, outputs, edits, on)
    begun = now()
    delta = WAYS[what](held, W, K, V)
    seconds, peak = now() - begun, peak_bytes(on)
    probe = torch.randn(inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(on)
    return {"seconds": round(seconds, 4), "peak_bytes": peak, "probe": (delta @ probe).tolist()}


def figures_of(edits: Sequence[int], measured: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The figures of all cases; `measured(what, edits)` gives those of one."""
    found: dict[str, Any] = {"at_start": measured("start"), "factor": measured("factor"), "solves": []}
    for n in edits:
        rows = {way: measured(way, n) for way in WAYS}
        # how far the two changes lie apart where both act on one random key, as a share of what they do there
        a, b = (torch.tensor(row.pop("probe"), dtype=torch.float64) for row in rows.values())
        apart = float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
        faster = round(rows["inverse"]["seconds"] / max(rows["ours"]["seconds"], 1e-4), 2)
        found["solves"].append({"edits": n, "apart": apart, "times_faster": faster, **rows})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="A batch's solve beside the inverse of the same system.")
    parser.add_argument("--inputs", type=int, default=14336, help="entries of a key, d_k")
    parser.add_argument("--outputs", type=int, default=4096, help="entries of a value, d")
    parser.add_argument("--edits", type=int, nargs="+", default=[1, 64, 1024, 4096])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where C and its factor are kept meanwhile; 2 x 8 x d_k^2 bytes")
    parser.add_argument("--case", nargs=2, metavar=("WHAT", "EDITS"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args(arguments)
    on = device(asked.device)
    torch.set_num_threads(asked.threads)
    if asked.case:
        what, edits = asked.case
        print(json.dumps(case(what, asked.folder, asked.inputs, asked.outputs, int(edits), on)))
        return
    if asked.output is None:
        parser.error("-o FILE is wanted: where the figures go")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        passed = {"--inputs": asked.inputs, "--outputs": asked.outputs, "--device": asked.device, "--folder": folder}

        def measured(what: str, edits: int = 0) -> dict[str, Any]:
            words = [w for pair in passed.items() for w in pair] + ["--threads", asked.threads, "--case", what, edits]
            done = subprocess.run(
                [sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
            )
            figures: dict[str, Any] = json.loads(done.stdout)
            return figures

        found = {
            **about(__file__, arguments),
            "how": "each case in a process of its own, in float64; ours by a factor of C that is at hand; the most "
            "memory at once, the random problem included",
            "inputs": asked.inputs,
            "outputs": asked.outputs,
            "threads": asked.threads,
            **figures_of(asked.edits, measured),
        }
    write(asked.output, found)


if __name__ == "__main__":
    main()
