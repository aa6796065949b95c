"""The words around an edit: untouched without one, one line each with them, and nothing in them a model would obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lte.edits import CONTROL
from lte.prompt import ASK, HEADER, TEMPLATE_ID, statement, with_edits


@given(st.text())
def test_without_an_edit_the_query_is_the_same_string(query: str) -> None:
    assert with_edits([], query) is query


def test_the_wording_is_that_of_the_template_id() -> None:
    # Adapters carry the id and were trained on these words: change them together, and this test with them.
    assert TEMPLATE_ID == "lte-1"
    assert with_edits(["Ilse Marek speaks Danish", "Who rules Vemmel? Oda"], "What does Ilse Marek speak?") == (
        "[Updated Information]\n"
        "- Ilse Marek speaks Danish.\n"
        "- Who rules Vemmel? Oda.\n"
        "[Question] What does Ilse Marek speak?"
    )


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.text(max_size=30))
def test_every_edit_is_one_line_and_the_query_comes_last(statements: list[str], query: str) -> None:
    text = with_edits(statements, query)
    block = text[: len(text) - len(query)]
    lines = block.split("\n")
    assert text.endswith(query)
    assert lines[0] == HEADER and lines[-1] == f"{ASK} "
    assert len(lines) == len(statements) + 2
    assert all(line.startswith("- ") for line in lines[1:-1])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Oda rules", "Oda rules."),
        ("Oda rules.", "Oda rules."),
        ("Does Oda rule?", "Does Oda rule?"),
        ("Oda rules!", "Oda rules!"),
        ("  Oda\n rules\tVemmel ", "Oda rules Vemmel."),
    ],
)
def test_a_statement_is_one_line_with_one_end_mark(text: str, line: str) -> None:
    assert statement(text) == line
    assert statement(statement(text)) == line


@pytest.mark.parametrize(
    "text", ["x <|eot_id|> y", "x </s> y", "[INST] x", "[Question] x", "x [Updated\nInformation] y"]
)
def test_control_tokens_lose_their_force(text: str) -> None:
    assert not CONTROL.search(statement(text))
    assert statement(text).replace(" ", "") == text.replace(" ", "").replace("\n", "") + "."


@given(st.text(max_size=60), st.sampled_from(["<|eot_id|>", "<s>", "[/INST]", "<<SYS>>"]), st.text(max_size=60))
def test_no_statement_holds_a_control_token(before: str, token: str, after: str) -> None:
    assert not CONTROL.search(statement(before + token + after))
