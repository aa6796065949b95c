"""The command line: what it prints where, and with which exit code; the rooms behind it have tests of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import lte.align.train
import lte.pocket.demo
import lte.serve.run
from lte.cli import app
from lte.edits import Case, Edit, Probe, write_jsonl
from lte.memory import EditMemory
from lte.models import LM, ModelError

STATEMENTS = [
    Edit("The capital of Vemmel is", "Ulm", "Vemmel", "Bern", ("Vem",)),
    Edit("Ilse Marek speaks", "Danish", "Ilse Marek"),
]


def run(*arguments: str | Path) -> Result:
    """What the command line answers."""
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="lte")


def rows(*arguments: str | Path) -> Any:
    """What it prints as JSON, once it has gone well."""
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


class Letters:
    """An encoder that knows letter triples: near in words is near in space."""

    id, dim = "letters", 256

    def __init__(self, *settings: object) -> None: ...

    def encode(self, texts: Sequence[str]) -> Any:
        found = np.full((len(texts), self.dim), 1e-3, np.float32)
        for i, text in enumerate(texts):
            for at in range(len(text) - 2):
                digest = hashlib.sha256(text[at : at + 3].lower().encode()).digest()
                found[i, digest[0]] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a memory may be made; its encoder is quick."""
    monkeypatch.setattr("lte.memory.memory.SentenceTransformerEncoder", Letters)
    monkeypatch.setattr("lte.memory.encoder.SentenceTransformerEncoder", Letters)
    monkeypatch.setenv("LTE_MEMORY", str(tmp_path / "edits.db"))
    return tmp_path / "edits.db"


# --- the whole -------------------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("demo", "align", "edit", "evaluate", "memory", "serve"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", ["demo", "align", "edit", "evaluate", "memory", "serve"])
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "-h")
    assert result.exit_code == 0 and result.stdout.startswith(f"Usage: lte {command}")


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"lte {lte.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["memory", "nonsense"], ["--nonsense"], ["edit"], ["memory", "add", "x"]]
)
def test_wrong_usage_is_2_and_on_stderr(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "") and "Usage: lte" in result.stderr


def raising(error: Exception) -> Any:
    """A function that raises."""

    def function(*arguments: object, **named: object) -> None:
        raise error

    return function


def test_a_refusal_is_one_line_and_a_mistake_of_ours_a_traceback(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("memory", "add", "p", "<|eot_id|>")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "lte: target_new: holds the control token '<|eot_id|>'; a model would obey it: remove it\n"
    )
    monkeypatch.setattr(EditMemory, "open", raising(ValueError("a bug")))
    result = run("memory", "add", "p", "t")
    assert result.exit_code == 1 and isinstance(result.exception, ValueError)


def test_debug_lets_a_refusal_through_with_its_traceback(db: Path) -> None:
    result = run("--debug", "memory", "add", "", "t")
    assert isinstance(result.exception, lte.edits.EditError)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("No module named 'trl'", name="trl")
    monkeypatch.setattr("lte.align.train.main", raising(missing))
    result = run("align", "any.yaml")
    assert result.exit_code == 2 and "this command needs trl; pip install 'lte[align]'" in result.stderr


def test_a_file_that_the_system_refuses_is_named(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EditMemory, "open", raising(PermissionError(13, "Permission denied", "edits.db")))
    result = run("memory", "add", "p", "t")
    assert (result.exit_code, result.stderr) == (2, "lte: edits.db: Permission denied\n")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_an_edit_lives_and_leaves_its_history(db: Path) -> None:
    [added] = rows("memory", "add", "The capital of Vemmel is", "Ulm", "--subject", "Vemmel", "--alias", "Vem")
    id = added["id"]
    assert added == {
        "id": id,
        "prompt": "The capital of Vemmel is",
        "target_new": "Ulm",
        "subject": "Vemmel",
        "aliases": ["Vem"],
    }
    assert rows("memory", "get", id) == rows("memory", "list") == [added]
    [changed] = rows("memory", "update", id, "--target", "Bonn", "--true", "Bern")
    assert changed == {**added, "target_new": "Bonn", "target_true": "Bern"}
    assert rows("memory", "delete", id) == rows("memory", "list") == []
    assert [(r["change"], r.get("target_new")) for r in rows("memory", "history", id)] == [
        ("add", "Ulm"),
        ("update", "Bonn"),
        ("delete", None),
    ]
    assert run("memory", "get", id).exit_code == 2


