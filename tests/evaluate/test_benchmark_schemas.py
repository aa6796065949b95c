"""The schemas of ZsRE (MEND), MQuAKE, RippleEdits and CounterFact's snippets, on records of invented subjects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lte.edits import Case, Edit, Probe
from lte.evaluate.benchmarks import BENCHMARKS, load_cases
from lte.records import RecordError, counterfact, rippleedits

MEND = {
    "subject": "Zorland", "src": "What is the capital of Zorland?", "pred": "Ulm", "rephrase": "Zorland's capital is?",
    "alt": " Quux", "answers": ["Plugh", "Plugh City"], "loc": "nq question: who built the tower of blips",
    "loc_ans": "the Blips", "cond": "Ulm >> Quux || What is the capital of Zorland?",
}  # fmt: skip


def rewrite(subject: str, prompt: str, new: str, true: str, question: str) -> dict[str, Any]:
    targets = {"target_new": {"str": new, "id": "Q1"}, "target_true": {"str": true, "id": "Q2"}}
    return {"prompt": prompt, "relation_id": "P27", "subject": subject, "question": question} | targets


def hop(question: str, answer: str, *aliases: str) -> dict[str, Any]:
    return {"question": question, "cloze": f"{question} -", "answer": answer, "answer_alias": list(aliases)}


CHAIN = {
    "case_id": 11,
    "requested_rewrite": [
        rewrite("Ada Blip", "{} is a citizen of", "Zorland", "Ulmland", "Of what country is Ada Blip a citizen?"),
        rewrite("Zorland", "The capital of {} is", "Quux", "Plugh", "What is Zorland's capital?"),
    ],
    "questions": ["Where is Ada's capital?", "Which city rules Ada's country?", "Ada's country has which capital?"],
    "answer": "Ulm", "answer_alias": [], "new_answer": "Quux", "new_answer_alias": ["Quux City", "Quux"],
    "single_hops": [hop("Who wrote Blipping?", "Ada Blip")],
    "new_single_hops": [
        hop("Who wrote Blipping?", "Ada Blip", "A. Blip"),
        hop("Of what country is Ada Blip a citizen?", "Zorland", "the Zorlands"),
        hop("What is Zorland's capital?", "Quux"),
    ],
    "orig": {"triples": []},
}  # fmt: skip


def query(
    prompt: str, *answers: list[str], about: str = "Q7", relation: str = "MOTHER", targets: Any = ()
) -> dict[str, Any]:
    named = [{"value": value, "aliases": aliases} for value, *aliases in answers]
    told = {"query_type": "regular", "subject_id": about, "relation": relation, "target_ids": list(targets)}
    return {"prompt": prompt, "answers": named, "phrase": None} | told


def group(*queries: dict[str, Any], when: tuple[dict[str, Any], ...] = (), how: str = "OR") -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": how, "condition_queries": list(when)}


ANTHEM = query("The name of the anthem of Zorland is", ["Blip, O Blip", "Blip Hymn"], about="Q9", relation="ANTHEM")
MOTHER = query("The name of the mother of Ada Blip is", ["Eve Blip"])
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ada Blip is Zorland.",
        "subject_id": "Q7", "relation": "COUNTRY_OF_CITIZENSHIP", "target_id": "Q9",
        "original_fact": {
            "prompt": "The name of the country of citizenship of Ada Blip is Zorland of the North.",
            "subject_id": "Q7", "relation": "COUNTRY_OF_CITIZENSHIP", "target_id": "Q8",
        },
    },
    "Relation_Specificity": [group(MOTHER, when=(MOTHER,))],
    "Logical_Generalization": [
        group(query("The mother tongue of Ada Blip is", ["Zorlandish"]), query("Ada Blip speaks", ["Zorlandish", "Z"]))
    ],
    "Subject_Aliasing": [
        group(
            query(
                "The name of the country of citizenship of A. Blip is", ["Zorland", "the Zorlands"],
                relation="COUNTRY_OF_CITIZENSHIP", targets=["Q9"],
            ),
            when=(
                query("The name of the country of citizenship of A. Blip is", ["Zorland"],
                      relation="COUNTRY_OF_CITIZENSHIP", targets=["Q9"]),
            ),
        )
    ],
    "Compositionality_I": [group(query("The anthem of the country of Ada Blip is", ["Blip, O Blip"]), when=(ANTHEM,))],
    "Compositionality_II": [group(query("one", ["1"]), query("two", ["2"], ["3"]), how="AND")],
    "Forgetfulness": [],
}  # fmt: skip


def read(name: str, folder: Path, *rows: Any) -> list[Case]:
    path = folder / "records.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return load_cases(name, path)


def changed(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {k: v for k, v in (record | fields).items() if v is not ...}


def test_zsre_as_mend_asks_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [found] = read("zsre_mend", tmp_path, MEND, MEND | {"alt": ""})
    assert found.edit == Edit("What is the capital of Zorland?", "Quux", "Zorland", "Plugh")
    assert found.generalization == (Probe("Zorland's capital is?", ("Quux",)),)
    assert found.locality == (Probe("who built the tower of blips?", ("the Blips",)),)
    assert "1 records state no new fact and are left out" in caplog.text


def test_zsre_with_a_question_one_hop_on(tmp_path: Path) -> None:
    hops = {"Recalled Relation": "(Quux, rivers)", "New Question": "On which river?", "New Answer": "the Foo"}
    [found] = read("zsre_mend", tmp_path, MEND | {"portability": hops})
    assert found.portability == (Probe("On which river?", ("the Foo",), "One_Hop"),)


def test_a_chain_of_edits(tmp_path: Path) -> None:
    [found] = read("mquake_cf_3k_v2", tmp_path, CHAIN)
    assert found.edits == (
        Edit("Ada Blip is a citizen of", "Zorland", "Ada Blip", "Ulmland"),
        Edit("The capital of Zorland is", "Quux", "Zorland", "Plugh"),
    )
    assert found.generalization == (
        Probe("Of what country is Ada Blip a citizen?", ("Zorland", "the Zorlands")),
        Probe("What is Zorland's capital?", ("Quux",)),
    )
    many = [p for p in found.portability if p.aspect == "Multi_Hop"]
    assert [p.prompt for p in many] == CHAIN["questions"] and len({p.any_of for p in many}) == 1 and many[0].any_of
    assert {p.answers for p in many} == {("Quux", "Quux City")}
    assert found.portability[3:] == (Probe("Who wrote Blipping?", ("Ada Blip", "A. Blip"), "Single_Hop"),)
    assert found.tags == {"hops": "3"}


def test_an_edit_whose_question_is_no_hop_is_asked_it_too(tmp_path: Path) -> None:
    [found] = read(
        "mquake_t", tmp_path, CHAIN | {"requested_rewrite": CHAIN["requested_rewrite"][:1], "new_single_hops": []}
    )
    assert found.generalization == (Probe("Of what country is Ada Blip a citizen?", ("Zorland",)),)
    assert found.also == () and found.tags["relation"] == "P27"


def test_six_criteria(tmp_path: Path) -> None:
    [found] = read("rippleedits_popular", tmp_path, RIPPLE)
    stem = "The name of the country of citizenship of Ada Blip is"
    assert found.edit == Edit(stem, "Zorland", "Ada Blip", "Zorland of the North")
    assert found.tags == {"relation": "COUNTRY_OF_CITIZENSHIP", "set": "popular"}
    [kept] = found.locality
    assert (kept.aspect, kept.answers, kept.given) == (
        "Relation_Specificity", ("Eve Blip",), (Probe(MOTHER["prompt"], ("Eve Blip",)),),
    )  # fmt: skip
    by = {a: [p for p in found.portability if p.aspect == a] for a in rippleedits.FOLLOWS}
    one, other = by["Logical_Generalization"]
    assert one.any_of == other.any_of != "" and other.answers == ("Zorlandish",)  # one letter names nothing
    assert by["Subject_Aliasing"][0].answers == ("Zorland", "the Zorlands")
    assert by["Subject_Aliasing"][0].given == ()  # it asked the unedited model for the new fact
    assert by["Compositionality_I"][0].given == (Probe(ANTHEM["prompt"], ("Blip, O Blip", "Blip Hymn")),)
    assert [(p.prompt, p.answers, p.any_of) for p in by["Compositionality_II"]] == [
        ("one", ("1",), ""),
        ("two", ("2", "3"), ""),
    ]


def test_the_criterion_as_the_description_spells_it(tmp_path: Path) -> None:
    row = {k.replace("Specificity", "Specifity"): v for k, v in RIPPLE.items()}
    row["edit"] = {k.replace("original", "previous"): v for k, v in RIPPLE["edit"].items()}
    assert read("rippleedits_popular", tmp_path, row) == read("rippleedits_popular", tmp_path, RIPPLE)


@pytest.mark.parametrize(
    ("relation", "stem", "subject", "target", "before"),
    [
        ("MOTHER", "The name of the mother of {} is", "Duke of Ulm", "Eve", None),
        ("COUNTRY", "The name of the country which {} is associated with is", "Blip", "Ulm", None),
        ("CAPITAL_OF", "The name of the country which {} is the capital of is", "Ulm", "Foo", None),
        ("AWARD_RECEIVED", "The name of the award {} won is", "Ada", "Blip Cup", None),
        ("NUMBER_OF_CHILDREN", "The number of children {} has is", "Ada", "3", None),
        ("POSITION_HELD", "The name of the position held by {} is", "Ada", "queen", None),
        ("CURRENCY", "The name of the currency in {} is", "Ulm", "blip", None),
        ("SIBLING", "The names of the siblings of {} are", "Ada", "Bo", None),
        ("SEX_OR_GENDER", "The gender of {} is", "Ada", "female", None),
        ("PLACE_OF_BIRTH", "The place of birth of {} is", "Ada", "Ulm Inc.", None),
        ("MEMBER_OF_SPORTS_TEAM", "The name of the sports team which {} is a member of is", "Ada", "Ulm", None),
        ("LEAGUE", "The name of the league which {} plays in is", "Ulm", "Foo", None),
        ("CONTINENT", "The name of the continent which {} is part of is", "Ulm", "Foo", None),
        ("FOLLOWED_BY", "{} is followed by", "Blip II", "This is Blip III", None),
        ("FOLLOWS", "{} follows", "Blip II", "Blip", None),
        # the answer itself holds the word: what was before shows where it begins
        ("AUTHOR", "The name of the author of {} is", "Foo", "He who is Bo", "Bo"),
        ("CAPITAL", "The name of the capital city of {} is", "Foo", "New Ulm", "New Bo"),  # both begin alike
        ("CAPITAL", "The name of the capital city of {} is", "Foo", "Ulm", ""),  # nothing is known of before
        ("CAPITAL", "The name of the capital city of {} is", "Foo", "Ulm", "Ulm"),  # nothing was changed
    ],
)
def test_the_sentence_is_taken_apart(
    tmp_path: Path, relation: str, stem: str, subject: str, target: str, before: str | None
) -> None:
    stem = stem.format(subject)
    edit: dict[str, Any] = {"prompt": f"{stem} {target}.", "subject_id": "Q1", "relation": relation, "target_id": "Q2"}
    if before is not None:
        edit["original_fact"] = edit | {"prompt": f"{stem} {before}.", "target_id": "Q3"}
    [found] = read("rippleedits_random", tmp_path, {"example_type": "random", "edit": edit})
    assert (found.edit.prompt, found.edit.subject, found.edit.target_new) == (stem, subject, target)
    assert found.edit.target_true == (before if before and before != target else None)


def test_the_tests_name_the_answer_where_the_sentence_leaves_it_open(tmp_path: Path) -> None:
    sentence = "The name of the author of Foo is He who is Bo"
    edit = {"prompt": f"{sentence}.", "subject_id": "Q1", "relation": "AUTHOR", "target_id": "Q2"}
    asked = query("The name of the author of F. is", ["He who is Bo"], about="Q1", relation="AUTHOR", targets=["Q2"])
    row = {"example_type": "recent", "edit": edit, "Subject_Aliasing": [group(asked)]}
    [found] = read("rippleedits_recent", tmp_path, row)
    assert found.edit.target_new == "He who is Bo"
    [guessed] = read("rippleedits_recent", tmp_path, changed(row, Subject_Aliasing=...))
    assert guessed.edit.target_new == "Bo"  # without a hint, behind the last "is"


def test_a_record_without_names_is_left_out_as_its_authors_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nameless = [
        {"edit": {"prompt": p, "relation": "MOTHER"}}
        for p in ("The name of the mother of Ada is .", "The name of the mother of  is Eve.")
    ]
    assert len(read("rippleedits_random", tmp_path, *nameless, RIPPLE)) == 1
    assert "2 records state no new fact" in caplog.text


def stating(sentence: str) -> dict[str, Any]:
    return RIPPLE | {"edit": {"prompt": sentence, "relation": "MOTHER"}}


def forgetting(*queries: dict[str, Any], how: str = "OR") -> dict[str, Any]:
    return RIPPLE | {"Forgetfulness": [group(*queries, how=how)]}


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("zsre_mend", changed(MEND, src=...), "src: missing"),
        ("zsre_mend", changed(MEND, alt=3), "alt: expected text, got 3"),
        ("zsre_mend", changed(MEND, answers={"a": 1}), "answers: expected text, a list"),
        ("zsre_mend", changed(MEND, loc=None), "loc: expected text, got None"),
        ("mquake_cf", changed(CHAIN, requested_rewrite=[]), "requested_rewrite: empty"),
        (
            "mquake_cf",
            changed(CHAIN, requested_rewrite="no"),
            "requested_rewrite: expected a list of objects, got 'no'",
        ),
        (
            "mquake_cf",
            changed(CHAIN, requested_rewrite=[CHAIN["requested_rewrite"][0], {"subject": "a", "prompt": "b {}"}]),
            "requested_rewrite[1].target_new: missing",
        ),
        ("mquake_cf", changed(CHAIN, new_answer=...), "new_answer: missing"),
        ("mquake_cf", changed(CHAIN, questions="one"), "questions: expected a list of texts, got 'one'"),
        ("mquake_cf", changed(CHAIN, new_single_hops=[{"question": "q"}]), "new_single_hops[0].answer: missing"),
        ("rippleedits_popular", changed(RIPPLE, edit=...), "edit: expected an object"),
        ("rippleedits_popular", stating("Ada knows Bo."), "edit.prompt: expected MOTHER of a subject and then its"),
        ("rippleedits_popular", stating("The name of the aunt of A is B."), "edit.prompt: expected MOTHER"),
        (
            "rippleedits_popular",
            forgetting(how="XOR"),
            "Forgetfulness[0].test_condition: expected OR or AND, got 'XOR'",
        ),
        ("rippleedits_popular", forgetting({"answers": []}), "Forgetfulness[0].test_queries[0].prompt: missing"),
        (
            "rippleedits_popular",
            forgetting({"prompt": "a", "answers": ["b"]}),
            "test_queries[0].answers: expected a list of objects",
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, name: str, row: Any, field: str) -> None:
    good = {"zsre_mend": MEND, "mquake_cf": CHAIN, "rippleedits_popular": RIPPLE}
    with pytest.raises(RecordError, match=r"records.json: record 1: ") as caught:
        read(name, tmp_path, good[name], row)
    assert field in str(caught.value) and "correct or remove this record" in str(caught.value)


def snippets(folder: Path, rows: Any) -> None:
    text = rows if isinstance(rows, str) else json.dumps(rows)
    (folder / "attribute_snippets.json").write_text(text, encoding="utf-8")


FULL = {
    "case_id": 1, "requested_rewrite": rewrite("Ada", "{} speaks", "Zorlandish", "Ulmish", "q") | {"relation_id": "P1"},
    "paraphrase_prompts": [], "neighborhood_prompts": [], "attribute_prompts": [], "generation_prompts": ["Ada lives"],
}  # fmt: skip


SNIPPET = {
    "relation_id": "P1",
    "target_id": "Q1",
    "samples": [{"name": "Bo", "text": "Bo [a] speaks, é."}, {"text": "Di."}],
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_texts_of_other_subjects_lie_beside_counterfact(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterfact, "CHUNK", chunk)
    other = {"relation_id": "P2", "target_id": "Q1", "samples": [{"name": "Cy", "text": "no"}]}
    again = {"relation_id": "P1", "target_id": "Q1", "samples": [{"text": "Ed."}]}
    snippets(tmp_path, [other, SNIPPET, again])
    for name in ("counterfact", "multi_counterfact"):
        [case] = read(name, tmp_path, FULL)
        assert case.references == ("Bo [a] speaks, é.", "Di.", "Ed.") and case.generation == ("Ada lives",)
    (tmp_path / "attribute_snippets.json").unlink()
    assert read("counterfact", tmp_path, FULL)[0].references == ()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("[{", "cannot be read"), (f"[{json.dumps(SNIPPET)}", "cannot be read"),
        ([{"relation_id": "P1", "samples": []}], "record 0: 'target_id'"),
        ([{"relation_id": "P1", "target_id": "Q1", "samples": 3}], "record 0: .*iterable"),
        ("", "cannot be read"),
    ],
)  # fmt: skip
def test_snippets_that_cannot_be_read_are_said_to_be(tmp_path: Path, rows: Any, told: str) -> None:
    snippets(tmp_path, rows)
    with pytest.raises(RecordError, match=f"attribute_snippets.json: .*({told})"):
        read("counterfact", tmp_path, FULL)


def test_every_benchmark_says_what_it_is_and_where_it_is_from() -> None:
    for name, entry in BENCHMARKS.items():
        assert entry.about and entry.source, name
        assert (entry.home is None) == (name in ("pocket", "cases"))
        assert entry.home is None or entry.home.name in {Path(file).name for file in entry.files}
    wanted = {"counterfact", "multi_counterfact", "zsre_mend", "zsre", "wiki_counterfact", "wiki_recent", "wikibio"}
    wanted |= {f"mquake_{kind}" for kind in ("cf_3k", "cf_3k_v2", "cf", "t")}
    assert set(BENCHMARKS) == wanted | {f"rippleedits_{kind}" for kind in ("popular", "random", "recent")} | {
        "pocket",
        "cases",
    }
