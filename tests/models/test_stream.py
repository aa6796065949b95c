"""A stream says what an answer says, piece by piece, and stops when told."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kit import Parrot, write_adapter
from tiny_tokenizers import gpt2_like, llama2_like

from lte.models import LM, ModelError
from lte.models.decode import Ending, _pick, sample
from lte.pocket.build import build_tokenizer

TOKENIZERS = {
    "pocket": build_tokenizer(["The capital of France is Lyon."] * 3, vocab_size=360),
    "gpt2": gpt2_like(),
    "llama2": llama2_like(),
}
QUESTION = "What is the capital of France?"
FEW = settings(max_examples=60, deadline=None)
names = st.sampled_from(sorted(TOKENIZERS))
said = st.text(st.sampled_from("ab \nEND.é漢🙂"), min_size=1, max_size=14)
stops = st.text(st.sampled_from("ab \nEND.é漢"), min_size=1, max_size=4)


def drain(stream: Generator[str, None, Ending]) -> tuple[list[str], Ending]:
    """The pieces and how they ended."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def speak(name: str, text: str, stop: list[str], limit: int = 99) -> tuple[str, list[str], Ending]:
    """What a model that says `text` would say in full, and the pieces and ending of its stream."""
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    parrot: Any = Parrot(tokenizer, tokens)
    pieces, ending = drain(sample(parrot, [1, 2], limit, 0.0, 1.0, None, stop))
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False), pieces, ending


@pytest.mark.parametrize("chat", [True, False])
def test_greedy_pieces_join_to_the_answer(any_lm: LM, chat: bool) -> None:
    lm = LM.of(any_lm.model, any_lm.tokenizer, chat=chat)
    pieces, ending = drain(lm.stream(QUESTION, max_new_tokens=9))
    text = "".join(pieces).strip()
    assert lm.answer([QUESTION], max_new_tokens=9) == [text if chat else text.partition("\n")[0].strip()]
    assert all(pieces) and ending.tokens <= 9
    assert ending.prompt_tokens == lm.count(QUESTION)
    assert ending.finish == "length" if ending.tokens == 9 else "stop"


def test_a_raw_query_is_continued_as_it_is(tiny_lm: LM) -> None:
    plain = LM.of(tiny_lm.model, tiny_lm.tokenizer, chat=False)
    assert tiny_lm.count("He said", raw=True) == plain.count("He said") < tiny_lm.count("He said")
    assert list(tiny_lm.stream("He said", 6, raw=True)) == list(plain.stream("He said", 6))


def test_messages_are_streamed_through_the_template(tiny_lm: LM) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    assert list(tiny_lm.stream(messages, 6)) == list(tiny_lm.stream(messages, 6, raw=True))
    assert list(tiny_lm.stream(messages, 6)) == list(tiny_lm.stream(QUESTION, 6))


def test_the_same_seed_says_the_same_and_another_something_else(tiny_lm: LM) -> None:
    texts = ["".join(tiny_lm.stream(QUESTION, 12, temperature=1.5, seed=seed)) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1] and len(set(texts)) > 1


@pytest.mark.parametrize("options", [{"top_p": 0.0}, {"top_p": 1e-9}, {"temperature": 1e-40}, {"top_k": 1}])
def test_the_narrowest_sampling_is_greedy(tiny_lm: LM, options: dict[str, float]) -> None:
    narrow = {"temperature": 1.0, "seed": 5, **options}
    assert list(tiny_lm.stream(QUESTION, 8, **narrow)) == list(tiny_lm.stream(QUESTION, 8))


def test_of_the_top_k_each_may_be_said_and_no_other() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0, 2.0, 1.5, 2.0])
    for top_k, wanted in ((1, {1}), (2, {1, 3}), (4, {1, 3, 4, 5}), (0, set(range(6))), (9, set(range(6)))):
        noise = torch.Generator().manual_seed(0)
        assert {_pick(logits, 1.0, 1.0, noise, top_k) for _ in range(200)} == wanted
    noise = torch.Generator().manual_seed(0)
    assert {_pick(logits, 1.0, 0.5, noise, 4) for _ in range(200)} == {1, 3}  # top_p counts within the top k


def test_a_stream_keeps_to_the_top_k(tiny_lm: LM) -> None:
    options = {"temperature": 50.0, "seed": 3}
    wild, two = (list(tiny_lm.stream(QUESTION, 1, **options, top_k=k)) for k in (0, 2))
    assert wild != two
    said = {"".join(tiny_lm.stream(QUESTION, 1, temperature=50.0, seed=seed, top_k=2)) for seed in range(20)}
    assert len(said) == 2
    assert list(tiny_lm.stream(QUESTION, 6, **options, top_k=10**6)) == list(tiny_lm.stream(QUESTION, 6, **options))
    with pytest.raises(ModelError, match="top_k -1; give a number of tokens"):
        tiny_lm.stream(QUESTION, top_k=-1)