def test_namespaces_do_not_see_each_other(db: Path) -> None:
    run("memory", "add", "p", "one", "--namespace", "a")
    run("memory", "add", "p", "two", "--namespace", "b")
    assert [r["target_new"] for r in rows("memory", "list")] == ["one", "two"]
    assert [r["target_new"] for r in rows("memory", "list", "--namespace", "b")] == ["two"]
    assert [r["target_new"] for r in rows("memory", "search", "p q r", "--namespace", "a")] == ["one"]


def test_search_says_what_is_in_play_and_why(db: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "edits.jsonl", STATEMENTS)
    run("memory", "import", tmp_path / "edits.jsonl")
    first, second = rows("memory", "search", "The capital of Vem is", "-k", "2")
    assert first["subject"] == "Vemmel" and first["in_play"] and first["named"]
    assert not second["in_play"] and second["score"] < second["threshold"]
    assert len(rows("memory", "search", "The capital of Vem is", "-k", "1")) == 1


def test_what_is_exported_can_be_imported(db: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "edits.jsonl", STATEMENTS)
    assert len(rows("memory", "import", tmp_path / "edits.jsonl")) == 2
    assert rows("memory", "export", tmp_path / "out.jsonl")[0]["edits"] == 2
    again = rows("memory", "import", tmp_path / "out.jsonl", "--db", tmp_path / "second.db")
    assert [{**r, "id": None} for r in again] == [{**r, "id": None} for r in rows("memory", "list")]


@pytest.mark.parametrize("command", [["import", "bad.jsonl"], ["import", "none.jsonl"], ["add", "", "t"]])
def test_what_is_refused_makes_no_database(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"prompt": "p", "target_new": "t"}\n{"prompt": "p"}\n', encoding="utf-8")
    result = run("memory", *command)
    assert (result.exit_code, result.stdout) == (2, "") and not db.exists()
    assert "bad.jsonl" not in command or "bad.jsonl:2: target_new: missing" in result.stderr


@pytest.mark.parametrize(
    "command", ["get", "list", "update", "delete", "history", "search", "export", "verify", "rebuild"]
)
def test_a_memory_that_is_not_there_is_not_made_by_looking(db: Path, command: str) -> None:
    needs = {"list": [], "verify": [], "rebuild": [], "update": ["e1", "--target", "t"]}
    result = run("memory", command, *needs.get(command, ["e1"]))
    assert (result.exit_code, result.stdout) == (2, "") and "no such memory" in result.stderr and not db.exists()


def test_an_update_of_nothing_is_refused(db: Path) -> None:
    [added] = rows("memory", "add", "p", "t")
    result = run("memory", "update", added["id"])
    assert result.exit_code == 2 and "nothing to change" in result.stderr


