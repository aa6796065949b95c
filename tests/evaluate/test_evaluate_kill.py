"""A run that is killed at any moment goes on and ends with the files of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from evaluate_kit import FakeLM, Forgetful, Oracle, Prompting, case, world

from lte.editors import editor
from lte.edits import Case, write_jsonl
from lte.evaluate import EvaluateConfig, EvaluateError, Shard, Supplies, evaluate
from lte.evaluate.journal import Journal, Key
from lte.evaluate.results import read_results
from lte.evaluate.run import evaluate_main
from lte.models import load_model
from lte.pocket import home

Settings = Callable[..., EvaluateConfig]
CLOCK = {"date", "timestamp", "total_evaluation_time_seconds", "git_hash"}
COSTS = ("seconds_per_edit", "seconds_per_answer", "peak_bytes")
PROTOCOLS = ["single", "batch:4", "sequential:5", "sequential-batch:2x3"]
CASES = [case(n) for n in range(8)]


class SlowLM(FakeLM):
    """Takes a moment for every call, so that a kill may come anywhere."""

    def answer(self, *args: Any, **kwargs: Any) -> list[str]:
        time.sleep(0.0005)
        return super().answer(*args, **kwargs)


def editors(cases: list[Case]) -> dict[str, Any]:
    return {"none": None, "oracle": Oracle(cases), "forgetful": Forgetful(cases), "prompting": Prompting(cases)}


def run(config: EvaluateConfig, folder: Path) -> None:
    evaluate(SlowLM(world(CASES)), editors(CASES), CASES, config, folder, resume=True)


def files(folder: Path) -> dict[str, Any]:
    """Every file that a finished run leaves to read, without the times in it."""
    found = read_results(folder).data
    samples = {p.name.rpartition("_")[0]: p.read_bytes() for p in sorted(folder.glob("samples_*.jsonl"))}
    told = {k: v for k, v in found.items() if k not in CLOCK}
    told["config"] = {k: v for k, v in told["config"].items() if k not in ("output", "cache")}
    told["results"] = {
        task: {k: v for k, v in figures.items() if not k.startswith(COSTS)}
        for task, figures in found["results"].items()
    }
    return {"results": told, **samples}


def forked(work: Callable[[], None]) -> int:
    """A child process at work."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:  # not into pytest, which the child is a copy of
        os._exit(1)
    os._exit(0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What a run without interruption leaves, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    config = settings_for(folder)
    start = time.perf_counter()
    run(config, folder / "run")
    return {"files": files(folder / "run"), "seconds": time.perf_counter() - start}


def settings_for(folder: Path) -> EvaluateConfig:
    more: dict[str, Any] = {"seeds": [0, 1], "every": 2, "point_cases": 3}
    return EvaluateConfig(
        model="fake", benchmarks=["cases"], resamples=20, cache=folder / "answers", protocols=PROTOCOLS, **more
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_a_random_moment_ends_the_same(seed: int, whole: Mapping[str, Any], tmp_path: Path) -> None:
    rng, config = random.Random(seed), settings_for(tmp_path)
    kills = 0
    for _ in range(2):  # killed up to twice, then left alone
        child = forked(lambda: run(config, tmp_path / "run"))
        time.sleep(rng.uniform(0.0, 0.8 * whole["seconds"]))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    run(config, tmp_path / "run")
    assert kills
    assert files(tmp_path / "run") == whole["files"]


class Killed(BaseException):
    """What no one catches."""


def dying(journal: type[Journal], at: int) -> Callable[..., None]:
    """A `Journal.write` that dies before its `at`-th record."""
    write, count = journal.write, [0]

    def dies(self: Journal, unit: str, key: Key, value: Any) -> None:
        count[0] += 1
        if count[0] > at:
            raise Killed
        write(self, unit, key, value)

    return dies


def test_a_real_model_under_edits_in_turn_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"ft_m": {"steps": 3}, "rome": {"v_steps": 3, "statistics": {"tokens": 500, "cache": str(tmp_path)}}}
    config = EvaluateConfig(
        benchmarks=["pocket"], editors=["ft_m", "rome", "lte"], limit=3, protocols=["sequential:3"], resamples=20,
        editor_settings=settings, cache=tmp_path / "answers", latency_answers=0,
    )  # fmt: skip
    supplies = Supplies(editor, load_model, {"pocket": home() / "cases.jsonl"})
    evaluate_main(config, supplies, tmp_path / "whole")
    records = len(Journal(tmp_path / "whole" / "journal.db", True, {}).done("pocket_rome_sequential-3_seed0"))
    for at in (2, 3, records - 2):  # in the first editor's sequence, between a step and its answers, before its end
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Journal, "write", dying(Journal, at))
            evaluate_main(config, supplies, tmp_path / "run", resume=True)
    evaluate_main(config, supplies, tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


class Whimsical(Oracle):
    """Gives other weights each time."""

    name = "whimsical"

    def apply(self, lm: FakeLM, edits: Any) -> Any:
        handle = super().apply(lm, edits)
        lm.model.weight.data += random.random()
        return handle


def test_edits_that_do_not_come_out_the_same_again_are_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings_for(tmp_path).model_copy(update={"protocols": ("sequential:4",), "seeds": (0,)})
    lm = FakeLM(world(CASES))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "write", dying(Journal, 5))
        evaluate(lm, {"whimsical": Whimsical(CASES)}, CASES, config, tmp_path / "run")
    found = evaluate(lm, {"whimsical": Whimsical(CASES)}, CASES, config, tmp_path / "run", resume=True)
    assert "gave other weights than before" in caplog.text and found.valid
    rows = [json.loads(line) for line in found.samples("cases_whimsical_sequential-4").read_text().splitlines()]
    for n in range(2):  # of each sequence, every row at one point saw the same weights
        finals = {r["weights"]["during"] for r in rows if r["sequence"] == n and r["point"] == "final"}
        assert len(finals) == 1


