from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lte.evaluate.intervals import estimates
from lte.evaluate.metrics import (
    HARMONIC,
    METRICS,
    case_values,
    contains,
    harmonic_mean,
    ngram_entropy,
    normalise,
    says,
    version_id,
)

anytime = settings(deadline=None)  # a busy machine is no failure


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("French.", "french"),
        ("  “New   York” ", "new york"),
        ("U.S.", "u.s"),
        ("ﬁnance", "finance"),  # a ligature
        ("Straße", "STRASSE"),
        ("Cafe\u0301", "café"),
        ("Yahoo!", "Yahoo"),
        ("１９９０", "1990"),
    ],
)
def test_one_answer_in_other_clothes(answer: str, gold: str) -> None:
    assert normalise(answer) == normalise(gold)
    assert says(answer, [gold])


@pytest.mark.parametrize(("a", "b"), [("C", "C#"), ("C", "C++"), ("5", "$5"), ("New York", "York"), ("", "a")])
def test_other_answers_stay_other(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


def test_an_answer_of_marks_alone_is_not_emptied() -> None:
    assert normalise("?!") == "?!"
    assert not says("...", ["!"])


@anytime
@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@anytime
@given(st.text(min_size=1))
def test_an_answer_says_and_contains_itself(text: str) -> None:
    assert says(text, [text])
    if normalise(text):
        assert contains(text, [text])


@anytime
@given(st.text(), st.lists(st.text()))
def test_saying_is_containing(answer: str, golds: list[str]) -> None:
    golds = [g for g in golds if normalise(g)]
    if says(answer, golds):
        assert contains(answer, golds)


def test_any_alias_counts() -> None:
    assert says("the USSR", ["Soviet Union", "The USSR"])
    assert not says("the USSR, of course", ["The USSR"])
    assert contains("the USSR, of course", ["The USSR"])


def test_contained_are_whole_words() -> None:
    assert not contains("Romeo", ["Rome"])
    assert contains("Romeo is in Rome.", ["Rome"])
    assert contains("東京都です", ["東京"])  # no blanks between words there


def test_ngram_entropy_by_hand() -> None:
    # a b a b: bigrams ab ab... = {ab: 2, ba: 1}, trigrams = {aba: 1, bab: 1}
    h2 = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy("a b a b") == pytest.approx(100 * (2 / 3 * h2 + 4 / 3 * 1) / 2)
    assert ngram_entropy("la la la la la") == 0
    assert ngram_entropy("too short") is None


@anytime
@given(st.lists(st.sampled_from("abc"), min_size=3))
def test_fluency_does_not_depend_on_what_the_words_are(words: list[str]) -> None:
    renamed = [{"a": "x", "b": "y", "c": "z"}[w] for w in words]
    found = ngram_entropy(" ".join(words))
    assert found == pytest.approx(ngram_entropy(" ".join(renamed)))
    assert 0 <= found <= 100 * math.log2(len(words))


@anytime
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_harmonic_mean_lies_between_the_least_and_the_mean(values: list[float]) -> None:
    assert min(values) - 1e-9 <= harmonic_mean(values) <= sum(values) / len(values) + 1e-9
    assert harmonic_mean([*values, 0.0]) == 0


def probe(kind: str, **fields: object) -> dict[str, object]:
    return {
        "kind": kind,
        "aspect": "",
        "answers": [],
        "before": "",
        "after": None,
        "targets": {},
        "scores": {},
    } | fields


def scored(**targets: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {target: {"logprob": logprob, "match": match} for target, (logprob, match) in targets.items()}


def test_a_case_by_hand() -> None:
    probes = [
        probe(
            "reliability", answers=["new"], after="New.", targets={"forced": "new", "preferred": "new", "other": "old"},
            scores=scored(new=(-1.0, 0.5), old=(-2.0, 0.0)),
        ),
        probe(
            "generalization", answers=["new"], after="new one",
            targets={"forced": "new", "preferred": "new", "other": "old"},
            scores=scored(new=(-1.0, 1.0), old=(-1.0, 0.0)),
        ),
        probe("portability", aspect="Reasoning", answers=["x", "y"], after="y"),
        probe("portability", aspect="Reasoning", answers=["x"], after="z"),
        probe("portability", aspect="Subject_Aliasing", answers=["x"], after="z"),
        probe(
            "locality", answers=["old"], before="Old", after="Old",
            targets={"forced": "Old", "preferred": "old", "other": "new"},
            scores=scored(Old=(-0.1, 0.75), old=(-3.0, 0.0), new=(-2.0, 0.0)),
        ),
        probe("locality", answers=["old"], before="Old", after="old"),
    ]  # fmt: skip
    assert case_values(probes) == {
        "reliability,generated": 1.0,
        "reliability,contains": 1.0,
        "reliability,teacher_forced": 0.5,
        "generalization,generated": 0.0,
        "generalization,contains": 1.0,
        "generalization,teacher_forced": 1.0,
        "portability,generated": pytest.approx(1 / 3),
        "portability.Reasoning,generated": 0.5,
        "portability.Subject_Aliasing,generated": 0.0,
        "portability,contains": pytest.approx(1 / 3),
        "portability.Reasoning,contains": 0.5,
        "portability.Subject_Aliasing,contains": 0.0,
        "locality,generated": 0.5,  # one differs by a capital: unchanged means equal
        "locality,teacher_forced": 0.75,
        "ES,preference": 1.0,
        "PS,preference": 0.0,  # a tie is a failure
        "NS,preference": 0.0,
    }


def test_one_right_token_and_then_garbage_is_no_answer() -> None:
    told = scored(**{"Elvish tongue": (-1.0, 0.5)})
    asked = probe("reliability", answers=["Elvish tongue"], after="Elvish elvish elvish", scores=told)
    values = case_values([asked | {"targets": {"forced": "Elvish tongue"}}])
    assert values["reliability,teacher_forced"] == 0.5
    assert values["reliability,generated"] == 0


def test_the_bootstrap_agrees_with_the_textbook() -> None:
    cases = [{"m,s": float(i % 4 == 0)} for i in range(400)]
    found = estimates(cases, resamples=2000, seed=1)["m,s"]
    assert found.mean == 0.25 and found.n == 400
    assert found.stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.1)
    assert found.low == pytest.approx(0.25 - 1.96 * 0.02165, abs=0.006)
    assert found.high == pytest.approx(0.25 + 1.96 * 0.02165, abs=0.006)


def test_the_bootstrap_is_seeded_and_leaves_out_what_is_missing() -> None:
    cases = [{"a,s": 1.0}, {"a,s": 0.0, "b,s": 1.0}, {"b,s": 1.0}, {}]
    assert estimates(cases, seed=3) == estimates(cases, seed=3)
    found = estimates(cases)
    assert found["a,s"].mean == 0.5 and found["a,s"].n == 2
    assert (found["b,s"].low, found["b,s"].high) == (1.0, 1.0)
    assert estimates([]) == estimates([{}]) == {}


def test_s_is_the_harmonic_mean_of_the_three_means() -> None:
    cases = [{"ES,preference": 1.0, "PS,preference": float(i % 2), "NS,preference": 1.0} for i in range(10)]
    found = estimates(cases)
    assert found[HARMONIC].mean == pytest.approx(3 / (1 + 1 + 2))
    assert found[HARMONIC].low < found[HARMONIC].mean < found[HARMONIC].high
    assert HARMONIC not in estimates([{"ES,preference": 1.0}])


@anytime
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 5))
def test_an_interval_lies_within_the_values(values: list[float], seed: int) -> None:
    found = estimates([{"m,s": v} for v in values], resamples=50, seed=seed)["m,s"]
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_every_metric_has_a_version_and_an_aspect_has_its_metrics() -> None:
    assert {version_id(key) for key in METRICS} == {f"{key}/1" for key in METRICS}
    assert version_id("portability.Reasoning,generated") == "portability,generated/1"
    assert version_id(HARMONIC) == "S,preference/1"
