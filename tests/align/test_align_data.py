"""The data stage: every role with the right target, the same rows for one seed, nothing lost when it is killed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import align_kit as kit
import pytest

from lte.align.data import Base, DataConfig, Rates, build_data, read_rows
from lte.align.data.roles import GENERAL, IN_SCOPE, ROLES
from lte.align.dataset import AlignError
from lte.config import load, parse
from lte.prompt import with_edits

pq = pytest.importorskip("pyarrow.parquet", reason="alignment needs the extra: pip install 'lte[align]'")
ROOT = Path(__file__).parents[2]
EVERY = {name: 1 for name in Rates.model_fields} | {"paraphrase": 2}
NONE = {name: 0 for name in Rates.model_fields}


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """One source of each kind."""
    made = {
        "wiki": ("wikidata", [kit.knowedit(i) for i in range(10)]),
        "zsre": ("zsre", [kit.mend(i) for i in range(10)]),
        "chains": ("mquake", [kit.mquake(i) for i in range(4)]),
        "ripple": ("rippleedits", [kit.ripple(i) for i in range(6)]),
        "facts": ("counterfact", [kit.reduced(i) for i in range(5)]),
        "free": ("counterfact_qa", [kit.question(i) for i in range(5)]),
        "chat": ("instructions", [kit.chat(i) for i in range(9)]),
        "old": ("lte_sharegpt", [row for i in range(4) for row in kit.published(i)]),
    }
    sources = {
        name: {"kind": kind, "path": kit.written(tmp_path / f"{name}.jsonl", rows)}
        for name, (kind, rows) in made.items()
    }
    return {"sources": sources, "rates": EVERY, "cache": str(tmp_path / "cache"), "chunk": 8, **more}


def made(
    tmp_path: Path, name: str = "set", parrot: kit.Parrot | None = None, said: Any = None, **more: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows and the figures of a dataset built in a folder of that name."""
    config = parse(DataConfig, said or settings(tmp_path, **more), "test")
    parrot = parrot or kit.Parrot()
    base = Base("parrot", "parrot", parrot.answer, parrot.count)
    figures = build_data(config, tmp_path / name, lambda: base, kit.vectors, lambda *_: None)
    rows = [r for f in figures["files"] for r in pq.read_table(tmp_path / name / "data" / f).to_pylist()]
    return rows, figures


def test_every_role_is_there_with_the_target_it_should_have(tmp_path: Path):
    rows, figures = made(tmp_path)
    assert {r["role"] for r in rows} == set(ROLES)
    assert figures["roles"] == dict(sorted(Counter(r["role"] for r in rows).items(), key=lambda p: ROLES.index(p[0])))
    for row in rows:
        assert row["prompt"] == with_edits(row["edits"], row["query"])
        if row["role"] in IN_SCOPE:
            assert row["target"] == "gold" and not row["answer"].startswith("own(")
        else:
            assert row["target"] == "own" and row["answer"] == f"own({row['query']})"
        assert bool(row["edits"]) == (row["role"] not in ("general", "twin"))


def test_the_edits_of_a_prompt_are_those_that_its_role_wants(tmp_path: Path):
    rows, _ = made(tmp_path, distractors=[0, 0.5, 0.5])
    wiki = [r for r in rows if r["source"] == "wiki"]
    assert wiki
    for row in wiki:
        lake = kit.LAKES[int(row["item"])]
        stands = f"The outflow of Lake {lake} is {kit.RIVERS[int(row['item'])]}" in row["edits"]
        assert stands == (row["role"] not in ("absent", "near_miss", "twin")), row
        if row["role"] in ("absent", "near_miss"):
            assert row["edits"] and not any(f"Lake {lake}" in e for e in row["edits"])
    by_role = {role: {r["query"] for r in wiki if r["role"] == role} for role in ROLES}
    assert all("Water" in q for q in by_role["alias"]) and all(q.startswith("The mouth") for q in by_role["one_hop"])
    assert all(q.startswith("The depth") for q in by_role["same_subject"])
    assert all(q.startswith("The length") for q in by_role["unrelated"])
    assert all("wrong" in q or "____" in q for q in by_role["negated"])
    chains = [r for r in rows if r["role"] == "multi_edit"]
    assert chains and all(r["source"] == "chains" and r["answer"] == "Norrby" for r in chains)
    assert all(sum("Beck" in e or "passes the town" in e for e in r["edits"]) >= 2 for r in chains)