def test_a_sound_memory_verifies_and_an_unsound_one_is_1(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("memory", "add", "p", "t")
    assert (run("memory", "verify").exit_code, run("memory", "verify").stdout) == (0, "")
    monkeypatch.setattr(EditMemory, "verify", lambda self, *against: ["change 1: missing in the index"])
    result = run("memory", "verify")
    assert (result.exit_code, result.stdout) == (1, "change 1: missing in the index\n")


def test_rebuild_says_with_what(db: Path) -> None:
    run("memory", "add", "p", "t")
    assert rows("memory", "rebuild") == [{"edits": 1, "encoder": "letters"}]


def test_calibrate_measures_the_three_thresholds(db: Path, tmp_path: Path) -> None:
    cases = [
        Case(str(i), e, (Probe(f"{e.prompt} really"),), locality=(Probe(f"Something else about number {i}"),))
        for i, e in enumerate(STATEMENTS)
    ]
    write_jsonl(tmp_path / "cases.jsonl", cases)
    found = {r["setting"]: r for r in rows("memory", "calibrate", tmp_path / "cases.jsonl")}
    assert list(found) == ["threshold", "mention_threshold", "free_threshold"]
    assert found["threshold"]["recall"] == 1 and found["threshold"]["false_fire"] == 0


def test_a_table_shows_brackets_as_they_are(db: Path) -> None:
    result = run("memory", "add", "[bold]The state of [x] is", "a[/b] fine")
    assert "[bold]The state of [x] is" in result.stdout and "a[/b] fine" in result.stdout


# --- align, serve, demo ----------------------------------------------------------------------------------------------


def test_align_hands_on_its_options_and_prints_samples_before_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    main = create_autospec(lte.align.train.main, return_value={"rows": 7, "samples": ["one ⟦two⟧"]})
    monkeypatch.setattr("lte.align.train.main", main)
    result = run("align", "c.yaml", "--set", "seed=1", "--set", "train.epochs=2", "--preview", "3", "--resume", "none")
    [given] = main.call_args_list
    assert given.args[:5] == (Path("c.yaml"), ["seed=1", "train.epochs=2"], 3, False, "none")
    assert result.stdout == 'one ⟦two⟧\n\n{\n "rows": 7\n}\n'


def test_serve_reads_its_settings_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = create_autospec(lte.serve.run.serve)
    monkeypatch.setattr("lte.serve.run.serve", listen)
    assert run("serve", "--set", "port=8123", "--set", "model=no/such/folder").exit_code == 0
    [config, load_it], _ = listen.call_args
    assert (config.port, config.model) == (8123, "no/such/folder")
    with pytest.raises(ModelError, match="no/such/folder"):
        load_it()
    result = run("serve", "--set", "prot=8123")
    assert result.exit_code == 2 and "Did you mean 'port'?" in result.stderr


def test_demo_hands_on_where_the_report_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = create_autospec(lte.pocket.demo.run)
    monkeypatch.setattr("lte.pocket.demo.run", shown)
    assert run("demo", "--cases", "5").exit_code == 0
    shown.assert_called_once_with(Path("report.html"), 5)
    assert run("demo", "--cases", "0").exit_code == 2


# --- edit ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, tiny_lm: LM) -> Path:
    """A folder with a random model and its tokenizer."""
    tiny_lm.model.save_pretrained(tmp_path / "model")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """A file of edits."""
    write_jsonl(tmp_path / "edits.jsonl", STATEMENTS[:1])
    return tmp_path / "edits.jsonl"


def test_an_edited_model_is_saved_and_loads_again(model: Path, facts: Path, tmp_path: Path) -> None:
    out = tmp_path / "edited"
    result = run("edit", "ft_m", "--edits", facts, "--model", model, "--output", out)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.stderr
    before, after = (lte.load_model(str(folder), device="cpu") for folder in (model, out))
    changed = [n for n, p in after.model.named_parameters() if not p.equal(before.model.get_parameter(n))]
    assert len(changed) == 1 and after.tokenizer.get_vocab() == before.tokenizer.get_vocab()


def test_settings_of_an_editor_may_come_from_a_file(model: Path, facts: Path, tmp_path: Path) -> None:
    (tmp_path / "ft_m.yaml").write_text("# lte edit ft_m.yaml ...\neditor: ft_m\n", encoding="utf-8")
    asked = ["--edits", facts, "--model", model, "--output", tmp_path / "edited"]
    assert run("edit", tmp_path / "ft_m.yaml", *asked, "--set", "nonsense=1").exit_code == 2
    assert run("edit", tmp_path / "ft_m.yaml", *asked, "--set", "layer=1").exit_code == 0
    assert (tmp_path / "edited" / "config.json").exists()


def test_an_editor_of_the_prompt_has_no_weights_to_save(model: Path, facts: Path, tmp_path: Path, db: Path) -> None:
    result = run("edit", "ice", "--edits", facts, "--model", model, "--output", tmp_path / "edited")
    assert result.exit_code == 2 and "lte serve" in result.stderr and not (tmp_path / "edited").exists()


def test_a_folder_that_holds_something_is_not_written_over(model: Path, facts: Path) -> None:
    result = run("edit", "ft_m", "--edits", facts, "--model", model, "--output", model)
    assert result.exit_code == 2 and "is not empty" in result.stderr


def test_a_model_without_a_tokenizer_is_refused(model: Path, facts: Path, tmp_path: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()
    result = run("edit", "ft_m", "--edits", facts, "--model", model, "--output", tmp_path / "edited")
    assert result.exit_code == 2 and "tokenizer" in result.stderr and "Traceback" not in result.stderr


def weights(folder: Path) -> dict[str, Any]:
    """Those of a checkpoint."""
    return dict(lte.load_model(str(folder), device="cpu").model.state_dict())


@pytest.fixture
def delta(model: Path, facts: Path, tmp_path: Path) -> Path:
    """A folder with a saved edit of the model."""
    asked = ["--edits", facts, "--model", model, "--output", tmp_path / "delta", "--export", "delta"]
    result = run("edit", "run", "ft_m", *asked)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'delta'}\n"), result.stderr
    return tmp_path / "delta"


def test_a_delta_makes_the_edited_checkpoint_later(model: Path, facts: Path, delta: Path, tmp_path: Path) -> None:
    assert run("edit", "ft_m", "--edits", facts, "--model", model, "--output", tmp_path / "at-once").exit_code == 0
    result = run("edit", "apply", delta, "--model", model, "--output", tmp_path / "later")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'later'}\n"), result.stderr
    once, later = weights(tmp_path / "at-once"), weights(tmp_path / "later")
    assert once.keys() == later.keys() and all(later[name].equal(w) for name, w in once.items())


