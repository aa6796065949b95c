"""Edits and cases: what is taken, what is refused and how, and that files give back what was written."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lte.edits import (
    MAX_BYTES,
    UNSEEN,
    Case,
    Edit,
    EditError,
    Probe,
    case_from,
    checked,
    edit_from,
    read_cases,
    read_edits,
    row_of,
    write_jsonl,
)

EDIT = Edit(
    "The mother tongue of Ilse Marek is", "Danish", subject="Ilse Marek", target_true="Czech", aliases=("Ilse",)
)


def allowed(text: str) -> bool:
    """Whether an edit takes the text."""
    try:
        checked("text", text)
    except EditError:
        return False
    return bool(text.strip())


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(allowed)
probes = st.builds(Probe, texts, st.lists(texts, max_size=3).map(tuple), st.sampled_from(["", "reasoning"]))
edits = st.builds(
    Edit,
    texts,
    texts,
    st.one_of(st.just(""), texts),
    st.one_of(st.none(), texts),
    st.lists(texts, max_size=2).map(tuple),
)
probe_lists = st.lists(probes, max_size=2).map(tuple)
tags = st.dictionaries(texts, texts, max_size=2)
cases = st.builds(Case, texts, edits, probe_lists, probe_lists, probe_lists, tags)


# --- what an edit is -------------------------------------------------------------------------------------------------


def test_statement_is_prompt_then_answer() -> None:
    assert EDIT.statement == "The mother tongue of Ilse Marek is Danish"


def test_with_id_changes_the_id_alone() -> None:
    named = EDIT.with_id("e1")
    assert named.id == "e1" and EDIT.id is None
    assert named.with_id("") == Edit(**{**vars(EDIT), "id": ""})


def test_an_edit_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EDIT.prompt = "another"  # type: ignore[misc]


def test_text_is_kept_in_nfc() -> None:
    decomposed = unicodedata.normalize("NFD", "Besançon")
    assert Edit(f"{decomposed} is in", decomposed, aliases=[decomposed]).aliases == ("Besançon",)
    assert Edit(f"{decomposed} is in", "x").prompt == "Besançon is in"


@given(texts)
def test_a_checked_text_passes_unchanged_the_second_time(text: str) -> None:
    assert checked("prompt", checked("prompt", text)) == checked("prompt", text)


def test_line_breaks_and_tabs_are_ordinary() -> None:
    assert checked("prompt", "two\nlines\tand a tab") == "two\nlines\tand a tab"


# --- what is refused -------------------------------------------------------------------------------------------------

CONTROL_TOKENS = [
    "<|eot_id|>", "<|im_start|>", "<|endoftext|>", "<|begin_of_text|>", "<｜end▁of▁sentence｜>",
    "<s>", "</s>", "<pad>", "<unk>", "<bos>", "<EOS>", "<start_of_turn>", "<end_of_turn>",
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[AVAILABLE_TOOLS]", "[/TOOL_CALLS]", "[TOOL_RESULTS]",
    "[Updated Information]", "[updated information]", "[Question]", "[Query]",
]  # fmt: skip
FIELDS = ["prompt", "target_new", "subject", "target_true", "aliases"]


def edit_with(name: str, text: str) -> Edit:
    return Edit(**{"prompt": "Ilse Marek speaks", "target_new": "Danish", name: (text,) if name == "aliases" else text})


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_control_tokens_are_refused_in_every_field(name: str, token: str) -> None:
    with pytest.raises(EditError) as error:
        edit_with(name, f"Danish {token} and more")
    assert str(error.value).startswith(f"{name}: holds the control token") and token in str(error.value)


@pytest.mark.parametrize(
    "text", ["a < b | c > d", "<i>", "[1]", "x <= y", "f(x) -> y", "S. <Sp.>", "| a | b |", "<||>"]
)
def test_ordinary_angle_brackets_are_taken(text: str) -> None:
    assert edit_with("target_new", text).target_new == text


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("char", [*sorted(UNSEEN), "\x00", "\x1b", "\x7f", "\x85", "\r", "\ud800"], ids=ascii)
def test_unseen_characters_are_refused_by_name(name: str, char: str) -> None:
    with pytest.raises(EditError, match=rf"{name}: holds the unseen character U\+{ord(char):04X}"):
        edit_with(name, f"Da{char}nish")


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_over_the_limit_is_refused_and_at_the_limit_taken(name: str) -> None:
    edit_with(name, "é" * (MAX_BYTES // 2))
    with pytest.raises(EditError, match=rf"{name}: {MAX_BYTES + 2} bytes.*at most {MAX_BYTES}.*split"):
        edit_with(name, "é" * (MAX_BYTES // 2 + 1))


@pytest.mark.parametrize("name", ["prompt", "target_new"])
@pytest.mark.parametrize("empty", ["", "  ", "\n\t", None, 5])
def test_an_empty_edit_is_refused(name: str, empty: object) -> None:
    with pytest.raises(EditError, match=f"{name}: empty"):
        edit_from({"prompt": "Ilse Marek speaks", "target_new": "Danish", name: empty})


@pytest.mark.parametrize("aliases", ["Ilse", 5, None, {"a": 1}])
def test_aliases_are_a_list_never_letters_of_a_word(aliases: object) -> None:
    with pytest.raises(EditError, match="aliases: expected a list of names"):
        edit_from({"prompt": "p", "target_new": "t", "aliases": aliases})


@pytest.mark.parametrize("row", [{"subject": 5}, {"subject": None}, {"target_true": ["Czech"]}, {"aliases": [5]}])
def test_a_field_that_is_no_text_is_refused_with_what_came(row: dict[str, object]) -> None:
    [(name, value)] = row.items()
    with pytest.raises(EditError, match=f"{name}: expected text, got"):
        edit_from({"prompt": "p", "target_new": "t", name: value})


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(EditError, match="target: no such field; an edit has aliases, id, prompt, subject"):
        edit_from({"prompt": "p", "target": "t"})
    with pytest.raises(EditError, match="target_new: missing"):
        edit_from({"prompt": "p"})


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"id": "1"},
        {"id": "1", "edit": 5},
        {"id": "1", "edit": {"prompt": "p", "target_new": "t"}, "locality": [{"question": "q"}]},
        {"id": "1", "edit": {"prompt": "p", "target_new": "t"}, "locality": 3},
        {"id": "1", "edit": {"prompt": "p", "target_new": "t"}, "locality": ["q"]},
        {"id": "1", "edit": {"prompt": "p", "target_new": ""}},
    ],
)
def test_what_is_not_a_case_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(EditError):
        case_from(row)


# --- files -----------------------------------------------------------------------------------------------------------


@given(edits)
def test_an_edit_survives_its_row(edit: Edit) -> None:
    assert edit_from(json.loads(json.dumps(row_of(edit)))) == edit


@given(cases)
def test_a_case_survives_its_row(case: Case) -> None:
    assert case_from(json.loads(json.dumps(row_of(case)))) == case


@given(st.lists(edits, max_size=4), st.lists(cases, max_size=3))
def test_files_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, some_edits: list[Edit], some_cases: list[Case]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    write_jsonl(folder / "edits.jsonl", some_edits)
    write_jsonl(folder / "cases.jsonl", some_cases)
    assert read_edits(folder / "edits.jsonl") == some_edits
    assert read_cases(folder / "cases.jsonl") == some_cases


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    edit = Edit("The motto of Vemmel\u2028in one line is", "Onward")
    write_jsonl(tmp_path / "edits.jsonl", [edit, EDIT])
    assert read_edits(tmp_path / "edits.jsonl") == [edit, EDIT]


def test_rows_leave_out_what_is_empty_and_keep_letters_readable(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "edits.jsonl", [Edit("Besançon lies in", "Ulm")])
    text = (tmp_path / "edits.jsonl").read_text(encoding="utf-8")
    assert text == '{"prompt": "Besançon lies in", "target_new": "Ulm"}\n'


def test_blank_lines_and_windows_line_ends_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b'\r\n{"prompt": "p", "target_new": "t"}\r\n\n')
    assert read_edits(path) == [Edit("p", "t")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "list; wanted a JSON object"),
        ('{"prompt": "p"}', "target_new: missing"),
        ('{"prompt": "p", "target_new": "t <|eot_id|>"}', "target_new: holds the control token"),
        ('{"prompt": "p", "target_new": "t", "colour": 1}', "colour: no such field"),
    ],
)
def test_an_unreadable_line_is_named_by_file_and_number(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text('{"prompt": "p", "target_new": "t"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(EditError) as error:
        read_edits(path)
    assert str(error.value).startswith(f"{path}:3: ") and complaint in str(error.value)


def test_an_unreadable_case_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"id": "1"}\n', encoding="utf-8")
    with pytest.raises(EditError, match=r"cases\.jsonl:1: not a case"):
        read_cases(path)


def test_a_file_that_cannot_be_read_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"missing\.jsonl: cannot be read .*wanted a UTF-8 file"):
        read_edits(tmp_path / "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(EditError, match=r"latin\.jsonl: cannot be read"):
        read_edits(tmp_path / "latin.jsonl")