def test_shards_add_up_to_the_whole(whole: Mapping[str, Any], tmp_path: Path) -> None:
    config = settings_for(tmp_path)
    supplies = Supplies(lambda name, _: editors(CASES)[name], lambda *_: FakeLM(world(CASES)), {})
    chosen = config.model_copy(update={"editors": tuple(editors(CASES)), "data": tmp_path / "cases.jsonl"})
    write_jsonl(tmp_path / "cases.jsonl", CASES)
    done = [evaluate_main(chosen, supplies, tmp_path / "run", Shard(i, 3)) for i in (2, 0, 1)]
    assert done[:2] == [None, None] and done[2] is not None and done[2].valid
    ours, theirs = files(tmp_path / "run"), whole["files"]
    assert {k: v for k, v in ours.items() if k != "results"} == {k: v for k, v in theirs.items() if k != "results"}
    assert ours["results"]["results"] == theirs["results"]["results"]


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "1/0", "/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EvaluateError, match=r"wanted i/n with i from 0"):
        Shard.of(text)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path, settings: Settings) -> None:
    lm = FakeLM(world(CASES))
    evaluate(lm, {"none": None}, CASES, settings(), tmp_path / "run")
    with pytest.raises(EvaluateError, match=r"there is a run in this folder; go on with it by --resume"):
        evaluate(lm, {"none": None}, CASES, settings(), tmp_path / "run")


def test_a_journal_of_another_version_is_refused(tmp_path: Path, settings: Settings) -> None:
    lm = FakeLM(world(CASES))
    evaluate(lm, {"none": None}, CASES, settings(), tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "journal.db") as sql:
        sql.execute("UPDATE about SET value = '99' WHERE name = 'format'")
    with pytest.raises(EvaluateError, match="written in format 99, and this version of lte reads 1"):
        evaluate(lm, {"none": None}, CASES, settings(), tmp_path / "run", resume=True)


def test_a_damaged_journal_is_named(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "journal.db").write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(EvaluateError, match=r"journal\.db: not a journal .*fresh --output folder"):
        evaluate(FakeLM(world(CASES)), {"none": None}, CASES, settings(), tmp_path, resume=True)