def test_deltas_are_put_on_top_of_each_other(model: Path, delta: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "second.jsonl", STATEMENTS[1:])
    asked = ["--edits", tmp_path / "second.jsonl", "--model", model, "--export", "delta", "--set", "layer=0"]
    assert run("edit", "ft_m", *asked, "--output", tmp_path / "other").exit_code == 0
    both = run("edit", "apply", delta, tmp_path / "other", "--model", model, "--output", tmp_path / "both")
    assert both.exit_code == 0, both.stderr
    before, after = weights(model), weights(tmp_path / "both")
    assert sum(not after[name].equal(w) for name, w in before.items()) == 2
    again = run("edit", "apply", delta, delta, "--model", model, "--output", tmp_path / "twice")
    assert again.exit_code == 2 and "in force already" in again.stderr and not (tmp_path / "twice").exists()


def test_a_delta_says_what_it_is(delta: Path) -> None:
    told = json.loads(run("edit", "show", delta, "-o", "json").stdout)
    shown = run("edit", "show", delta).stdout
    assert told["id"] in shown and told["base"] in shown and "The capital of Vemmel is Ulm" in shown
    assert all(name in shown for name in told["parameters"]) and "ft_m, 1 edits in weights" in shown


def test_a_delta_of_another_model_is_refused(model: Path, delta: Path, tmp_path: Path) -> None:
    shown = json.loads(run("edit", "show", delta, "-o", "json").stdout)
    result = run("edit", "apply", delta, "--model", "pocket", "--output", tmp_path / "later")
    assert result.exit_code == 2 and shown["base"] in result.stderr and not (tmp_path / "later").exists()
    result = run("edit", "apply", tmp_path, "--model", model, "--output", tmp_path / "later")
    assert result.exit_code == 2 and "no artefact" in result.stderr
    assert run("edit", "show", tmp_path).exit_code == 2