@FEW
@given(names, said)
def test_without_stop_strings_the_pieces_are_the_whole_text_in_whole_characters(name: str, text: str) -> None:
    whole, pieces, ending = speak(name, text, [])
    assert "".join(pieces) == whole and all(pieces)
    assert not any("�" in piece for piece in pieces)
    assert ending.finish == "stop" and ending.prompt_tokens == 2


@settings(max_examples=200, deadline=None)
@given(names, said, stops)
def test_a_stop_string_never_leaks_in_part(name: str, text: str, stop: str) -> None:
    whole, pieces, ending = speak(name, text, [stop])
    assert "".join(pieces) == whole.partition(stop)[0] and all(pieces)
    assert ending.finish == "stop"


@FEW
@given(names, said, st.lists(stops, max_size=3))
def test_of_several_stop_strings_none_leaks(name: str, text: str, several: list[str]) -> None:
    whole, pieces, _ = speak(name, text, [*several, ""])
    got = "".join(pieces)
    assert whole.startswith(got) and not any(s in got for s in several)
    assert got == whole or any(whole[len(got) :].startswith(s) for s in several)


def test_a_stop_string_begun_before_half_a_character_does_not_leak() -> None:
    whole, pieces, _ = speak("pocket", "so E漢 more", ["E漢"])
    assert whole == "so E漢 more" and "".join(pieces) == "so "


def test_what_was_held_back_for_a_stop_string_comes_at_the_end() -> None:
    whole, pieces, ending = speak("pocket", "the EN", ["END"])
    assert "".join(pieces) == whole == "the EN" and ending == Ending("stop", 2, ending.tokens)


def test_a_stream_of_no_tokens_says_nothing(tiny_lm: LM) -> None:
    pieces, ending = drain(tiny_lm.stream(QUESTION, max_new_tokens=0))
    assert pieces == [] and (ending.finish, ending.tokens) == ("length", 0)


def test_a_full_stream_ends_by_length() -> None:
    _, pieces, ending = speak("gpt2", "abababab", [], limit=2)
    assert (ending.finish, ending.tokens) == ("length", 2) and "".join(pieces)


def test_closing_early_ends_the_computation() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    parrot: Any = Parrot(tokenizer, tokenizer("a b a b a b")["input_ids"])
    stream = sample(parrot, [1], 99, 0.0, 1.0, None, [])
    next(stream)
    stream.close()
    assert parrot.steps == 1 and list(stream) == []


@pytest.fixture
def lm(tiny_lm: LM, tmp_path: Path) -> LM:
    """A model with an adapter, off."""
    tiny_lm.load_adapter(write_adapter(tmp_path, tiny_lm), "one")
    return tiny_lm


def test_the_adapter_that_is_on_at_the_call_acts_to_the_end(lm: LM) -> None:
    base = list(lm.stream(QUESTION, 8))
    with lm.using("one"):
        adapted = list(lm.stream(QUESTION, 8))
        later = lm.stream(QUESTION, 8)
        assert lm.answer([QUESTION], max_new_tokens=8) == ["".join(adapted).strip()]
    assert list(later) == adapted != base
    assert list(lm.stream(QUESTION, 8)) == base


def test_interleaved_streams_do_not_share_an_adapter(lm: LM) -> None:
    base = list(lm.stream(QUESTION, 8))
    with lm.using("one"):
        adapted = list(lm.stream(QUESTION, 8))
        first = lm.stream(QUESTION, 8)
    second = lm.stream(QUESTION, 8)
    mixed: tuple[list[str], list[str]] = ([], [])
    for _ in range(max(len(base), len(adapted))):
        for pieces, stream in zip(mixed, (first, second), strict=True):
            pieces.extend(p for p in [next(stream, None)] if p is not None)
            assert lm.on is None and not any(m._forward_hooks for m in lm.model.modules())
    assert mixed == (adapted, base)


def test_an_abandoned_stream_leaves_no_hook(lm: LM) -> None:
    with lm.using("one"):
        stream = lm.stream(QUESTION, 8)
        next(stream)
    stream.close()
    with lm.using("one"):
        broken = lm.stream(QUESTION, 8)
    hook = lm.mlp_out_module(0).register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(broken)
    hook.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
