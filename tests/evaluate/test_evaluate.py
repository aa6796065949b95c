from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluate_kit import Clumsy, FakeLM, Forgetful, Oracle, Prompting, Refusing, Stubborn

from lte.config import load
from lte.editors import editor as make
from lte.edits import Case, Probe, write_jsonl
from lte.evaluate import (
    EvaluateConfig,
    EvaluateError,
    Results,
    Supplies,
    build_editors,
    evaluate,
    evaluate_main,
    read_results,
)
from lte.evaluate.benchmarks import BENCHMARKS
from lte.evaluate.journal import read_samples
from lte.evaluate.metrics import case_values

CONFIGS = Path(__file__).parents[2] / "configs/evaluate"
Settings = Callable[..., EvaluateConfig]
RIGHT = ("reliability", "generalization", "portability", "locality")


def scores(results: Results, editor: str, scoring: str = "generated") -> dict[str, float]:
    found = results.data["results"][task(results, editor)]
    return {name: found[f"{name},{scoring}"] for name in RIGHT}


def task(results: Results, editor: str) -> str:
    """The one task of an editor."""
    [name] = [name for name, told in results.data["configs"].items() if told["editor"] == editor]
    return name


def told(results: Results, editor: str) -> dict[str, Any]:
    return results.data["results"][task(results, editor)]


def check(results: Results, editor: str) -> dict[str, Any]:
    return results.data["lte"]["validity"][task(results, editor)]


def rows(results: Results, editor: str) -> list[dict[str, Any]]:
    return list(read_samples(results.samples(task(results, editor))))