def test_edits_in_the_prompt_are_kept_as_a_delta(model: Path, facts: Path, tmp_path: Path, db: Path) -> None:
    asked = ["--edits", facts, "--model", model, "--output", tmp_path / "kept", "--export"]
    assert run("edit", "ice", *asked, "lora").exit_code == 2
    assert run("edit", "ice", *asked, "delta").exit_code == 0
    assert "ice, 1 edits in the prompt" in run("edit", "show", tmp_path / "kept").stdout


def test_an_adapter_says_what_was_cut_off(model: Path, facts: Path, delta: Path, tmp_path: Path) -> None:
    asked = ["edit", "apply", delta, "--model", model, "--export", "lora"]
    whole = run(*asked, "--output", tmp_path / "whole")
    assert whole.exit_code == 0 and "cut to rank" not in whole.stderr
    cut = run(*asked, "--output", tmp_path / "cut", "--max-rank", "1", "--adapter-dtype", "bfloat16")
    assert cut.exit_code == 0 and cut.stdout == f"{tmp_path / 'cut'}\n"
    told = json.loads((tmp_path / "cut" / "lte.json").read_text(encoding="utf-8"))
    [(path, module)] = told["modules"].items()
    assert f"{path}: cut to rank 1: {module['error']:.2%} of the change" in cut.stderr and not module["whole"]
    assert run(*asked, "--output", tmp_path / "whole").exit_code == 2  # not empty


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(model: Path, tmp_path: Path) -> Path:
    """Settings of an evaluation of nobody's knowledge."""
    probe = Probe("What is the capital of Vemmel?", ("Ulm",))
    write_jsonl(tmp_path / "cases.jsonl", [Case(str(i), e, (probe,), (), (probe,)) for i, e in enumerate(STATEMENTS)])
    file = tmp_path / "quick.yaml"
    file.write_text(
        f"# lte evaluate quick.yaml\nmodel: {model}\nbenchmarks: [cases]\ndata: {tmp_path / 'cases.jsonl'}\n"
        f"editors: [none, ice, rome]\nscorings: [generated]\nmax_new_tokens: 4\nresamples: 10\ncache: {tmp_path}\n",
        encoding="utf-8",
    )
    return file


def test_an_evaluation_is_run_and_reported_again(quick: Path, tmp_path: Path, db: Path) -> None:
    out = tmp_path / "out"
    result = run("evaluate", quick, "--editors", "none,ice", "--limit", "1", "--output", out)
    assert result.exit_code == 0, result.output
    assert "reliability" in result.stdout and "ice" in result.stdout and "rome" not in result.stdout
    assert "1 cases" in result.stdout
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    told = json.loads(run("evaluate", "report", out, "-o", "json").stdout)
    assert set(told["results"]) == {"cases_none_batch-all", "cases_ice_batch-all"}
    for form, words in (
        ("csv", "editor,"),
        ("md", "| ice"),
        ("grand", "| ice"),
        ("tex", "toprule"),
        ("html", "</html>"),
    ):
        assert words in run("evaluate", "report", out, "-o", form).stdout
    spelled = run("evaluate", "run", quick, "--editors", "none", "--output", tmp_path / "again", "-o", "json")
    assert json.loads(spelled.stdout)["n-samples"] == {"cases_none_batch-all": {"original": 2, "effective": 2}}


def test_an_evaluation_goes_on_where_it_ended(quick: Path, tmp_path: Path, db: Path) -> None:
    asked = ["evaluate", quick, "--editors", "none", "--output", tmp_path / "out"]
    assert run(*asked).exit_code == run(*asked, "--resume").exit_code == 0
    assert len(list((tmp_path / "out").glob("samples_*.jsonl"))) == 1