def test_near_misses_are_what_the_encoder_finds(tmp_path: Path):
    rows, _ = made(tmp_path, distractors=[0, 1])
    near = [r for r in rows if r["role"] == "near_miss" and r["query"].startswith("The depth of Lake")]
    assert near  # the pool holds edits of lakes beside those of mounts, forts and people
    assert all(e.startswith("The outflow of Lake") for r in near for e in r["edits"])
    # of its own lake, which is nearest, the edit is left out: it would answer the question's rewrite
    assert all(kit.LAKES[int(r["item"])] not in e for r in near for e in r["edits"])


def test_needed_edits_stand_in_every_place(tmp_path: Path):
    rows, _ = made(tmp_path, distractors=[0, 0, 1], rates={**NONE, "rewrite": 1, "paraphrase": 1, "alias": 1}, items=44)
    places = Counter(next(i for i, e in enumerate(r["edits"]) if r["answer"] in e) for r in rows)
    assert set(places) >= {0, 1, 2}


def test_or_always_on_top_as_published(tmp_path: Path):
    rates = {**NONE, "rewrite": 1, "paraphrase": 1, "alias": 1, "same_subject": 1}
    rows, _ = made(tmp_path, distractors=[0, 0, 1], rates=rates, items=44, order="needed_first")
    of_one = [r for r in rows if r["source"] in ("wiki", "zsre", "facts")]
    assert {len(r["edits"]) for r in of_one} == {3}
    subjects = [(kit.LAKES[int(r["item"])], r["edits"]) for r in of_one if r["source"] == "wiki"]
    assert subjects and all(name in edits[0] and not any(name in e for e in edits[1:]) for name, edits in subjects)


def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path):
    rows, figures = made(tmp_path, "a")
    again, same = made(tmp_path, "b")
    assert rows == again and figures["sha256"] == same["sha256"]
    for name in ("README.md", "dataset.json", "data/train-00000-of-00001.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert made(tmp_path, "c", seed=1)[1]["sha256"] != figures["sha256"]


def test_no_subject_stands_twice_among_the_edits_of_a_prompt(tmp_path: Path):
    rows, _ = made(tmp_path, distractors=[0, 0, 0, 1], near=1)
    several = [r for r in rows if r["source"] == "wiki" and len(r["edits"]) > 2]
    assert several
    for row in several:
        lakes = [name for e in row["edits"] for name in kit.LAKES if name in e]
        assert len(lakes) == len(set(lakes)), row["edits"]


def test_rates_are_rows_an_item(tmp_path: Path):
    rates = {**NONE, "rewrite": 0.5, "same_subject": 1}
    gold = {"out_of_scope": "gold", "general": "gold"}
    _, figures = made(tmp_path, rates=rates, targets=gold)
    cases = 10 + 10 + 4 + 6 + 5
    assert figures["roles"]["same_subject"] == 10 + 6  # of those that have such a question
    rows, own = made(tmp_path, "own", rates=rates)
    assert own["roles"]["same_subject"] == cases  # the others are asked what another one's edit asks
    asked = [r for r in rows if r["role"] == "same_subject" and r["source"] == "facts"]
    assert len(asked) == 5 and all(r["answer"] == f"own({r['query']})" for r in asked)
    for row in asked:
        subject = kit.reduced(int(row["item"]))["subject"]
        assert subject in row["query"] and not any(row["query"] in edit for edit in row["edits"])
    assert 0.25 * cases < figures["roles"]["rewrite"] < 0.75 * cases


def test_datasets_reads_the_folder_and_so_does_the_trainer(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows, figures = made(tmp_path, shard_rows=40)
    assert len(figures["files"]) == -(-figures["rows"] // 40) > 1
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "hf"))
    assert loaded.to_list() == rows
    assert [(r.prompt, r.answer, r.role) for r in read_rows(tmp_path / "set")] == [
        (r["prompt"], r["answer"], r["role"]) for r in rows
    ]
    first = tmp_path / "set" / "data" / figures["files"][0]
    first.write_bytes((tmp_path / "set" / "data" / figures["files"][1]).read_bytes())
    with pytest.raises(AlignError, match="its rows are not those"):
        list(read_rows(tmp_path / "set"))
    with pytest.raises(AlignError, match=r"dataset.json: cannot be read .*build it: lte align data"):
        list(read_rows(tmp_path))


def test_the_card_says_what_is_in_it(tmp_path: Path):
    said = settings(tmp_path)
    said["sources"]["chat"]["licence"] = "CC0-1.0 | mine"
    _, figures = made(tmp_path, said=said)
    text = (tmp_path / "set" / "README.md").read_text()
    assert text.startswith("---\nconfigs:\n") and figures["sha256"] in text
    assert "| chat | instructions |" in text and "CC0-1.0 \\| mine" in text and "MIT (KnowEdit)" in text
    for role, n in figures["roles"].items():
        assert f"| {role} | {n} |" in text and f"**{role}**" in text
    assert figures["tokens"]["prompt_tokens"]["max"] >= figures["tokens"]["prompt_tokens"]["p95"] > 0


def test_gold_is_a_setting_and_rows_without_any_are_counted(tmp_path: Path):
    parrot = kit.Parrot()
    rows, figures = made(tmp_path, parrot=parrot, targets={"out_of_scope": "gold", "general": "gold"})
    assert not parrot.asked and {r["target"] for r in rows} == {"gold"}
    assert {r["answer"] for r in rows if r["role"] == "same_subject" and r["source"] == "wiki"} == {"nine"}
    assert {r["answer"] for r in rows if r["role"] in GENERAL} == {"Wood, cork and ice."}
    assert figures["lost"]["no_gold"] == sum(figures["lost"]["by_role"].values()) - figures["lost"]["twice"] > 0
    assert figures["lost"]["by_role"]["negated"] and "negated" not in figures["roles"]


def test_a_run_that_is_killed_goes_on_and_asks_only_what_it_had_not_heard(tmp_path: Path):
    whole = kit.Parrot()
    _, figures = made(tmp_path, "whole", whole, cache=str(tmp_path / "other"))
    assert len(whole.asked) == len(set(whole.asked)) > 24
    first = kit.Parrot(dies_after=20)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, parrot=first)
    assert not (tmp_path / "set" / "data").exists() and not (tmp_path / "set" / "dataset.json").exists()
    second = kit.Parrot()
    _, resumed = made(tmp_path, parrot=second)
    assert resumed["sha256"] == figures["sha256"]
    assert sorted(first.asked + second.asked) == sorted(whole.asked) and len(first.asked) == 24
    third = kit.Parrot()
    assert made(tmp_path, parrot=third)[1] == resumed and not third.asked


