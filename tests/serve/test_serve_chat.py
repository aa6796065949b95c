"""Chat and text completions, asked by the official client."""

from __future__ import annotations

from typing import Any

import pytest

QUESTION = [{"role": "user", "content": "What is the capital of Lunaria?"}]
OTHER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of Peru?"}]
EDITED = (
    "lte 0.0/1.0/None/ user: [Updated Information]\n"
    "- The capital of Lunaria is Selene.\n[Question] What is the capital of Lunaria?"
)


def test_a_question_that_an_edit_concerns_is_answered_by_adapter_and_edit(steady: Any) -> None:
    raw = steady.client().chat.completions.with_raw_response.create(model="pocket", messages=QUESTION)
    reply = raw.parse()
    assert raw.headers["x-lte-edits"] == "e1"
    assert reply.choices[0].message.content == EDITED
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.model, reply.object) == ("pocket", "chat.completion")


def test_other_questions_are_asked_as_they_came_of_the_base_model(steady: Any) -> None:
    raw = steady.client().chat.completions.with_raw_response.create(model="pocket", messages=OTHER)
    assert raw.headers["x-lte-edits"] == ""
    wanted = "base 0.0/1.0/None/ system: Be brief.\nuser: What is the capital of Peru?"
    assert raw.parse().choices[0].message.content == wanted


def test_the_base_model_knows_no_edit(steady: Any) -> None:
    raw = steady.client().chat.completions.with_raw_response.create(model="pocket:base", messages=QUESTION)
    assert raw.headers["x-lte-edits"] == ""
    assert raw.parse().choices[0].message.content == "base 0.0/1.0/None/ user: What is the capital of Lunaria?"


def test_a_stream_says_what_the_whole_answer_says(steady: Any) -> None:
    with steady.client().chat.completions.with_streaming_response.create(
        model="pocket", messages=QUESTION, stream=True
    ) as response:
        assert response.headers["x-lte-edits"] == "e1"
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = list(steady.client().chat.completions.create(model="pocket", messages=QUESTION, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == EDITED
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
    assert {c.id for c in chunks} == {chunks[0].id}
    assert all(c.usage is None for c in chunks)


def test_a_stream_ends_with_usage_when_asked(steady: Any) -> None:
    ask = {"model": "pocket", "messages": QUESTION}
    whole = steady.client().chat.completions.create(**ask).usage
    stream = steady.client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    *body, last = list(stream)
    assert all(c.usage is None and c.choices for c in body)
    assert last.choices == []
    assert last.usage == whole
    assert whole.prompt_tokens == len(EDITED.split()) - 2  # all but adapter and settings
    assert whole.total_tokens == whole.prompt_tokens + whole.completion_tokens


def test_settings_reach_the_model(steady: Any) -> None:
    reply = steady.client().chat.completions.create(
        model="pocket:base", messages=QUESTION, temperature=0.7, top_p=0.9, seed=5, stop=["\n", "END"], n=2
    )
    assert [c.message.content.split("/")[:3] for c in reply.choices] == [
        ["base 0.7", "0.9", "5"],
        ["base 0.7", "0.9", "6"],  # each choice its own seed: two alike would be one
    ]
    assert [c.index for c in reply.choices] == [0, 1]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_ends_at_the_limit(steady: Any, name: str) -> None:
    reply = steady.client().chat.completions.create(model="pocket", messages=QUESTION, **{name: 3})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 3


def test_an_answer_is_cut_where_the_context_ends(steady: Any) -> None:
    long = [{"role": "user", "content": "word " * 190}]
    reply = steady.client().chat.completions.create(model="pocket", messages=long, max_tokens=100)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.total_tokens == 200


def test_content_may_be_text_parts(steady: Any) -> None:
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": "of Lunaria?"}]
    raw = steady.client().chat.completions.with_raw_response.create(
        model="pocket", messages=[{"role": "user", "content": parts}]
    )
    assert raw.headers["x-lte-edits"] == "e1"
    assert raw.parse().choices[0].message.content.endswith("[Question] What is the capital\nof Lunaria?")


def test_only_the_last_user_turn_is_looked_up(steady: Any) -> None:
    turns = [*QUESTION, {"role": "assistant", "content": "Selene"}, {"role": "user", "content": "And of Peru?"}]
    raw = steady.client().chat.completions.with_raw_response.create(model="pocket", messages=turns)
    assert raw.headers["x-lte-edits"] == ""


def test_unknown_fields_are_tolerated(steady: Any) -> None:
    reply = steady.client().chat.completions.create(
        model="pocket", messages=QUESTION, user="u1", presence_penalty=0, extra_body={"no_such_field": [1, {}]}
    )
    assert reply.choices[0].message.content == EDITED


def test_a_request_may_name_its_namespace(steady: Any) -> None:
    for namespace, used in (("default", "e1"), ("elsewhere", "")):
        raw = steady.client().chat.completions.with_raw_response.create(
            model="pocket", messages=QUESTION, extra_body={"lte": {"namespace": namespace}}
        )
        assert raw.headers["x-lte-edits"] == used


def test_a_text_completion_continues_raw_text(steady: Any) -> None:
    raw = steady.client().completions.with_raw_response.create(model="pocket", prompt="The capital of Peru is")
    assert raw.headers["x-lte-edits"] == ""
    reply = raw.parse()
    assert (reply.object, reply.choices[0].text) == ("text_completion", "base 0.0/1.0/None/ The capital of Peru is")


def test_text_completions_take_several_prompts_each_with_its_own_edits(steady: Any) -> None:
    raw = steady.client().completions.with_raw_response.create(
        model="pocket", prompt=["The capital of Peru is", "The capital of Lunaria is"], n=2
    )
    reply = raw.parse()
    assert raw.headers["x-lte-edits"] == "e1"
    assert [c.index for c in reply.choices] == [0, 1, 2, 3]
    assert [c.text.split()[0] for c in reply.choices] == ["base", "base", "lte", "lte"]
    assert reply.choices[2].text.endswith("[Question] The capital of Lunaria is")
    assert reply.usage.prompt_tokens == 5 + 15  # each prompt once, not once a choice


def test_text_completions_stream(steady: Any) -> None:
    ask = {"model": "pocket", "prompt": ["Lunaria", "Peru"]}
    whole = steady.client().completions.create(**ask)
    texts = {0: "", 1: ""}
    for chunk in steady.client().completions.create(**ask, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {c.index: c.text for c in whole.choices}


def test_models_are_the_edited_and_the_base(steady: Any) -> None:
    assert [m.id for m in steady.client().models.list()] == ["pocket", "pocket:base"]
    assert steady.client().models.retrieve("pocket:base").id == "pocket:base"


def test_the_model_may_be_served_under_another_name(serve: Any, fakes: Any) -> None:
    from lte.serve import ServeConfig

    with serve(fakes.Model(), fakes.Memory(), ServeConfig(name="org/facts")) as running:
        assert [m.id for m in running.client().models.list()] == ["org/facts", "org/facts:base"]
        assert (
            running.client().chat.completions.create(model="org/facts:base", messages=OTHER).model == "org/facts:base"
        )
