"""lm-evaluation-harness for real, offline, on the pocket model: before and after edits, here and by a server."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from ability_kit import Server, own_task, serving

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra evaluate")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from lte.editors import editor  # noqa: E402
from lte.edits import Edit  # noqa: E402
from lte.evaluate.ability import check, measure, perplexity  # noqa: E402
from lte.evaluate.config import AbilityConfig, EndpointConfig, EvaluateError  # noqa: E402
from lte.evaluate.endpoint import Endpoint  # noqa: E402
from lte.evaluate.harness import Tasks, _flat, run_tasks  # noqa: E402
from lte.evaluate.quiet import quiet  # noqa: E402
from lte.evaluate.subject import subject  # noqa: E402
from lte.models import LM, Prompt, load_model  # noqa: E402
from lte.models.load import pocket_home  # noqa: E402
from lte.pocket.knowledge import knowledge_cases  # noqa: E402

KNOWN = knowledge_cases(16, 3)
OBJECTS = sorted({str(c.edit.target_true) for c in KNOWN})
ANSWERS = [[c.edit.target_true, *[o for o in OBJECTS if o != c.edit.target_true][:3]] for c in KNOWN]
DOCS = [{"q": c.edit.prompt, "choices": answers, "gold": 0} for c, answers in zip(KNOWN, ANSWERS)]
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
EDITED = KNOWN[0].edit
EDIT = Edit(EDITED.prompt, str(ANSWERS[0][1]), EDITED.subject, EDITED.target_true)
TEXT = "The mother tongue of Danielle Darrieux is French. " * 40


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of the tests' own: of the fact that is edited, of others, one that generates, one with examples."""
    home = tmp_path_factory.mktemp("tasks")
    own_task(
        home, "own_edited", DOCS[:1], output_type="loglikelihood", doc_to_choice=None, doc_to_target="{{choices[1]}}",
        metric_list=[{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    )  # fmt: skip
    own_task(home, "own_others", DOCS[1:])
    own_task(home, "own_shots", DOCS[:6], num_fewshot=2, fewshot_split="test")
    own_task(home, "own_zero", DOCS[:3], num_fewshot=0, fewshot_split="test")
    own_task(
        home, "own_words", DOCS[:4], output_type="generate_until", doc_to_text="{{q}} {{choices[0]}}. {{q}}",
        doc_to_choice=None, doc_to_target="{{choices[0]}}", generation_kwargs={"max_gen_toks": 6, "until": ["."]},
        metric_list=EXACT, filter_list=[{"name": "trimmed", "filter": [{"function": "take_first"}]}],
    )  # fmt: skip
    own_task(
        home, "own_rolling", DOCS[:3], output_type="loglikelihood_rolling", doc_to_choice=None, doc_to_text="",
        doc_to_target="{{q}}",
        metric_list=[{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    )  # fmt: skip
    return home


def settings(folder: Path, *tasks: str, **more: Any) -> AbilityConfig:
    return AbilityConfig(tasks=tasks, include_path=folder, **more)


def asked(context: str, continuation: str = " x") -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, ("t", 0, 1))


def plain(lm: LM) -> Any:
    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4)


# --- before and after -------------------------------------------------------------------------------------------------


def test_the_figures_are_the_harnesss_own(lm: LM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it asks the system, for seconds
    names = ["own_edited", "own_others", "own_shots", "own_words", "own_rolling"]
    with quiet():
        found = lm_eval.simple_evaluate(
            plain(lm), tasks=names, task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )  # fmt: skip
    wanted = {f"{n},{k.removesuffix(',none')}": v for n in names for k, v in found["results"][n].items() if "," in k}
    wanted = {k: v for k, v in wanted.items() if isinstance(v, float)}
    ours = measure(lm, settings(folder, *names, batch_size=4))
    assert len(wanted) == 5 and "own_words,exact_match,trimmed" in wanted
    assert {k: v for k, v in ours.items() if "_stderr" not in k} == wanted
    p, n = ours["own_shots,acc"], 6
    assert ours["own_shots,acc_stderr"] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))


@pytest.mark.parametrize("name", ["ft_m", "lte", "ice"])
def test_what_an_edit_changes_shows_and_is_gone_with_it(name: str, lm: LM, folder: Path) -> None:
    config = settings(folder, "own_edited", "own_others", "own_words", "own_rolling")
    tasks, weights = check(config, lm), lm.weight_hash()
    before = measure(lm, config, tasks=tasks)
    with editor(name).apply(lm, [EDIT]):
        after = measure(lm, config, tasks=tasks)
        assert after["own_edited,perplexity"] < before["own_edited,perplexity"] / 2
        if name != "ft_m":  # nothing is recalled for the others, and a text of its own is no question
            assert after["own_others,acc"] == before["own_others,acc"]
            assert after["own_rolling,word_perplexity"] == before["own_rolling,word_perplexity"]
        else:
            assert after["own_rolling,word_perplexity"] != before["own_rolling,word_perplexity"]
    assert measure(lm, config, tasks=tasks) == before
    assert lm.weight_hash() == weights and lm.on is None


def test_the_adapter_is_on_where_an_edit_is_recalled_and_nowhere_else(lm: LM) -> None:
    context, other = EDITED.prompt, KNOWN[5].edit.prompt
    with editor("lte").apply(lm, [EDIT]), quiet():
        [prompt, left] = lm.prompts([context, other])
        assert prompt.adapter == "lte" and left == Prompt(other)
        requests = [asked(context), asked(other), asked(context, " y"), asked("", " Paris")]
        found = subject(lm, 4).loglikelihood(requests)
        with lm.using("lte"):
            recalled = plain(lm).loglikelihood([asked(str(prompt.query)), asked(str(prompt.query), " y")])
        untouched = plain(lm).loglikelihood([asked(other), asked("", " Paris")])
    wanted = [recalled[0], untouched[0], recalled[1], untouched[1]]
    assert [v for v, _ in found] == pytest.approx([v for v, _ in wanted])
    with quiet():
        [without] = plain(lm).loglikelihood([asked(str(prompt.query))])
    assert abs(without[0] - recalled[0][0]) > 0.1  # the adapter makes a difference


def test_each_context_is_recalled_once_whole_with_its_shots(tiny_lm: LM, folder: Path) -> None:
    seen: list[str] = []

    def route(queries: Any) -> list[Prompt]:
        seen.extend(queries)
        return [Prompt(q) for q in queries]

    tiny_lm.routes.append(route)
    run_tasks(tiny_lm, _loaded(settings(folder, "own_shots")), settings(folder, "own_shots"))
    assert len(seen) == 6  # four choices, one context
    for context, doc in zip(seen, DOCS[:6]):
        shots = context.split("\n\n")
        assert len(shots) == 3 and shots[-1] == doc["q"] and doc["q"] not in shots[:2]


def test_a_routes_messages_go_through_the_chat_template(tiny_lm: LM) -> None:
    said = ({"role": "user", "content": "q"},)
    tiny_lm.routes.append(lambda queries: [Prompt(said) for _ in queries])
    with quiet():
        [[found, _]] = subject(tiny_lm, 2).loglikelihood([asked("c")])
        [[wanted, _]] = plain(tiny_lm).loglikelihood([asked(tiny_lm.render(said))])
    assert found == pytest.approx(wanted)


def test_examples_are_drawn_by_seed_and_a_task_without_any_stays_so(tiny_lm: LM, folder: Path) -> None:
    seen: list[list[str]] = []

    def route(queries: Any) -> list[Prompt]:
        seen.append(list(queries))
        return [Prompt(q) for q in queries]

    tiny_lm.routes.append(route)
    config = settings(folder, "own_shots", "own_zero", fewshot=1, limit=2)
    tasks = _loaded(config)
    for seed in (0, 0, 1):
        run_tasks(tiny_lm, tasks, config, seed)
    first, again, other = seen
    assert first == again != other
    assert [len(c.split("\n\n")) for c in first] == [2, 2, 1, 1]
    assert first[2:] == [d["q"] for d in DOCS[:2]]


# --- nothing left behind ----------------------------------------------------------------------------------------------


def test_nothing_reaches_the_terminal_and_nothing_is_left_changed(
    lm: LM, folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no git repository
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)
    states = random.getstate(), numpy.random.get_state()[1].copy(), torch.get_rng_state()
    environment, side, levels = dict(os.environ), lm.tokenizer.padding_side, logging.getLogger("lm_eval").level
    capfd.readouterr()
    measure(lm, settings(folder, "own_others", "own_words", "own_rolling"), KNOWN[:4])
    assert capfd.readouterr() == ("", "")
    assert random.getstate() == states[0] and (numpy.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert dict(os.environ) == environment and lm.tokenizer.padding_side == side
    assert logging.getLogger("lm_eval").level == levels


def test_what_is_cut_is_told_once(tiny_lm: LM, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_lm.model.config.max_position_embeddings = 40
    config = settings(tmp_path, own_task(tmp_path, "own_long", [{"q": "word " * 60, "choices": ["a", "b"], "gold": 0}]))
    with caplog.at_level(logging.WARNING, "lte"):
        measure(tiny_lm, config)
    [record] = [r for r in caplog.records if r.name == "lte.evaluate.harness"]
    assert "cut, 1 times" in record.message


# --- bad input --------------------------------------------------------------------------------------------------------


def test_an_unknown_task_is_named_before_anything_is_run(tiny_lm: LM, folder: Path) -> None:
    runs: list[object] = []
    tiny_lm.model.register_forward_pre_hook(lambda *_: runs.append(1))
    with pytest.raises(EvaluateError, match=r"'own_otters': no task.*Did you mean 'own_others'") as error:
        measure(tiny_lm, settings(folder, "own_edited", "piqa", "own_otters"))
    assert str(folder) in str(error.value) and not runs


def test_a_task_whose_data_cannot_be_had_stops_all_before_any_is_run(tiny_lm: LM, tmp_path: Path) -> None:
    runs: list[object] = []
    tiny_lm.model.register_forward_pre_hook(lambda *_: runs.append(1))
    own_task(tmp_path, "own_here", DOCS[:2])
    own_task(tmp_path, "own_gone", DOCS[:2])
    (tmp_path / "own_gone.jsonl").unlink()
    own_task(tmp_path, "own_broken", DOCS[:2], doc_to_text="{{ q | nothing }}")
    with pytest.raises(EvaluateError, match=r"cannot be loaded: own_gone \(.*; own_broken \(.*nothing"):
        measure(tiny_lm, settings(tmp_path, "own_here", "own_gone", "own_broken"))
    assert not runs


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"unsafe_code": True}, "marked as unsafe"),
        # there are choices, and the target is not the number of one
        ({"output_type": "generate_until", "doc_to_target": "{{q}}", "metric_list": EXACT}, "TypeError"),
    ],
)
def test_a_task_that_the_harness_refuses_is_named(more: dict[str, Any], says: str, tiny_lm: LM, tmp_path: Path) -> None:
    own_task(tmp_path, "own_odd", DOCS[:2], **{"generation_kwargs": {"max_gen_toks": 2}} | more)
    with pytest.raises(EvaluateError, match=f"own_odd: lm-evaluation-harness gave up: .*{says}"):
        measure(tiny_lm, settings(tmp_path, "own_odd"))


