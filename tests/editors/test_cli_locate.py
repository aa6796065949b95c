"""`lte edit statistics` and `lte edit locate` as they are typed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from editors_kit import EDITS, TEXTS
from typer.testing import CliRunner, Result

from lte.cli import app
from lte.edits import Case, Probe, write_jsonl
from lte.models import LM


@pytest.fixture
def model(tmp_path: Path, tiny_lm: LM) -> Path:
    """A folder with a random model and its tokenizer."""
    tiny_lm.model.save_pretrained(tmp_path / "model")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of texts."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return tmp_path / "texts.txt"


def run(*arguments: Any) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="lte")


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_are_measured_told_and_kept(model: Path, texts: Path, tmp_path: Path) -> None:
    asked = ["edit", "statistics", "--model", model, "--device", "cpu", "--text", texts, "--tokens", 80]
    asked += ["--set", f"statistics.cache={tmp_path / 'cache'}", "--set", "statistics.bos=exclude"]
    result = run(*asked, "--layers", "1-2", "-o", "json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["layer"], row["dimensions"], row["tokens"]) for row in rows] == [(1, 56, 80), (2, 56, 80)]
    assert all(Path(row["file"]).exists() and row["trace"] > 0 and row["condition"] > 1 for row in rows)
    again = json.loads(run(*asked, "--layers", "2,0", "-o", "json").stdout)
    assert [row["layer"] for row in again] == [0, 2] and again[1] == rows[1]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    shown = run(*asked, "--layers", "2").stdout
    assert "condition" in shown and f"{rows[1]['trace']:.4g}" in shown
    assert len(json.loads(run(*asked, "-o", "json").stdout)) == 3


def test_statistics_are_those_that_an_editors_settings_ask_for(model: Path, texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "memit.yaml"
    file.write_text(
        f"# lte edit memit.yaml\neditor: memit\nlayers: [0, 2]\nstatistics: {{text: {texts}, documents: 3, "
        f"cache: {tmp_path / 'cache'}}}\n",
        encoding="utf-8",
    )
    rows = json.loads(run("edit", "statistics", file, "--model", model, "--device", "cpu", "-o", "json").stdout)
    assert [row["layer"] for row in rows] == [0, 2]
    found = len(list((tmp_path / "cache").iterdir()))
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"prompt": "Toko Yasuda plays the", "target_new": "guitar", "subject": "Toko Yasuda"}\n')
    settings = ["--set", "v_steps=2", "--set", "prefixes=0"]
    made = run("edit", file, "--edits", edits, "--model", model, "--output", tmp_path / "out", *settings)
    assert made.exit_code == 0, made.output
    assert len(list((tmp_path / "cache").iterdir())) == found == 2  # the editor found them there


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--layers", "0-3"], "wanted blocks of 0 to 2"),
        (["--layers", "2-1"], "wanted blocks of 0 to 2"),
        (["--layers", "1,1"], "each once"),
        (["--layers", "first"], "or all"),
        (["--text", "none.txt"], "none.txt"),
        (["--set", "statistics.tokns=3"], "Did you mean 'tokens'?"),
        (["--set", "tokens=3"], "statistics"),
        (["--tokens", "0"], "--tokens"),
        (["ft_m"], "takes no statistics"),
        ([], "statistics.text"),
    ],
)
def test_statistics_of_nothing_are_refused(model: Path, arguments: list[str], complaint: str) -> None:
    result = run("edit", "statistics", *arguments, "--model", model, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (2, "") and complaint in result.stderr


# --- locate ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A file of cases of whose facts the model knows whatever it says."""
    neighbour = (Probe("The capital of France is", ("Lyon",)),)
    made = [
        Case(str(i), replace(e, target_true="Paris"), (Probe(f"{e.subject} is"),), (), neighbour)
        for i, e in enumerate(EDITS)
    ]
    write_jsonl(tmp_path / "cases.jsonl", made)
    return tmp_path / "cases.jsonl"


@pytest.fixture
def memit(texts: Path, tmp_path: Path) -> Path:
    """Quick settings of an editor that names its layers in a list."""
    file = tmp_path / "memit.yaml"
    file.write_text(
        f"# lte edit memit.yaml\neditor: memit\nprefixes: 0\nv_steps: 3\nweight: 1\n"
        f"statistics: {{text: {texts}, cache: {tmp_path / 'cache'}}}\n",
        encoding="utf-8",
    )
    return file


def test_a_layer_is_found_by_editing_in_each(
    model: Path, cases: Path, memit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    asked = [
        "edit",
        "locate",
        memit,
        "--cases",
        cases,
        "--model",
        model,
        "--device",
        "cpu",
        "--output",
        tmp_path / "out",
    ]
    result = run(*asked, "--no-tracing", "--layers", "0,2", "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [row["layer"] for row in told["sweep"]] == [0, 2] and told["tracing"] == {} and told["cases"] == 2
    highest = max(told["sweep"], key=lambda row: (row["S"], -row["layer"]))["layer"]
    assert told["layer"] == highest and told["set"] == f"layers=[{highest}]"
    assert json.loads((tmp_path / "out" / "locate.json").read_text(encoding="utf-8")) == told
    assert "<polyline" in (tmp_path / "out" / "locate.svg").read_text(encoding="utf-8")
    assert len(list((tmp_path / "cache").iterdir())) == 2  # of both layers, in one pass
    assert run(*asked, "--no-tracing").exit_code == 2  # there is a run in the folder
    again = run(*asked, "--no-tracing", "--resume")
    assert again.exit_code == 0 and "highest S" in again.stdout and "--set 'layers=[" in again.stdout


def test_facts_are_traced_without_an_edit(model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "facts.jsonl", [Case(str(i), e) for i, e in enumerate(EDITS)])  # no target_true: all known
    asked = ["edit", "locate", "--cases", tmp_path / "facts.jsonl", "--model", model, "--device", "cpu", "--no-sweep"]
    result = run(*asked, "--output", tmp_path / "out", "--samples", "2", "--seed", "3")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "locate.json").read_text(encoding="utf-8"))
    effects = told["tracing"]["effects"]["mlp"]["last subject"]
    assert told["layer"] == effects.index(max(effects)) and told["set"] == f"layer={told['layer']}"
    assert told["tracing"]["facts"] == 2 and f"--set '{told['set']}'" in result.stdout
    assert "<title>" in (tmp_path / "out" / "locate.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ice"], "edits no layer"),
        (["--layers", "7"], "wanted blocks of 0 to 2"),
        (["--no-sweep", "--no-tracing"], "nothing is left"),
        (["--set", "layr=1"], "Did you mean 'layer'?"),
        (["--no-sweep"], "none of the 2 facts"),
        (["--benchmark", "cuonterfact"], "counterfact"),
    ],
)
def test_a_search_for_nothing_is_refused(
    model: Path, cases: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    asked = ["--cases", cases, "--model", model, "--device", "cpu", "--output", tmp_path / "out"]
    result = run("edit", "locate", *arguments, *asked)
    assert (result.exit_code, result.stdout) == (2, "") and complaint in result.stderr
    assert not (tmp_path / "out").exists()
    assert "--cases" in run("edit", "locate").stderr
