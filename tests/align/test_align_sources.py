"""Sources of every schema: what becomes of their records, how they are drawn, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import align_kit as kit
import pytest

from lte.align.dataset import AlignError
from lte.align.sources import KINDS, Item, SourceConfig, Stated, Tally, draw
from lte.align.sources.chats import facts
from lte.align.sources.files import records_of
from lte.config import Config, ConfigError, parse
from lte.edits import Case
from lte.records import RecordError


class Sources(Config):
    sources: dict[str, SourceConfig]


def drawn(
    sources: dict[str, dict[str, Any]], items: int | None = None, seed: int = 0, tally: Any = None
) -> list[tuple[str, Item]]:
    chosen = parse(Sources, {"sources": sources}, "test").sources
    found = draw(chosen, items, seed, 4, lambda _, item: item, {} if tally is None else tally)
    return [(d.source, d.item) for d in found]


def read(kind: str, path: str) -> list[Any]:
    return [item for _, item in drawn({"only": {"kind": kind, "path": path}})]


CASES = {
    "zsre": (kit.mend, "Mount Ormen", "Arl Hills"),
    "wikidata": (kit.knowedit, "Lake Ormen", "Arl"),
    "wikibio": (kit.biography, "ormen hale", "Hale built the tower clock of Arl."),
    "counterfact": (kit.reduced, "Ormen Hale", "Arlstad"),
    "rippleedits": (kit.ripple, "Fort Ormen", "Arlland"),
    "mquake": (kit.mquake, "Beck Ormen", "Arl"),
}


@pytest.mark.parametrize("array", [True, False], ids=["array", "lines"])
@pytest.mark.parametrize("kind", CASES)
def test_records_become_cases_with_what_they_probe(kind: str, array: bool, tmp_path: Path):
    make, subject, target = CASES[kind]
    path = kit.written(tmp_path / "r.json", [make(0)], array)
    [case] = read(kind, path)
    assert isinstance(case, Case) and (case.edit.subject, case.edit.target_new) == (subject, target)
    assert case.generalization or case.portability or case.locality
    if kind == "counterfact":
        assert [p.aspect for p in case.locality] == ["neighborhood"]  # what the reduced form does not say
    elif kind != "wikibio":
        assert [replace(c, id=case.id) for c in read("cases", path)] == [
            case
        ]  # one's own file may hold any of the schemas


def test_zsre_is_read_as_knowedit_has_it_as_well(tmp_path: Path):
    assert read("zsre", kit.written(tmp_path / "r.json", [kit.knowedit(3)]))[0].edit.target_new == "Dovra"


def test_every_form_of_an_instruction_is_one_question_and_its_reply(tmp_path: Path):
    found = read("instructions", kit.written(tmp_path / "r.jsonl", [kit.chat(i) for i in range(3)]))
    assert {(s.query, s.answer, s.scope) for s in found} == {
        (f"Name {n} things that float.", "Wood, cork and ice.", "general") for n in (2, 3, 4)
    }
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}, {"prompt": "Hello", "completion": "Hi"}]
    found = read("instructions", kit.written(tmp_path / "more.jsonl", rows))
    assert {(s.query, s.answer) for s in found} == {("Add.\n\n1 and 2", "3"), ("Hello", "Hi")}


def test_a_fact_in_free_text_answers_its_question(tmp_path: Path):
    [row] = read("counterfact_qa", kit.written(tmp_path / "r.json", [kit.question(0)]))
    assert row.statements == ("Ormen Hale plays the Arl harp",) and row.scope == "in"


@pytest.mark.parametrize(("i", "listed"), [(0, 1), (1, 2)], ids=["[Question], one fact", "[Query], a list"])
def test_the_released_file_is_taken_apart_in_both_of_its_wordings(i: int, listed: int, tmp_path: Path):
    found = read("lte_sharegpt", kit.written(tmp_path / "r.json", kit.published(i), array=True))
    by = {(s.scope, bool(s.statements)): s for s in found}
    assert sorted((s.scope, len(s.statements)) for s in found) == [
        ("bare", 0),
        ("bare", 0),
        ("in", listed),
        ("out", listed),
    ]
    assert by["in", True].query == f"What does Bridge {kit.LAKES[i]} cross?"
    assert by["in", True].statements[0] == f"Bridge {kit.LAKES[i]} crosses the {kit.RIVERS[i]}"
    assert by["out", True].answer == "very old"
    assert not any("acknowledge" in text for s in found for text in (s.query, *s.statements))


def test_the_papers_own_wording_and_facts_of_several_lines_are_read(tmp_path: Path):
    turns = [{"from": "human", "value": "[Updated Information] Elk are blue\n[Query] What are elk?"},
             {"from": "gpt", "value": "blue"}]  # fmt: skip
    [row] = read("lte_sharegpt", kit.written(tmp_path / "r.json", [{"id": "a", "conversations": turns}]))
    assert (row.statements, row.query) == (("Elk are blue",), "What are elk?")
    assert facts("In 1904. a\nsong ended") == ("In 1904. a song ended",)
    assert facts("1. one\n2. two\nlines\n3. three") == ("one", "two lines", "three")


def test_a_seed_draws_the_same_items_and_weights_are_shares(tmp_path: Path):
    rows = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(900)]
    path = kit.written(tmp_path / "r.jsonl", rows)
    two = {
        "much": {"kind": "instructions", "path": path, "weight": 3},
        "little": {"kind": "instructions", "path": path},
    }
    tally: dict[str, Tally] = {}
    first = drawn(two, 400, tally=tally)
    assert first == drawn(two, 400) and first != drawn(two, 400, seed=1)
    assert len(first) == 400 and 260 < sum(source == "much" for source, _ in first) < 340
    assert tally["much"].drawn + tally["little"].drawn == 400
    assert tally["much"].read < 400  # streamed: what is not drawn is not read
    assert len(drawn(two)) == 1800  # without a number, all there are
    assert len(drawn({"few": {**two["little"], "limit": 7}})) == 7


def test_a_folder_and_a_parquet_file_are_streamed_with_datasets(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="alignment needs the extra: pip install 'lte[align]'")
    (tmp_path / "set").mkdir()
    kit.written(tmp_path / "set" / "train.jsonl", [kit.chat(0) for _ in range(3)])
    assert len(read("instructions", str(tmp_path / "set"))) == 3
    datasets.Dataset.from_list([kit.chat(2), kit.chat(2)]).to_parquet(tmp_path / "r.parquet")
    assert [s.answer for s in read("instructions", str(tmp_path / "r.parquet"))] == ["Wood, cork and ice."] * 2
    with pytest.raises(AlignError, match=r"set: cannot be read .*check the id, subset, split"):
        drawn({"a": {"kind": "instructions", "path": str(tmp_path / "set"), "split": "nowhere"}})


@pytest.mark.parametrize(
    ("kind", "row", "told"),
    [
        ("wikidata", {"subject": "a", "prompt": "b is"}, r"r.jsonl:2: target_new: missing; correct"),
        ("zsre", {"src": "a", "alt": 3}, r"r.jsonl:2: alt: expected text, got 3"),
        ("mquake", {"case_id": 1, "requested_rewrite": []}, r"r.jsonl:2: requested_rewrite: empty"),
        ("rippleedits", {"edit": "a"}, r"r.jsonl:2: edit: expected an object, got 'a'"),
        ("counterfact_qa", {"new_fact": "a", "question": ["b"]}, r"r.jsonl:2: question: expected text, got \['b'\]"),
        ("instructions", {"text": "a"}, r"r.jsonl:2: no instruction: it has text; wanted messages"),
        ("instructions", {"messages": [{"role": "system", "content": "a"}]}, r"r.jsonl:2: messages: no turn of user"),
        ("instructions", {"messages": [{"role": "user"}]}, r"r.jsonl:2: messages\[0\].content: missing"),
        ("lte_sharegpt", {"conversations": [{"from": "human", "value": "[Updated Information]:\na\n\nb"}]},
         r"r.jsonl:2: conversations: expected \[Updated Information\], the facts, then"),
        ("cases", {"prompt": "a"}, r"r.jsonl:2: target_new: missing"),
    ],
)  # fmt: skip
def test_a_record_with_wrong_fields_is_named_by_file_record_and_field(kind: str, row: Any, told: str, tmp_path: Path):
    good = {**{k: make(0) for k, (make, *_) in CASES.items()}, "cases": kit.knowedit(0), "instructions": kit.chat(0),
            "counterfact_qa": kit.question(0), "lte_sharegpt": kit.published(0)[0]}  # fmt: skip
    path = kit.written(tmp_path / "r.jsonl", [good[kind], row])
    with pytest.raises(RecordError, match=told):
        read(kind, path)


def test_a_source_without_records_is_refused_by_its_name(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(AlignError, match=r"sources.chat: .*empty.jsonl: 0 records.*nothing is left"):
        drawn({"chat": {"kind": "instructions", "path": str(tmp_path / "empty.jsonl")}})
    marked = kit.written(tmp_path / "marks.jsonl", [{"instruction": "Say <|eot_id|>", "output": "no"}])
    with pytest.raises(AlignError, match=r"1 records, 1 unusable, 0 removed"):
        drawn({"chat": {"kind": "instructions", "path": marked}})
    with pytest.raises(AlignError, match=r"gone.json: no such file; give the path"):
        drawn({"chat": {"kind": "instructions", "path": str(tmp_path / "gone.json")}})
    with pytest.raises(ConfigError, match=r"sources.a.kind: .*no such kind of source; there are cases, zsre"):
        drawn({"a": {"kind": "zrse", "path": "x"}})


def test_every_kind_says_what_it_holds():
    assert all(kind.about for kind in KINDS.values())
    assert isinstance(Stated("1", "a", "b").statements, tuple)


def test_one_json_file_of_the_hub_is_fetched_and_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its gold is text in one record and a list in the next, which `datasets` could not stream."""
    hub = pytest.importorskip("huggingface_hub")
    rows = [{**kit.knowedit(0), "ground_truth": "one"}, {**kit.knowedit(1), "ground_truth": ["two"]}]
    path, asked = kit.written(tmp_path / "train.json", rows, array=True), []

    def fetch(repository: str, file: str, **more: object) -> str:
        asked.append((repository, file, more))
        if file == "gone.json":
            raise OSError("404: no such file\nmore")
        return path

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    found = list(records_of("some/facts", revision="v1", file="benchmark/train.json"))
    assert [record.fields["ground_truth"] for record in found] == ["one", ["two"]]
    assert asked == [("some/facts", "benchmark/train.json", {"repo_type": "dataset", "revision": "v1"})]
    with pytest.raises(AlignError, match=r"some/facts: gone.json cannot be had \(404: no such file\); check id, file"):
        list(records_of("some/facts", file="gone.json"))
