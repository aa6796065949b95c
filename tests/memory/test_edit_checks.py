"""An edit's tests: how answers are judged, what is recalled on trial, and the JUnit file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import pytest
from memory_samples import CAPITAL, CONFIG, TONGUE, FakeEncoder

from lte.edits import Edit
from lte.memory import EditMemory, EditTest, MemoryFault, Record
from lte.memory.checks import answers_of, fits, run_tests
from lte.memory.junit import junit, write_junit
from lte.memory.trial import Trial

ASKED = "What is the capital of Vorland?"


def wants(value: str = "Ostby", **more: object) -> EditTest:
    return EditTest(ASKED, value, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "answer", "fit"),
    [
        (wants(), "It is  OSTBY.", True),
        (wants(), "It is Nordby", False),
        (wants("the  town"), "The\ntown of Ostby", True),
        (wants(match="equals"), " ostby.", True),
        (wants(match="equals"), "It is Ostby", False),
        (wants(match="not_contains"), "It is Nordby", True),
        (wants(match="not_contains"), "it is ostby", False),
        (wants("^Ost(by|dal)$", match="regex"), "Ostdal", True),
        (wants("^Ost(by|dal)$", match="regex"), "ostdal", False),
    ],
)
def test_an_answer_fits_or_does_not(wanted: EditTest, answer: str, fit: bool) -> None:
    assert fits(wanted, answer) is fit


def test_what_must_not_change_is_compared_with_the_answer_without_the_edit() -> None:
    wanted = wants("", must="not_change")
    assert fits(wanted, "Ostby.", " ostby") and not fits(wanted, "Ostby", "Nordby") and not fits(wanted, "Ostby")


def test_each_question_is_asked_with_the_edit_as_often_as_it_says() -> None:
    said = iter(["Ostby", "Nordby", "Ostby", "old", "new"])
    asked: list[tuple[str, bool]] = []

    def ask(prompt: str, in_force: bool) -> str:
        asked.append((prompt, in_force))
        return next(said)

    tests = [wants(repeat=3, min_pass=2), EditTest("And now?", must="not_change")]
    often, changed = run_tests(tests, ask)
    assert asked == [(ASKED, True)] * 3 + [("And now?", False), ("And now?", True)]
    assert answers_of(tests) == len(asked)
    assert (often.passed, often.passes, often.answers, often.base, often.why) == (
        True,
        2,
        ("Ostby", "Nordby"),
        None,
        "",
    )
    assert (changed.passed, changed.base, changed.answers) == (False, "old", ("new",))
    assert changed.why == "answered 'new'; wanted as without the edit, 'old'"


def test_fewer_good_answers_than_wanted_fail() -> None:
    said = iter(["Ostby", "Nordby", "Sudby"])
    [outcome] = run_tests([wants(repeat=3, min_pass=2)], lambda prompt, in_force: next(said))
    assert (outcome.passed, outcome.passes) == (False, 1)
    assert outcome.why == "answered '3 different answers'; wanted contains 'Ostby' (1 of 3 times, wanted 2)"


def test_an_expression_that_backtracks_for_ever_fails_and_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lte.memory.checks.REGEX_SECONDS", 0.05)
    [outcome] = run_tests([wants("(a|aa)+$", match="regex")], lambda prompt, in_force: "a" * 60 + "!")
    assert not outcome.passed and "regular expression failed" in outcome.why


def test_an_answer_that_is_not_there_is_no_failed_test() -> None:
    def ask(prompt: str, in_force: bool) -> str:
        raise RuntimeError("the engine is down")

    with pytest.raises(RuntimeError, match="down"):
        run_tests([wants()], ask)


# --- on trial --------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[EditMemory]:
    with EditMemory.open(":memory:", CONFIG, FakeEncoder()) as made:
        made.add(TONGUE)
        yield made


def ids(edits: list[Edit]) -> list[str | None]:
    return [edit.id for edit in edits]


@pytest.mark.parametrize("state", ["quarantined", "active", "disabled"])
def test_a_record_on_trial_counts_as_in_force_whatever_it_is(memory: EditMemory, state: str) -> None:
    late = datetime(2999, 1, 1, tzinfo=timezone.utc)
    [record] = memory.add_records([Record("", "default", CAPITAL, state=state, valid_from=late)])  # type: ignore[arg-type]
    with Trial(memory, record) as trial:
        assert (ids(trial.edits(ASKED)), trial.edits(ASKED, in_force=False)) == ([record.id], [])
        assert ids(trial.edits("mother tongue of Ada Quill")) == ids(memory.list())[:1]
        both = "The capital of Vorland, and the mother tongue of Ada Quill"
        assert set(ids(trial.edits(both))) == set(ids(memory.list()))
        assert ids(trial.edits(both, in_force=False)) == ids(memory.list())[:1]
        assert trial.edits("something else") == []
    assert memory.seq == 2  # a trial writes nothing


def test_a_record_that_is_not_written_can_be_tried(memory: EditMemory) -> None:
    with Trial(memory, Record("", "default", CAPITAL, keys=("Where does its king live?",))) as trial:
        assert trial.edits(ASKED) == [CAPITAL]
        assert trial.edits("Where does its king live?") == [CAPITAL]
        assert trial.edits(ASKED, in_force=False) == []


def test_what_gives_way_is_gone_on_trial(memory: EditMemory) -> None:
    old = memory.add(CAPITAL)
    new = Record("", "default", Edit("Vorland has as its capital", "Nordby", subject="Vorland"))
    with Trial(memory, new) as trial:
        assert {e.target_new for e in trial.edits(ASKED)} == {"Ostby", "Nordby"}
    with Trial(memory, new, instead=[str(old.id)]) as trial:
        assert [e.target_new for e in trial.edits(ASKED)] == ["Nordby"]
        assert trial.edits(ASKED, in_force=False) == []
    same = Record("", "default", Edit(CAPITAL.prompt, "Nordby", subject=CAPITAL.subject))
    with Trial(memory, same) as trial:  # of two that ask the same the newer one is recalled
        assert [e.target_new for e in trial.edits(ASKED)] == ["Nordby"]


def test_at_most_k_go_in_front(memory: EditMemory) -> None:
    record = Record("", "default", CAPITAL)
    with Trial(memory, record, k=1) as trial:
        assert len(trial.edits("The capital of Vorland, and the mother tongue of Ada Quill")) == 1


# --- JUnit -----------------------------------------------------------------------------------------------------------


def test_a_junit_file_parses_and_counts(tmp_path: Path) -> None:
    outcomes = run_tests([wants(), wants("x<y")], lambda prompt, in_force: "Ostby <&> \x1b \ud800 é")
    write_junit(tmp_path / "out.xml", {"e1": outcomes}, {"e2": "the engine\x00 is down"})
    [suite] = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("testsuite", "3", "1", "1")
    good, failed, broken = suite
    assert (good.get("classname"), good.get("name"), list(good)) == ("e1", f"1. {ASKED}", [])
    assert failed[0].tag == "failure" and "x<y" in str(failed[0].get("message"))
    assert str(failed[0].text).startswith("Ostby <&> �")
    assert (broken.get("classname"), broken[0].tag) == ("e2", "error")
    assert ElementTree.fromstring(junit({}, {}).encode())[0].get("tests") == "0"
    with pytest.raises(MemoryFault, match="name another file"):
        write_junit(tmp_path / "no" / "out.xml", {}, {})