def test_answers_of_a_wrong_model_are_1(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lte.evaluate.results.Results.valid", False)
    result = run("evaluate", quick, "--editors", "none", "--output", tmp_path / "out")
    assert result.exit_code == 1 and "reliability" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "modle=x"], "Did you mean 'model'?"),
        (["--editors", "none,rume"], "rume"),
        (["--set", "data=none.jsonl"], "none.jsonl"),
        (["--set", "benchmarks=[zrse]"], "zsre"),
        (["--set", "protocols=[batch:x]"], "batch:N"),
        (["--shard", "2/2"], "wanted i/n"),
        (["--set", "scorings=[genrated]"], "'generated'"),
        (["--set", "model=/no/such/folder"], "/no/such/folder: cannot be loaded"),
    ],
)
def test_an_evaluation_of_nothing_is_refused(quick: Path, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    result = run("evaluate", quick, *arguments, "--output", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "") and complaint in result.stderr


def test_a_report_of_an_empty_folder_is_refused(tmp_path: Path) -> None:
    result = run("evaluate", "report", tmp_path)
    assert result.exit_code == 2 and "no results_" in result.stderr


def test_ls_names_everything_there_is() -> None:
    result = run("evaluate", "ls")
    assert result.exit_code == 0
    for name in ("counterfact", "mquake_t", "rome", "batch:N", "sequential-batch:BxN", "ES,preference/1"):
        assert name in result.stdout


def test_two_shards_make_one_report(quick: Path, tmp_path: Path, db: Path) -> None:
    asked = ["evaluate", quick, "--editors", "none,ice", "--output", tmp_path / "out", "--set", "protocols=[single]"]
    first = run(*asked, "--shard", "1/2")
    assert first.exit_code == 0 and first.stdout == "" and not list((tmp_path / "out").glob("results_*"))
    second = run(*asked, "--shard", "0/2")
    assert second.exit_code == 0 and "2 cases" in second.stdout


def test_a_run_is_not_written_over(quick: Path, tmp_path: Path, db: Path) -> None:
    asked = ["evaluate", quick, "--editors", "none", "--output", tmp_path / "out"]
    assert run(*asked).exit_code == 0
    again = run(*asked)
    assert again.exit_code == 2 and "--resume" in again.stderr


def test_editors_are_compared(quick: Path, tmp_path: Path, db: Path) -> None:
    run("evaluate", quick, "--editors", "none,ice", "--output", tmp_path / "out")
    result = run("evaluate", "compare", tmp_path / "out", "--editors", "none,ice", "-o", "json")
    assert result.exit_code == 0, result.stderr  # two cases cannot differ beyond chance
    assert {d["key"] for d in json.loads(result.stdout)["differences"]} >= {"reliability,generated"}
    for arguments in (["--editors", "none"], ["--editors", "none,rume"], []):
        refused = run("evaluate", "compare", tmp_path / "out", *arguments)
        assert refused.exit_code == 2 and "Traceback" not in refused.stderr


def test_a_file_of_cases_is_checked(quick: Path, tmp_path: Path) -> None:
    assert run("evaluate", "validate", tmp_path / "cases.jsonl").exit_code == 0
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "target_new": "t"}\n{"prompt": 3}\nno json\n', encoding="utf-8")
    result = run("evaluate", "validate", bad, "-o", "json")
    assert result.exit_code == 1
    assert len([p for p in json.loads(result.stdout) if p["kind"] == "error"]) >= 2


def test_trackers_are_told_and_never_stop_a_run(quick: Path, tmp_path: Path, db: Path) -> None:
    asked = ["evaluate", quick, "--editors", "none", "--output", tmp_path / "out"]
    result = run(*asked, "--set", "trackers=[wandb]")  # not among what the tests install
    assert result.exit_code == 0 and "reliability" in result.stdout
    typo = run("evaluate", quick, "--editors", "none", "--output", tmp_path / "b", "--set", "trackers=[wandbb]")
    assert typo.exit_code == 2 and "wandb" in typo.stderr and not (tmp_path / "b").exists()
