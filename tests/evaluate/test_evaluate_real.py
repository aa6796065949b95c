"""The evaluator over a real model and real editors: a few random layers, weights really changed and restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from lte.editors import editor
from lte.edits import Case, Edit, Probe
from lte.evaluate import EvaluateConfig, build_editors, evaluate
from lte.evaluate.journal import read_samples
from lte.models import LM

CASES = [
    Case(
        f"real-{n}",
        Edit(f"The mother tongue of {name} is", new, name, "French"),
        generalization=(Probe(f"{name} speaks", (new,)),),
        locality=(Probe("Where was Edwin of Northumbria born?", ("London",)),),
    )
    for n, (name, new) in enumerate([("Danielle Darrieux", "Lyon"), ("Toko Yasuda", "Rome")])
]


@pytest.mark.parametrize("protocol", ["single", "batch:all"])
def test_a_real_model_is_asked_edited_and_restored(protocol: str, tiny_lm: LM, tmp_path: Path) -> None:
    base = tiny_lm.weight_hash()
    config = EvaluateConfig(
        model="tiny", benchmarks=["cases"], editors=["none", "ft_m"], editor_settings={"ft_m": {"layer": 1}},
        scorings=["generated", "teacher_forced", "preference", "fluency", "legacy"], protocols=[protocol],
        max_new_tokens=6, text_tokens=12, batch_size=3, resamples=20, cache=tmp_path,
    )  # fmt: skip
    found = evaluate(tiny_lm, build_editors(config, editor), CASES, config, tmp_path)
    assert found.valid and tiny_lm.weight_hash() == base and not tiny_lm.handles
    none_task, ft_task = (f"cases_{name}_{protocol.replace(':', '-')}" for name in ("none", "ft_m"))
    none, ft = found.data["results"][none_task], found.data["results"][ft_task]
    assert none["locality,generated"] == 1 and none["reliability,generated"] == 0
    assert 0 <= ft["reliability,teacher_forced"] <= 1 and "NS,preference" in ft
    assert none["locality,legacy"] == 1 and ft["fluency,legacy"] > 0
    for row in read_samples(found.samples(ft_task)):
        assert row["error"] is None
        assert row["weights"]["before"] == row["weights"]["after"] != row["weights"]["during"]
    for row in read_samples(found.samples(none_task)):
        assert row["weights"]["before"] == row["weights"]["after"] == row["weights"]["during"]