def test_a_folder_of_tasks_that_is_none_is_named(tiny_lm: LM, tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="is no folder"):
        check(settings(tmp_path / "nowhere", "own_edited"))


def test_an_error_of_the_models_own_is_not_the_harnesss(tiny_lm: LM, folder: Path) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    tiny_lm.model.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure(tiny_lm, settings(folder, "own_edited"))


def test_figures_are_named_by_task_metric_and_filter() -> None:
    results = {
        "group": {"alias": "g", "sample_len": 3, "acc,none": 0.5, "acc_stderr,none": "N/A"},
        "bare": {"alias": "b"},
        "one": {"em,strict": 1, "em_stderr,strict": 0.25, "mcc,none": float("nan")},
        "two": {"f1,none": numpy.float32(0.5)},
    }
    tasks = Tasks({"group": ("one", "two"), "bare": ("one",), "two": ("two",)}, {})
    assert _flat(results, tasks) == {"group,acc": 0.5, "one,em,strict": 1, "one,em_stderr,strict": 0.25, "two,f1": 0.5}


def test_a_group_gives_its_own_figure_and_a_tag_those_of_its_tasks(tiny_lm: LM, tmp_path: Path) -> None:
    for n in range(2):
        own_task(tmp_path, f"own_part{n}", DOCS[n : n + 2], tag="own_tag")
    (tmp_path / "group.yaml").write_text(
        "group: own_group\ntask: [own_part0, own_part1]\naggregate_metric_list: [{metric: acc}]\n", encoding="utf-8"
    )
    found = measure(tiny_lm, settings(tmp_path, "own_group", "own_tag"))
    assert {k for k in found if "stderr" not in k} == {"own_group,acc", "own_part0,acc", "own_part1,acc"}
    assert found["own_group,acc"] == pytest.approx((found["own_part0,acc"] + found["own_part1,acc"]) / 2)


