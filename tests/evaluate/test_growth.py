"""How far weights move over a sequence, and the online curves that papers show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lte.editors import editor
from lte.edits import Case, Edit, Probe
from lte.evaluate import EvaluateConfig, build_editors, evaluate
from lte.evaluate.growth import growth, norms, online
from lte.evaluate.journal import Key
from lte.models import LM

NAMES = ("Ada Byron", "Toko Yasuda", "Edwin Land", "Marie Roe", "Nils Bohr")
CASES = [
    Case(
        f"g-{n}",
        Edit(f"The mother tongue of {name} is", "Rome", name, "French"),
        generalization=(Probe(f"{name} speaks", ("Rome",)),),
        locality=(Probe("Where was Edwin of Northumbria born?", ("London",)),),
    )
    for n, name in enumerate(NAMES)
]


def test_the_norms_are_those_of_all_touched_weights_together(tiny_lm: LM) -> None:
    one, two = (editor("ft_m", {"layer": layer, "steps": 2}) for layer in (0, 1))
    before = {n: p.detach().clone() for n, p in tiny_lm.model.named_parameters()}
    with one.apply(tiny_lm, [CASES[0].edit]) as handle:
        handle.join(two.apply(tiny_lm, [CASES[1].edit]))
        found = norms(handle)
        now = dict(tiny_lm.model.named_parameters())
        W, V = (torch.cat([state[n].detach().flatten() for n in handle.touched]) for state in (before, now))
    assert found is not None and len(handle.touched) == 2
    assert found["change"] == pytest.approx(float((V - W).norm() / W.norm()), rel=1e-5) and found["change"] > 0
    assert found["norm"] == pytest.approx(float(V.norm() / W.norm()), rel=1e-6)
    assert norms(None) is None


def test_growth_is_the_mean_over_sequences_at_powers_of_two_and_the_end() -> None:
    def steps(chain: int, change: float, count: int) -> list[tuple[Key, Any]]:
        made = [
            (Key(chain, "step", at), {"edits": 1, "norms": {"change": change * (at + 1), "norm": 1.0}})
            for at in range(count)
        ]
        return [*made[::-1], (Key(chain, "end"), {"invalid": None})]

    found = growth([steps(0, 1.0, 7), steps(0, 3.0, 7)])
    assert [row["in_force"] for row in found] == [1, 2, 4, 7]
    assert [row["change"] for row in found] == [2.0, 4.0, 8.0, 14.0]
    refused = (Key(0, "step", 7), {"edits": 0, "norms": None})
    assert growth([[*steps(0, 1.0, 7), refused]])[-1]["in_force"] == 7
    assert growth([[(Key(0, "step"), {"edits": 5, "norms": None})]]) == []


def test_online_curves_hold_what_the_first_edits_scored_right_after_their_steps() -> None:
    rows = [(n, n, {"ES,preference": float(n <= 4)}) for n in range(1, 11)]
    found = online(rows, 20, 0)
    assert [(row["in_force"], row["n"]) for row in found] == [(1, 1), (4, 4), (10, 10)]
    assert [row["values"]["ES,preference"]["mean"] for row in found] == [1, 1, 0.4]
    assert online([], 20, 0) == []


def test_editors_under_names_of_their_own_each_under_its_protocols(tiny_lm: LM, tmp_path: Path) -> None:
    (tmp_path / "ft.yaml").write_text("editor: ft_m\nsteps: 2\n", encoding="utf-8")
    config = EvaluateConfig(
        model="tiny", benchmarks=["cases"], editors=["none", "low", "high"], protocols=["single", "sequential:all"],
        editor_settings={n: {"from": str(tmp_path / "ft.yaml"), "layer": i} for i, n in enumerate(("low", "high"))},
        editor_protocols={"none": ["single"], "low": ["single"]}, protocol_cases={"single": 3},
        scorings=["preference"], resamples=20, cache=tmp_path, latency_answers=0,
    )  # fmt: skip
    found = evaluate(tiny_lm, build_editors(config, editor), CASES, config, tmp_path / "run").data
    names = ("none_single", "low_single", "high_single", "high_sequential-all")
    assert set(found["results"]) == {f"cases_{name}" for name in names}
    assert found["configs"]["cases_low_single"]["editor_settings"]["layer"] == 0
    own = found["lte"]
    assert [own["validity"][f"cases_{name}"]["cases"] for name in names] == [3, 3, 3, 5]
    assert [row["in_force"] for row in own["growth"]["cases_high_sequential-all"]] == [1, 2, 4, 5]
    assert [row["n"] for row in own["online"]["cases_high_sequential-all"]] == [1, 4, 5]
    changes = [row["change"] for row in own["growth"]["cases_high_sequential-all"]]
    assert all(math.isfinite(c) and c > 0 for c in changes) and changes[-1] > changes[0]
    # single edits: each its own sequence, and one growth figure that is their mean
    assert [row["in_force"] for row in own["growth"]["cases_low_single"]] == [1] and "cases_low_single" not in own[
        "online"
    ]
    everyone = found["results"]["cases_high_sequential-all"]["ES@immediate,preference"]
    assert own["online"]["cases_high_sequential-all"][-1]["values"]["ES,preference"]["mean"] == everyone
