"""The layer sweep: each layer's single edits, scored by the evaluator; the choice; the drawing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from editors_kit import EDITS, make, same, state

from lte.editors.base import Editor
from lte.edits import Case, Probe
from lte.evaluate.config import EvaluateConfig, EvaluateError
from lte.evaluate.metrics import harmonic_mean
from lte.evaluate.report.located import plot
from lte.evaluate.sweep import Row, best, sweep
from lte.models import LM

CASES = [
    Case(
        str(i),
        replace(edit, target_true="Paris"),
        (Probe(f"{edit.subject} is known for", (edit.target_new,)),),
        (),
        (Probe("The capital of France is", ("Lyon",)),),
    )
    for i, edit in enumerate(EDITS)
]


def run(lm: LM, folder: Path, layers: tuple[int, ...] = (0, 2), resume: bool = False, name: str = "ft_m") -> list[Row]:
    """The rows of a sweep."""

    def editor(layer: int) -> Editor:
        return make(name, lm, folder / "statistics", layer=layer)

    config = EvaluateConfig(cache=folder / "answers", resamples=10)
    return list(sweep(lm, layers, editor, CASES, folder / "out", config, resume))


def test_each_layer_is_scored_as_the_evaluator_scores_it(tiny_lm: LM, tmp_path: Path) -> None:
    before = state(tiny_lm)
    rows = run(tiny_lm, tmp_path)
    assert [row["layer"] for row in rows] == [0, 2] and same(before, state(tiny_lm))
    for row in rows:
        hits = []
        for case in CASES:
            with make("ft_m", tiny_lm, tmp_path, layer=row["layer"]).apply(tiny_lm, [case.edit]):
                new, old = tiny_lm.score([case.edit.prompt] * 2, [case.edit.target_new, "Paris"])
                hits.append(new.logprob > old.logprob)
        assert row["ES"] == pytest.approx(100 * sum(hits) / len(hits)) and row["refused"] == 0
        assert row["S"] == pytest.approx(harmonic_mean([row["ES"], row["PS"], row["NS"]]))
    assert all(list((tmp_path / "out" / name).glob("results_*.json")) for name in ("layer-00", "layer-02"))


def test_a_sweep_goes_on_where_it_ended(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tiny_lm, tmp_path, (1,), name="rome")
    with pytest.raises(EvaluateError, match="--resume"):
        run(tiny_lm, tmp_path, (1,), name="rome")
    monkeypatch.setattr("lte.editors.rome.Rome.apply", lambda *_: pytest.fail("edited again"))
    assert run(tiny_lm, tmp_path, (1,), resume=True, name="rome") == first


def test_the_highest_harmonic_mean_is_chosen() -> None:
    rows: list[Row] = [{"layer": n, "S": s} for n, s in enumerate([10.0, None, 80.0, 80.0, 70.0])]
    assert best(rows)["layer"] == best(rows[::-1])["layer"] == 2
    with pytest.raises(EvaluateError, match="rephrasings"):
        best([{"layer": 0, "S": None}])


def test_the_drawing_shows_what_there_is() -> None:
    rows = [{"layer": n, "ES": 90.0, "PS": 80.0, "NS": 70.0, "S": 79.0 + n} for n in range(4)]
    maps = {"state": {"last": [0.0, 0.1, 0.4, -0.1]}, "mlp": {"last subject": [0.2, 0.0, 0.0, 0.0]}}
    for drawn in (plot(rows, maps, "a <model> & more", 3), plot(rows, {}, "x", 3), plot([], maps, "x")):
        root = ElementTree.fromstring(drawn)  # well-formed
        tags = [element.tag.rpartition("}")[2] for element in root.iter()]
        shown = " ".join(filter(None, (element.text for element in root.iter())))
        assert ("polyline" in tags) == ("chosen: layer 3, S 82.0" in shown)
        assert ("highest 0.400: last, layer 2" in shown) == (tags.count("title") == 8)
    assert "polyline" in plot(rows, maps) and "<title>" not in plot(rows, {})
    many = {"mlp": {"last": [n / 100 for n in range(40)]}}
    assert ">38<" not in plot([], many) and ">38<" in plot([], {"mlp": {"last": [0.38]}})