@pytest.mark.parametrize("protocol", ["single", "batch:4", "batch:all"])
def test_editors_get_what_they_deserve(
    protocol: str, lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    editors = {"none": None, "oracle": Oracle(cases), "clumsy": Clumsy(cases), "forgetful": Forgetful(cases)}
    found = evaluate(lm, editors, cases, settings(protocols=[protocol]), tmp_path)
    assert scores(found, "none") == {"reliability": 0, "generalization": 0, "portability": 0, "locality": 1}
    assert scores(found, "oracle") == dict.fromkeys(RIGHT, 1)
    assert scores(found, "clumsy") == dict.fromkeys(RIGHT, 1) | {"locality": 0}
    held = {"single": 6, "batch:4": 2, "batch:all": 1}[protocol]  # the newest of each unit
    assert scores(found, "forgetful")["reliability"] == pytest.approx(held / 6)
    assert found.valid


def test_the_three_scorings_stand_in_columns_of_their_own(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    found = evaluate(lm, {"none": None, "oracle": Oracle(cases)}, cases, settings(), tmp_path)
    none, oracle = told(found, "none"), told(found, "oracle")
    assert none["reliability,teacher_forced"] == 0 and oracle["reliability,teacher_forced"] == 1
    assert none["locality,teacher_forced"] == oracle["locality,teacher_forced"] == 1
    assert [none[f"{m},preference"] for m in ("ES", "PS", "NS", "S")] == [0, 0, 1, 0]
    assert [oracle[f"{m},preference"] for m in ("ES", "PS", "NS", "S")] == [1, 1, 1, 1]
    assert oracle["portability.Logical_Generalization,generated"] == 1
    assert oracle["reliability_ci95,generated"] == [1, 1] and oracle["reliability_n,generated"] == 6


def test_only_the_scorings_asked_for_are_computed(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    found = evaluate(
        lm, {"oracle": Oracle(cases)}, cases, settings(scorings=["preference"], latency_answers=0), tmp_path
    )
    scorings = {k.partition(",")[2] for k in told(found, "oracle")}
    assert scorings == {"", "preference", "none"}  # "alias" has no scoring, costs have "none"
    assert not lm.asked


def test_fluency_is_of_the_generated_words(lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path) -> None:
    lm.said |= {c.edit.prompt: "a b a b" for c in cases}
    found = evaluate(lm, {"none": None}, cases, settings(scorings=["fluency"]), tmp_path)
    assert told(found, "none")["fluency,generated"] == pytest.approx(97.27, abs=0.01)


def test_a_portion_is_one_call_each_to_answer_and_to_score(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(protocols=["batch:3"], latency_answers=0), tmp_path)
    assert [len(asked) for asked in lm.asked] == [36, 18, 18]  # the baseline, then two batches of three cases
    assert len(lm.scored) == 3
    assert all(len(pairs) == len(set(pairs)) for pairs in lm.scored)


def test_every_row_proves_which_model_it_scored(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    base = lm.weight_hash()
    for protocol in ("single", "batch:3"):
        found = evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(protocols=[protocol]), tmp_path / protocol)
        for row in rows(found, "oracle"):
            proof = row["weights"]
            assert proof["before"] == proof["after"] != proof["during"]
            assert proof["of"] == ["weight"]
    assert found.data["lte"]["weights"] == lm.weight_hash() == base


@pytest.mark.parametrize("protocol", ["single", "batch:3"])
def test_an_editor_that_does_not_undo_has_no_valid_row(
    protocol: str, lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    editors = {"none": None, "stubborn": Stubborn(cases), "oracle": Oracle(cases)}
    found = evaluate(lm, editors, cases, settings(protocols=[protocol]), tmp_path)
    assert not found.valid
    first = rows(found, "stubborn")[0]
    assert first["valid"] is False and "weights are not those before the edit" in first["invalid"]
    assert check(found, "none")["valid"] and not check(found, "stubborn")["valid"]
    assert check(found, "stubborn")["scored"] == 0
    assert "not asked: stubborn left the model changed" in check(found, "oracle")["why"]
    assert rows(found, "oracle") == []
    assert not any(key.endswith(",generated") for key in told(found, "stubborn"))


class Leaky(Oracle):
    """Restores the weights and leaves a hook on the model."""

    name = "leaky"

    def apply(self, lm: FakeLM, edits: Any) -> Any:
        lm.model.register_forward_hook(lambda *_: None)
        return super().apply(lm, edits)


class Drifting(Oracle):
    """Changes another parameter than the one it says it touched."""

    name = "drifting"

    def apply(self, lm: FakeLM, edits: Any) -> Any:
        with torch.no_grad():
            lm.model.bias += 1
        return super().apply(lm, edits)


def test_a_hook_left_behind_is_found(lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path) -> None:
    found = evaluate(lm, {"leaky": Leaky(cases)}, cases, settings(protocols=["single"]), tmp_path)
    assert "after undo the model has 1 hooks" in rows(found, "leaky")[0]["invalid"]


def test_the_last_check_looks_at_every_parameter(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    found = evaluate(lm, {"drifting": Drifting(cases)}, cases, settings(protocols=["single"]), tmp_path)
    assert all(row["valid"] for row in rows(found, "drifting"))
    assert not found.valid and not check(found, "drifting")["valid"]


def test_a_refused_edit_is_asked_about_without_it(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    found = evaluate(lm, {"refusing": Refusing(cases)}, cases, settings(protocols=["single"]), tmp_path)
    assert scores(found, "refusing") == {"reliability": 0, "generalization": 0, "portability": 0, "locality": 1}
    assert found.valid and check(found, "refusing")["refused"] == 6
    assert rows(found, "refusing")[0]["error"] == "EditorError: refusing: no subject"


def test_an_error_while_asking_undoes_the_edits(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = lm.weight_hash()
    monkeypatch.setattr(FakeLM, "score", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(), tmp_path)
    assert lm.weight_hash() == base and not lm.handles


def test_costs_are_told(lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path) -> None:
    editors = {"oracle": Oracle(cases), "prompting": Prompting(cases)}
    found = evaluate(lm, editors, cases, settings(), tmp_path)
    oracle, prompting = told(found, "oracle"), told(found, "prompting")
    assert prompting["prompt_tokens_added,none"] == 3 and oracle["prompt_tokens_added,none"] == 0
    assert oracle["seconds_per_edit,none"] > 0 and oracle["seconds_per_answer,none"] > 0
    assert oracle["artefact_bytes,none"] == 4 * 6  # the weight that it marks, 3 x 2 in float32
    assert prompting["artefact_bytes,none"] > 6 * len("Person0 speaks Elvish")


def test_a_finished_run_is_not_asked_again(lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path) -> None:
    first = evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(), tmp_path)
    lm.asked.clear()
    again = evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(), tmp_path, resume=True)
    assert not lm.asked and again.data["results"] == first.data["results"]
    assert len(list(tmp_path.glob("results_*.json"))) == 1


def test_more_cases_may_be_added_by_resuming(lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path) -> None:
    config = settings(protocols=["single"], latency_answers=0)
    evaluate(lm, {"oracle": Oracle(cases)}, cases[:4], config, tmp_path)
    lm.asked.clear()
    found = evaluate(lm, {"oracle": Oracle(cases)}, cases, config, tmp_path, resume=True)
    assert [len(asked) for asked in lm.asked] == [36, 6, 6]  # the baseline is asked by blocks, and one grew
    assert len(rows(found, "oracle")) == 6


@pytest.mark.parametrize("change", [{"max_new_tokens": 5}, {"probes": 1}, {"scorings": ["generated"]}])
def test_other_settings_do_not_mix_into_a_run(
    change: dict[str, Any], lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(), tmp_path)
    with pytest.raises(EvaluateError, match=r"other questions or settings.*--output"):
        evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(**change), tmp_path, resume=True)


def test_another_editor_or_model_does_not_mix_into_a_run(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(), tmp_path)
    with pytest.raises(EvaluateError, match="other questions or settings"):
        evaluate(lm, {"oracle": Oracle(cases, virtue="new")}, cases, settings(), tmp_path, resume=True)
    with torch.no_grad():
        lm.model.bias += 1
    with pytest.raises(EvaluateError, match="other questions or settings"):
        evaluate(lm, {"oracle": Oracle(cases)}, cases, settings(), tmp_path, resume=True)


def test_a_metric_can_be_computed_again_without_the_model(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    found = evaluate(lm, {"clumsy": Clumsy(cases)}, cases, settings(), tmp_path)
    assert all(case_values(row["probes"]) == row["values"] for row in rows(found, "clumsy"))


def test_the_results_file_has_the_harness_keys(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    found = evaluate(lm, {"oracle": Oracle(cases, "calm")}, cases, settings(), tmp_path, command="lte evaluate x.yaml")
    data = found.data
    oracle = task(found, "oracle")
    harness = "results configs versions n-shot higher_is_better n-samples config git_hash date model_name"
    assert {*harness.split(), "model_name_sanitized", "total_evaluation_time_seconds"} <= set(data)
    assert oracle == "cases_oracle_batch-all"
    assert data["n-samples"] == {oracle: {"original": 6, "effective": 6}}
    assert data["configs"][oracle]["editor_settings"] == {"virtue": "calm"}
    assert data["higher_is_better"][oracle]["reliability"] is True
    lte = data["lte"]
    assert lte["command"] == "lte evaluate x.yaml" and lte["metric_versions"]["S,preference"] == "S,preference/1"
    assert read_results(tmp_path).data == json.loads(json.dumps(data))
    assert [p.name for p in tmp_path.glob("results_*")] == [f"results_{data['timestamp']}.json"]


def test_editors_are_built_from_the_settings(settings: Settings) -> None:
    config = settings(editors=["none", "ft_m"], editor_settings={"ft_m": {"steps": 3}})
    assert build_editors(config, lambda name, given: (name, given)) == {"none": None, "ft_m": ("ft_m", {"steps": 3})}
    fewer = settings(editors=["none"], editor_settings={"ft_m": {"steps": 3}})
    assert build_editors(fewer, lambda *given: given) == {"none": None}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_is_read_and_its_editors_can_be_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])  # the editors' own files are named from the checkout
    config = load(EvaluateConfig, path)
    assert {b.name for b in config.benchmarks} <= set(BENCHMARKS)
    assert list(build_editors(config, make)) == list(config.editors)


def test_the_whole_from_a_file(lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "cases.jsonl", cases)
    supplies = Supplies(make, lambda *_: lm, {"pocket": tmp_path / "cases.jsonl"})
    config = settings(benchmarks=["pocket"], limit=4, editors=["none"], output=tmp_path / "out")
    found = evaluate_main(config, supplies)
    assert found is not None and found.folder == tmp_path / "out"
    assert told(found, "none")["locality,generated"] == 1
    assert found.data["n-samples"]["pocket_none_batch-all"]["original"] == 4


def test_no_cases_no_evaluation(lm: FakeLM, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="'cases': no cases"):
        evaluate(lm, {"none": None}, [], settings(), tmp_path)


def test_a_neighbour_whose_own_fact_another_edit_replaces_counts_nowhere(
    lm: FakeLM, cases: list[Case], settings: Settings, tmp_path: Path
) -> None:
    first, second = cases[:2]
    neighbour = Probe(second.edit.prompt, (str(second.edit.target_true),))
    harder = replace(first, locality=(*first.locality, neighbour))

    def kinds(protocol: str) -> list[str]:
        config = settings(protocols=[protocol])
        done = evaluate(lm, {"oracle": Oracle(cases)}, [harder, second], config, tmp_path / protocol[:5])
        return [p["kind"] for p in rows(done, "oracle")[0]["probes"] if p["kind"] in ("locality", "contested")]

    assert kinds("batch:all") == ["locality", "contested"]
    assert kinds("single") == ["locality", "locality"]
