"""Ways of serving edits side by side: what is measured of each, what fires astray, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from xml.etree import ElementTree

import pytest

from lte.editors.base import Handle
from lte.edits import Case, Edit, Probe
from lte.evaluate import EvaluateConfig
from lte.evaluate.recipes import fires, measured, values
from lte.evaluate.report.recipes import figures, plot, table
from lte.models import LM, Prompt

CASES = [
    Case(
        str(n),
        Edit(f"Person {n} speaks", "French", f"Person {n}", "Danish"),
        generalization=(Probe(f"Person {n} talks", ("French",)),),
        portability=(Probe(f"The land of person {n}", ("France",)),),
        locality=(
            Probe(f"Town {n} is in", ("Rome",), "unrelated"),
            Probe(f"Person {n} is from", ("Bonn",), "same_subject"),
            Probe(f"Person 9{n} speaks", ("German",), "absent"),
        ),
    )
    for n in range(3)
]


class Edits:
    """Puts the edit of the person that a question names into its prompt, or `always` the first one."""

    name, config = "edits", None

    def __init__(self, always: bool = False) -> None:
        self.always = always

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Any:
        named = [edit.with_id(str(i)) for i, edit in enumerate(edits)]

        def route(queries: Sequence[str]) -> list[Prompt]:
            found = [next((e for e in named if e.subject in q), named[0] if self.always else None) for q in queries]
            return [
                Prompt(f"{e.statement}. {q}", None, (str(e.id),)) if e else Prompt(q)
                for e, q in zip(found, queries, strict=True)
            ]

        undo = ExitStack()
        lm.routes.append(route)
        undo.callback(lm.routes.pop)
        return Handle(lm, self, named, undo)


@pytest.fixture
def config(tmp_path: Any) -> EvaluateConfig:
    return EvaluateConfig(scorings=("generated",), max_new_tokens=4, cache=tmp_path)


def test_everything_is_asked_with_all_edits_in_force_and_beside_it_facts_and_texts(
    tiny_lm: LM, config: EvaluateConfig
) -> None:
    known = Edit("Oslo is in", "x", "Oslo")
    object.__setattr__(known, "target_true", tiny_lm.answer([known.prompt], 32)[0])  # no text
    facts = [Case("k", known), Case("l", Edit("Bonn is in", "x", "Bonn", "nowhere"))]
    texts = ["Person 1 lives here. Person 2 lives there too."]
    run = measured(tiny_lm, Edits(), CASES, config, facts, texts)
    assert not tiny_lm.routes and [c["doc"]["id"] for c in run["cases"]] == ["0", "1", "2"]
    probes = {p["prompt"]: p for c in run["cases"] for p in c["probes"]}
    assert probes["Person 1 talks"]["injected"] == ["French"] and probes["Town 1 is in"]["injected"] == []
    assert probes["Town 1 is in"]["after"] == probes["Town 1 is in"]["before"]
    [asked] = tiny_lm.answer(["Person 1 speaks French. Person 1 talks"], 4)
    assert probes["Person 1 talks"]["after"] == asked
    before, after = run["ability"]["before"], run["ability"]["after"]
    assert before["knowledge"] == after["knowledge"] == 0.5
    assert before["perplexity"] != after["perplexity"]  # the text's first sentence brings an edit along
    [score] = tiny_lm.score(["Person 1 lives here."], ["Person 2 lives there too."], raw=True)
    assert before["perplexity"] == pytest.approx(math.exp(-score.logprob))


def probe(kind: str, before: str, after: str, injected: Sequence[str] = (), aspect: str = "") -> dict[str, Any]:
    answers = ["Yes"] if kind != "locality" else []
    return {"kind": kind, "aspect": aspect, "prompt": "?", "answers": answers, "before": before, "after": after,
            "targets": {}, "scores": {}, "injected": list(injected)}  # fmt: skip


def test_an_edit_fires_where_its_answer_is_given_that_was_not_given_before() -> None:
    assert fires(probe("locality", "Bonn", "French.", ["French"]))
    assert not fires(probe("locality", "french", "French", ["French"]))
    assert not fires(probe("locality", "Bonn", "Rome", ["French"]))
    assert not fires(probe("locality", "Bonn", "French"))


def test_questions_that_tempt_count_for_false_fire_and_locality_only_counts_its_own() -> None:
    found = values([
        probe("locality", "a", "a", aspect="unrelated"),
        probe("locality", "a", "b", ["b"], "same_subject"),
        probe("locality", "a", "c", ["c"], "absent"),
        probe("locality", "a", "a", ["c"], "near_miss"),
        probe("contested", "a", "c", ["c"], "same_relation"),
    ])  # fmt: skip
    assert found["locality,generated"] == 0.5 and found["locality.unrelated,generated"] == 1
    assert found["false_fire"] == pytest.approx(2 / 3) and found["false_fire.near_miss"] == 0
    assert "locality.absent,generated" not in found and "false_fire.same_relation" not in found


def run(seed: int, good: int, able: float = 0.9) -> dict[str, Any]:
    """A run over ten cases of which the first `good` are answered as they should be."""
    cases = []
    for n in range(10):
        said = "Yes" if n < good else "No"
        kept = "a" if n < good else "b"
        probes = [probe(k, "", said) for k in ("reliability", "generalization", "portability")]
        probes += [probe("locality", "a", kept, ["b"], "same_subject")]
        cases.append({"doc": {"id": str(n)}, "probes": probes})
    ability = {"before": {"knowledge": 1.0, "perplexity": 10.0}, "after": {"knowledge": able, "perplexity": 12.0}}
    return {"seed": seed, "cases": cases, "ability": ability}


@pytest.fixture
def found() -> dict[str, Any]:
    runs = {"theirs": [run(0, 5), run(1, 7)], "ours": [run(0, 8), run(1, 10, 0.7)]}
    return figures(runs, {"theirs": "theirs | old", "ours": "ours"}, "ours")


def test_figures_are_means_over_cases_and_seeds_with_intervals_over_cases(found: dict[str, Any]) -> None:
    theirs, ours = found["recipes"]
    assert (found["cases"], found["seeds"]) == (10, [0, 1])
    for key in ("reliability", "portability", "locality", "locality.same_subject", "H", "H without portability"):
        assert ours["figures"][key]["mean"] == pytest.approx(0.9)
        assert ours["figures"][key]["seeds"] == pytest.approx([0.8, 1.0])
    assert theirs["figures"]["false_fire"]["mean"] == pytest.approx(0.4)
    h = ours["figures"]["H"]
    assert 0.6 < h["low"] < 0.9 < h["high"] <= 1
    assert ours["ability"]["knowledge"] == pytest.approx({"before": 1.0, "after": 0.8})
    less = theirs["less"]["H"]
    assert less["mean"] == pytest.approx(-0.3) and less["low"] < -0.3 < less["high"] and not ours["less"]
    assert less["high"] < 0  # in the same draws: where theirs is right, ours is
    own = theirs["figures"]["H"]
    assert less["low"] != pytest.approx(own["low"] - 0.9) and less["high"] != pytest.approx(own["high"] - 0.9)


def test_the_same_answers_in_every_seed_make_no_interval_narrower() -> None:
    once, twice = (figures({"a": [run(n, 5) for n in range(seeds)]}, {"a": "a"}, "a") for seeds in (1, 2))
    [a], [b] = once["recipes"], twice["recipes"]
    assert (a["figures"]["H"]["low"], a["figures"]["H"]["high"]) == pytest.approx(
        (b["figures"]["H"]["low"], b["figures"]["H"]["high"])
    )


def test_a_recipe_measured_with_fewer_seeds_is_compared_in_those_and_says_so() -> None:
    runs = {"few": [run(1, 9)], "ours": [run(0, 3), run(1, 10)]}
    found = figures(runs, {"few": "few", "ours": "ours"}, "ours")
    few = found["recipes"][0]
    assert found["seeds"] == [0, 1] and few["less"]["H"]["mean"] == pytest.approx(-0.1)
    assert "| few (1 of 2 seeds) |" in table(found) and "| ours |" in table(found) and "few (1 of" in plot(found)


def test_the_table_has_a_row_a_recipe(found: dict[str, Any]) -> None:
    head, _, theirs, ours = table(found).splitlines()
    cells = dict(zip((c.strip() for c in head.split(" | ")), (c.strip() for c in ours.split(" | ")), strict=True))
    assert cells["reliability"].startswith("90.0 ±") and cells["known facts"] == "100.0 → 80.0"
    assert cells["perplexity"] == "10.0 → 12.0" and cells["unrelated"] == "–"
    assert "theirs \\| old" in theirs and "-30.0 [" in theirs


def test_the_drawing_shows_every_recipe_and_where_its_mean_lies(found: dict[str, Any]) -> None:
    root = ElementTree.fromstring(plot(found))
    words = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "ours" in words and "theirs | old" in words and "false fire: less is better" in words
    assert words.count("90") == 6  # H, H without portability and the four
    few = figures({"a": [{**run(0, 5), "cases": [{"doc": {"id": "0"}, "probes": [probe("reliability", "", "Yes")]}]}]},
                  {"a": "a"}, "ours")  # fmt: skip
    assert "H" not in few["recipes"][0]["figures"] and "<svg" in plot(few) and "–" in table(few)
