"""Where edits go in a conversation, and that nothing else moves."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lte.prompt import with_edits
from lte.serve.augment import augment, last_user, text_of

words = st.text(max_size=20)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": words}), max_size=3)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.one_of(words, parts, st.none())}
    ),
    max_size=6,
)


@given(turns)
def test_without_an_edit_the_messages_are_the_same_object(messages: list[dict[str, Any]]) -> None:
    assert augment(messages, []) is messages


@given(turns, st.lists(words, min_size=1, max_size=3))
def test_edits_stand_in_front_of_the_last_users_words_and_nothing_else_changes(
    messages: list[dict[str, Any]], statements: list[str]
) -> None:
    before = [dict(m) for m in messages]
    after = augment(messages, statements)
    assert messages == before  # the client's own are not written to
    at = last_user(messages)
    if at is None:
        assert after is messages
        return
    assert [m for i, m in enumerate(after) if i != at] == [m for i, m in enumerate(messages) if i != at]
    assert {**after[at], "content": None} == {**messages[at], "content": None}
    assert text_of(after[at]["content"]) == with_edits(statements, text_of(messages[at]["content"]))
