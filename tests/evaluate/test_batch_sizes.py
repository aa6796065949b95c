"""The study of batch sizes, as a table and as a drawing, from results with known figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lte.config import ConfigError, load, shipped
from lte.evaluate import EvaluateConfig
from lte.evaluate.config import EvaluateError
from lte.evaluate.report import render
from lte.evaluate.report.svg import Curve, page, panel
from lte.evaluate.results import Results

SVG = "{http://www.w3.org/2000/svg}"


def figures(es: float, now: float | None = None) -> dict[str, Any]:
    found = {f"{name},preference": value for name, value in (("ES", es), ("PS", 0.5), ("NS", 0.75), ("S", 0.6))}
    if now is not None:
        found |= {f"{name}@immediate,preference": now for name in ("ES", "PS", "NS", "S")}
    return {**found, "seconds_per_edit,none": 0.025}


def made(tasks: dict[tuple[str, str], dict[str, Any]], cases: int = 64, benchmark: str = "counterfact") -> Results:
    names = {key: f"{benchmark}_{key[0]}_{key[1].replace(':', '-')}" for key in tasks}
    in_turn = [name for (_, protocol), name in names.items() if protocol.startswith("sequential")]
    group = {"ES,preference": {"mean": 0.5}, "S,preference": {"mean": 0.5}}
    own: dict[str, Any] = {
        "format": 2,
        "validity": {
            n: {"valid": True, "cases": cases, "scored": cases, "refused": 0, "why": {}} for n in names.values()
        },
        "growth": {
            n: [{"in_force": 1, "change": 0.5, "norm": 1.1}, {"in_force": cases, "change": 3, "norm": 3}]
            for n in in_turn
        },
        "online": {n: [{"in_force": k, "n": k, "values": group} for k in (1, 4, cases)] for n in in_turn},
        "ages": {
            n: [{"age": [i, i], "values": {"ES,preference": {"mean": 0.9 - 0.1 * i}}} for i in range(4)]
            for n in in_turn
        },
        "ability": {n: {"before": {"knowledge": 0.98}, "after": {"knowledge": 0.2}} for n in in_turn},
    }
    data = {
        "model_name": "pocket",
        "results": {names[key]: value for key, value in tasks.items()},
        "configs": {names[key]: {"benchmark": benchmark, "editor": key[0], "protocol": key[1]} for key in tasks},
        "lte": own,
    }
    return Results(Path(), data)


STUDY = made(
    {
        ("none", "batch:64"): figures(0.2),
        ("memit", "batch:16"): figures(0.9),
        ("memit", "batch:64"): figures(0.7),
        ("memit", "sequential:64"): figures(0.3, 0.95),
        ("memit", "sequential-batch:16x4"): figures(0.4, 0.85),
        ("rome", "sequential:64"): figures(0.1, 0.99),
    }
)


def rows(text: str) -> dict[tuple[str, str, str], list[str]]:
    cells = [[c.strip() for c in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {(c[0], c[1], c[2]): c[3:] for c in cells[1:]}


def test_the_table_has_a_row_for_each_editor_and_batch_size() -> None:
    found = rows(str(render(STUDY, "batch-size")))
    assert set(found) == {
        ("memit", "16", "16"), ("memit", "1", "64"), ("memit", "16", "64"), ("memit", "64", "64"), ("rome", "1", "64"),
    }  # fmt: skip
    now, final, ages, change, knowledge, ms = found["memit", "1", "64"]
    assert now == "95.0 / 95.0 / 95.0 / 95.0" and final == "30.0 / 50.0 / 75.0 / 60.0"
    assert (ages, change, knowledge, ms) == ("60 → 90", "3.0", "98 → 20", "25")
    assert found["memit", "64", "64"][:3] == ["–", "70.0 / 50.0 / 75.0 / 60.0", "–"]


def test_the_drawing_holds_every_panel_and_points_where_the_figures_are() -> None:
    drawing = ElementTree.fromstring(str(render(STUDY, "batch-size-svg")))
    words = [e.text or "" for e in drawing.iter(f"{SVG}text")]
    for name in ("At once: ES", "At once: S", "In turn: S, final (dashed: immediate)", "memit", "rome"):
        assert name in words
    assert "none" not in words
    lines = [e for e in drawing.iter(f"{SVG}polyline") if e.get("stroke-dasharray")]
    assert len(lines) == 2  # what was scored right after each batch, of each editor
    box = re.match(r"0 0 ([\d.]+) ([\d.]+)", drawing.get("viewBox") or "")
    assert box is not None
    for circle in drawing.iter(f"{SVG}circle"):
        assert 0 < float(circle.get("cx", -1)) < float(box[1]) and 0 < float(circle.get("cy", -1)) < float(box[2])


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_panel_puts_values_to_scale(logarithmic: bool) -> None:
    curve = Curve("a", [(1, 0), (4, 50), (16, 100)], "#000")
    drawn = ElementTree.fromstring(
        page([panel([curve], "<T> & co", (10, 20, 116, 100), "n", logarithmic=logarithmic)], "x", 200, 200)
    )
    at = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in drawn.iter(f"{SVG}circle")]
    assert at == [(18, 120), (68 if logarithmic else 38, 70), (118, 20)]
    assert "<T> & co" in [e.text for e in drawn.iter(f"{SVG}text")]
    assert "no figures" in panel([], "none", (0, 0, 9, 9), "n")


def test_runs_that_hold_no_batch_sizes_are_refused() -> None:
    with pytest.raises(EvaluateError, match="no editor has tasks of several batch sizes"):
        render(made({("memit", "batch:16"): figures(0.9)}), "batch-size")
    both = made({("memit", "batch:16"): figures(0.9), ("memit", "batch:64"): figures(0.9)})
    both.data["configs"]["counterfact_memit_batch-16"]["benchmark"] = "zsre"
    with pytest.raises(EvaluateError, match="one benchmark; this run has counterfact, zsre"):
        render(both, "batch-size-svg")


@pytest.mark.parametrize("path", sorted(p.name for p in shipped("evaluate/batch-size").glob("*.yaml")))
def test_every_study_is_the_pockets_but_for_the_model_and_its_settings(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shipped("evaluate").parents[1])
    config = load(EvaluateConfig, f"configs/evaluate/batch-size/{path}")
    assert (config.limit, config.scorings) == (4096, ("preference",))
    assert {"sequential:4096", "batch:4096", "sequential-batch:16x256"} <= set(config.protocols)
    from lte.editors import editor

    for name in set(config.editors) - {"none"}:
        assert editor(name, config.editor_settings[name]).name == name
    first = Path(f"configs/evaluate/batch-size/{path}").read_text(encoding="utf-8").splitlines()[0]
    assert f"configs/evaluate/batch-size/{path} " in first


def test_settings_on_the_settings_of_another_file(tmp_path: Path) -> None:
    base, top, loop = tmp_path / "base.yaml", tmp_path / "top.yaml", tmp_path / "loop.yaml"
    base.write_text("limit: 3\neditors: [none, rome]\n", encoding="utf-8")
    top.write_text(f"from: {base}\nlimit: 5\n", encoding="utf-8")
    loop.write_text(f"from: {loop}\n", encoding="utf-8")
    assert load(EvaluateConfig, top).limit == 5 and load(EvaluateConfig, top).editors == ("none", "rome")
    for bad, told in ((f"from: {tmp_path / 'no.yaml'}", "cannot be read"), ("from: [a]", "wanted the path of one")):
        top.write_text(bad, encoding="utf-8")
        with pytest.raises(ConfigError, match=told):
            load(EvaluateConfig, top)
    with pytest.raises(ConfigError, match="in a circle"):
        load(EvaluateConfig, loop)
