from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluate_kit import Clumsy, FakeLM, Oracle, Refusing, Stubborn
from rich.console import Console

from lte.edits import Case, Edit, Probe
from lte.evaluate import EvaluateConfig, EvaluateError, Results, evaluate
from lte.evaluate.html import write_page
from lte.evaluate.report import FORMS, catalogue, figure, keys, render


@pytest.fixture
def finished(lm: FakeLM, cases: list[Case], settings: Callable[..., EvaluateConfig], tmp_path: Path) -> Results:
    lm.said["Person3 lives in"] = '<img src="x" onerror="alert(1)">'
    editors = {"none": None, "oracle": Oracle(cases), "clumsy": Clumsy(cases), "refusing": Refusing(cases)}
    return evaluate(lm, editors, cases, settings(), tmp_path, command="lte evaluate mine.yaml")


def printed(table: object) -> str:
    console = Console(width=140, file=io.StringIO(), force_terminal=False)
    console.print(table)
    return console.file.getvalue()


def test_the_terminal_table(finished: Results) -> None:
    text = printed(render(finished, "table"))
    assert "benchmark cases · model fake · batch:all · 6 cases" in text
    [locality] = [line for line in text.splitlines() if line.lstrip("│ ").startswith("locality")][:1]
    assert re.findall(r"(\d+\.\d) +±", locality) == ["100.0", "100.0", "0.0", "100.0"]
    assert "Logical Generalization" in text and "seconds per edit" in text


def test_markdown_has_a_column_an_editor(finished: Results) -> None:
    table = [line.strip("|").split("|") for line in render(finished.folder, "md").splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in table]
    assert head == ["metric", "scoring", "none", "oracle", "clumsy", "refusing"]
    assert ["locality", "generated", *["100.0 [100.0, 100.0]"] * 2, "0.0 [0.0, 0.0]", "100.0 [100.0, 100.0]"] in rows
    assert {len(row) for row in rows} == {6}


def test_csv_has_a_line_a_figure(finished: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(render(finished, "csv"))))
    [row] = [r for r in rows if (r["editor"], r["metric"], r["scoring"]) == ("clumsy", "locality", "generated")]
    assert (row["value"], row["n"], row["version"], row["valid"]) == ("0.0", "6", "locality,generated/1", "True")
    assert {r["editor"] for r in rows} == {"none", "oracle", "clumsy", "refusing"}


def test_json_is_the_results_file(finished: Results) -> None:
    assert json.loads(render(finished, "json")) == json.loads(json.dumps(finished.data))


def test_figures_keep_the_metrics_order_and_leave_out_what_is_derived(finished: Results) -> None:
    found = keys(finished)
    assert found[0] == "reliability,generated" and found[-1] == "prompt_tokens_added,none"
    assert not [k for k in found if "_ci95" in k or "_stderr" in k or "_n," in k]
    assert figure(finished.data["results"]["cases_none"], "locality,generated").interval == "[100.0, 100.0]"
    assert figure(finished.data["results"]["cases_none"], "fluency,generated") is None


class Outside(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "action") and not str(v).startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_alone_and_shows_every_answer(finished: Results) -> None:
    page = write_page(finished, finished.folder / "deep" / "report.html").read_text(encoding="utf-8")
    read = Outside()
    read.feed(page)
    text = " ".join(read.text)
    assert read.loads == [] and not re.search(r"@import|url\((?!#)", page)
    assert "Person5 talks in" in text and "lte evaluate mine.yaml" in text
    assert "refusing refused 6 of 6 edits" in text
    assert '<img src="x"' in text and "img" not in read.tags  # an answer is text, never markup
    assert read.tags.count("tbody") == 2 + 6 and {"script", "svg", "details"} <= set(read.tags)


def test_the_plots_are_drawn_in_the_pages_colours(finished: Results) -> None:
    svgs = re.findall(r"<svg.*?</svg>", render(finished, "html"), re.DOTALL)
    assert len(svgs) == 2
    for svg in svgs:
        ET.fromstring(svg)
        assert "var(--ink)" in svg and "var(--accent)" in svg and not re.search(r"#0[1-4]0[1-4]0[1-4]", svg)
        assert "oracle" in svg and "clumsy" in svg


def test_the_same_results_make_the_same_page(finished: Results) -> None:
    assert render(finished, "html") == render(finished, "html")


def test_an_invalid_editor_is_marked_everywhere(
    lm: FakeLM, cases: list[Case], settings: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    found = evaluate(lm, {"none": None, "stubborn": Stubborn(cases)}, cases, settings(), tmp_path)
    assert "stubborn invalid" in printed(render(found, "table"))
    assert "stubborn (invalid)" in render(found, "md")
    assert "stubborn is not valid" in render(found, "html")


@pytest.mark.parametrize("scorings", [["preference"], ["teacher_forced"], ["fluency"], ["generated", "fluency"]])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_shows_every_choice_of_scorings(
    form: str,
    scorings: list[str],
    lm: FakeLM,
    cases: list[Case],
    settings: Callable[..., EvaluateConfig],
    tmp_path: Path,
) -> None:
    found = evaluate(lm, {"none": None}, cases[:2], settings(scorings=scorings), tmp_path)
    shown = render(found, form)
    assert shown if isinstance(shown, str) else printed(shown)


def test_a_case_of_nothing_but_an_edit(lm: FakeLM, settings: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    bare = [Case("bare", Edit("Person0 speaks", "Elvish"))]
    found = evaluate(lm, {"oracle": Oracle(bare)}, bare, settings(), tmp_path)
    assert set(keys(found)) >= {"reliability,generated"} and "reliability" in render(found, "html")


def test_a_contested_neighbour_is_shown_and_not_judged(
    lm: FakeLM, cases: list[Case], settings: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    neighbour = Probe(cases[1].edit.prompt, (str(cases[1].edit.target_true),))
    contested = [replace(cases[0], locality=(neighbour,)), cases[1]]
    shown = render(evaluate(lm, {"oracle": Oracle(contested)}, contested, settings(), tmp_path), "html")
    assert 'data-kind="contested" data-wrong=""' in shown and "not counted" in shown


def test_what_is_there_to_evaluate() -> None:
    text = printed(catalogue())
    assert all(name in text for name in ("zsre", "counterfact", "batch:N", "locality,generated", "S,preference"))


def test_a_folder_without_results_and_a_form_unknown_are_named(finished: Results, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluateError, match="no results_"):
        render(tmp_path / "empty", "md")
    with pytest.raises(EvaluateError, match=r"'pdf': no such form; there are table, md"):
        render(finished, "pdf")
    (finished.folder / "results_9999.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EvaluateError, match=r"results_9999.json: not a results file"):
        render(finished.folder, "md")