# --- behind a server --------------------------------------------------------------------------------------------------


@pytest.fixture
def server(lm: LM) -> Iterator[Server]:
    pytest.importorskip("tenacity", reason="needs the extra evaluate: the harness's client of a server")
    with serving(Server(lm)) as listening:
        yield listening


def endpoint(server: Server, **more: Any) -> Endpoint:
    named = {"url": server.url, "model": "served", "tokenizer": str(pocket_home()), "retries": 0} | more
    return Endpoint(EndpointConfig(**named))


def test_a_served_model_gets_the_figures_of_the_same_model_here(
    lm: LM, server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "somebody else's")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    config = settings(folder, "own_edited", "own_others", "own_words", "own_rolling", perplexity=tmp_path / "text.txt")
    with endpoint(server) as served:
        found = measure(served, config)  # type: ignore[arg-type]
    here = measure(lm, config)
    assert set(found) == set(here) and server.keys == {None}
    assert found == pytest.approx(here, rel=1e-4)


def test_a_recalled_edit_is_asked_of_the_servers_adapter(lm: LM, server: Server, folder: Path) -> None:
    server.adapters["aligned"] = "lte"
    config = settings(folder, "own_edited", "own_others")
    with endpoint(server, adapter="aligned", manifest=pocket_home() / "adapter") as served:
        with editor("lte").apply(served, [EDIT]):  # type: ignore[arg-type]
            found = measure(served, config)  # type: ignore[arg-type]
    with editor("lte").apply(lm, [EDIT]):
        assert found == pytest.approx(measure(lm, config))
    assert {body["model"] for body in server.asked} == {"served", "aligned"}