def test_a_stage_that_was_killed_is_made_anew_and_another_configs_is_not_taken_up(tmp_path: Path):
    config = parse(DataConfig, settings(tmp_path), "test")

    def dies(texts: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_data(config, tmp_path / "set", lambda: pytest.fail("no model yet"), dies, lambda *_: None)
    _, figures = made(tmp_path, seed=1)  # of other settings than what was begun
    assert figures["sha256"] == made(tmp_path, "fresh", seed=1)[1]["sha256"]
    with pytest.raises(AlignError, match=r"holds a dataset of other settings \(seed\); name another folder"):
        made(tmp_path)


def test_what_is_evaluated_leaves_the_sources_and_is_told(tmp_path: Path):
    held = kit.written(tmp_path / "eval.json", [kit.knowedit(0), kit.reduced(1), {**kit.mend(2), "subject": "else"}])
    before, _ = made(tmp_path, "before")
    assert any("Lake Ormen" in r["prompt"] for r in before)
    rows, figures = made(tmp_path, held_out={"eval": {"kind": "cases", "path": held}})
    text = " ".join(r["prompt"] for r in rows)
    assert "Lake Ormen" not in text and "Talvik Hale" not in text and "Mount Sarnow stand" not in text
    told = [json.loads(line) for line in (tmp_path / "set" / "removed.jsonl").read_text().splitlines()]
    assert {(t["source"], t["what"]) for t in told} >= {("wiki", "subject"), ("facts", "subject"), ("zsre", "prompt")}
    assert sum(figures["removed"].values()) == len(told) and figures["sources"]["wiki"]["removed"] == 1
    assert "Removed because of eval" in (tmp_path / "set" / "README.md").read_text()


def test_a_prompt_that_only_the_building_puts_together_is_caught(tmp_path: Path):
    asked = {"prompt": "Give one answer that would be wrong: The outflow of Lake Quill is", "target_new": "x"}
    held = kit.written(tmp_path / "eval.jsonl", [asked])
    rows, figures = made(tmp_path, rates={**NONE, "negated": 2}, held_out={"eval": {"kind": "cases", "path": held}})
    assert figures["lost"]["leaked"] == 1 and not any(asked["prompt"] in r["prompt"] for r in rows)


def test_long_rows_are_cut_dropped_or_refused_by_rule(tmp_path: Path):
    crowded = {"distractors": [0, 0, 0, 1], "rates": {**NONE, "rewrite": 1, "same_subject": 1}}
    whole, _ = made(tmp_path, "whole", **crowded)
    length = max(r["prompt_tokens"] + r["answer_tokens"] for r in whole)
    limit = length - 6
    cut, figures = made(tmp_path, "cut", max_length=limit, **crowded)
    assert max(r["prompt_tokens"] + r["answer_tokens"] for r in cut) < limit
    assert figures["lost"]["cut"] > 0 and len(cut) + figures["lost"]["too_long"] == len(whole)
    edits = {(r["source"], r["item"], r["query"]): set(r["edits"]) for r in whole}
    assert all(set(r["edits"]) <= edits[r["source"], r["item"], r["query"]] for r in cut)
    assert all(any(r["answer"] in e for e in r["edits"]) for r in cut if r["role"] == "rewrite")
    dropped, figures = made(tmp_path, "drop", max_length=limit, too_long="drop", **crowded)
    assert figures["lost"]["too_long"] == len(whole) - len(dropped) > 0 and not figures["lost"]["cut"]
    with pytest.raises(AlignError, match=r"a row of \d+ tokens \(\w+\); raise max_length"):
        made(tmp_path, "refuse", max_length=limit, too_long="refuse", **crowded)


def test_an_own_answer_that_is_empty_or_does_not_end_gives_no_row(tmp_path: Path):
    rows, figures = made(tmp_path, parrot=kit.Parrot(silent="float", endless="depth"))
    assert figures["lost"]["empty"] > 0 and figures["lost"]["unfinished"] > 0
    assert not any("float" in r["query"] or "depth" in r["query"] for r in rows)


def test_a_role_that_no_source_fills_is_refused_before_any_model_is_loaded(tmp_path: Path):
    said = settings(tmp_path)
    del said["sources"]["chains"], said["sources"]["chat"]
    config = parse(DataConfig, said, "test")
    with pytest.raises(
        AlignError, match=r"rates.multi_edit: no source .*multi_edit, general, general_edited\); set it"
    ):
        build_data(config, tmp_path / "set", lambda: pytest.fail("loaded"), kit.vectors, lambda *_: None)
    mended = parse(DataConfig, {**said, "rates": {**EVERY, "multi_edit": 0, "general": 0, "general_edited": 0}}, "test")
    base = Base("parrot", "parrot", kit.Parrot().answer, kit.Parrot.count)
    assert build_data(mended, tmp_path / "set", lambda: base, kit.vectors, lambda *_: None)["rows"]


def test_folders_and_settings_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    with pytest.raises(AlignError, match="full: holds other files"):
        made(tmp_path, "full")
    with pytest.raises(AlignError, match="fewer than two subjects"):
        one = kit.written(tmp_path / "one.jsonl", [kit.knowedit(0)])
        made(tmp_path, "one", said={"sources": {"a": {"kind": "wikidata", "path": one}}})
    with pytest.raises(AlignError, match="no encoder was given"):
        build_data(parse(DataConfig, settings(tmp_path), "t"), tmp_path / "n", lambda: pytest.fail("x"), None, print)
    for wrong, told in (
        ({"negated": ["{who} is not"]}, "negated.*wanted {prompt}, {target} and {blank}"),
        ({"distractors": [0, 0]}, "distractors.*one above 0"),
        ({"sources": {}}, "sources"),
        ({"rates": {"rewrit": 1}}, "Did you mean 'rewrite'"),
    ):
        with pytest.raises(ValueError, match=told):
            parse(DataConfig, settings(tmp_path, **wrong), "test")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(AlignError, match="10 bytes are free, and the dataset takes up to"):
        made(tmp_path, "small")


@pytest.mark.parametrize("name", ["pocket", "llama3-8b"])
def test_shipped_settings_are_read(name: str):
    config = load(DataConfig, ROOT / "configs" / "align" / "data" / f"{name}.yaml")
    assert config.held_out and all(getattr(config.rates, role) >= 0 for role in ROLES)