def test_a_server_needs_a_tokenizer(server: Server, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    with endpoint(server, tokenizer=None) as served:
        for config in (settings(folder, "own_edited"), AbilityConfig(perplexity=tmp_path / "text.txt")):
            with pytest.raises(EvaluateError, match=r"set endpoint\.tokenizer"):
                measure(served, config)  # type: ignore[arg-type]
        with pytest.raises(EvaluateError, match=r"set endpoint\.tokenizer"):
            perplexity(served, TEXT, 4)  # type: ignore[arg-type]
    assert not server.asked


@pytest.mark.parametrize("workers", [1, 4])
def test_a_server_that_fails_or_gives_no_likelihoods_is_an_error_that_says_so(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("LTE_TEST_KEY", "secret-key")
    with endpoint(server, key="LTE_TEST_KEY", workers=workers) as served:
        server.silent = True
        with pytest.raises(EvaluateError, match="wanted a server that gives those of the prompt"):
            measure(served, settings(folder, "own_edited"))  # type: ignore[arg-type]
        server.fails = 500
        with pytest.raises(EvaluateError, match=r"own_edited, of the server at .*gave up.*500") as error:
            measure(served, settings(folder, "own_edited"))  # type: ignore[arg-type]
    assert server.keys == {"Bearer secret-key"} and "secret-key" not in str(error.value)


def test_without_the_harnesss_client_the_error_names_the_extra(
    lm: LM, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tenacity", None)
    with endpoint(server) as served, pytest.raises(EvaluateError, match=r"pip install 'lte\[evaluate\]'"):
        measure(served, settings(folder, "own_edited"))  # type: ignore[arg-type]


def _loaded(config: AbilityConfig) -> Tasks:
    found = check(config)
    assert found is not None
    return found


def test_perplexity_is_finite_for_the_pocket_model(lm: LM) -> None:
    assert 1 < perplexity(lm, TEXT, 4) < math.inf
