"""Spans come from offsets of one tokenisation of the whole text, whatever the tokenizer and the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kit import tiny_llama
from tiny_tokenizers import gpt2_like, llama2_like, llama3_like
from transformers import PreTrainedTokenizerFast

from lte.models import LM, ModelError
from lte.models.tokens import encode, last_mention
from lte.pocket.build import build_tokenizer

TOKENIZERS = {
    "pocket": build_tokenizer(["The capital of France is Lyon. It isn't known, they say."] * 3, vocab_size=360),
    "gpt2": gpt2_like(),
    "llama2": llama2_like(),
    "llama3": llama3_like(),
}
LMS = {n: LM.of(tiny_llama(t), t, chat=False) for n, t in TOKENIZERS.items()}
CHATS = {n: LM.of(LMS[n].model, t) for n, t in TOKENIZERS.items() if t.chat_template}
FEW = settings(max_examples=40, deadline=None)
names = st.sampled_from(sorted(TOKENIZERS))
chats = st.sampled_from(sorted(CHATS))
# assigned characters that survive as they are: no controls, no lone surrogates, no marks the templates own
words = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Cn"), blacklist_characters="<>|[]"), max_size=12)
texts = st.one_of(
    words,
    st.lists(st.sampled_from(["{}", "{0}", "1984", "'s", "é", "漢字", "🙂", "Paris", ",", "%s"]), max_size=5).map(
        " ".join
    ),
)
subjects = st.one_of(
    st.sampled_from(["Danielle Darrieux", "{subject}", "É", "東京", "42", "C++", "(.*)", "🙂"]),
    words.map(str.strip).filter(bool),
)


def covered(tokenizer: PreTrainedTokenizerFast, text: str, start: int, end: int) -> str:
    [encoded] = encode(tokenizer, [text])
    i, j = encoded.span(start, end)
    return text[encoded.offsets[i][0] : encoded.offsets[j - 1][1]]


@FEW
@given(names, texts, subjects, texts)
def test_b5_the_span_holds_the_subject_and_ends_in_the_token_of_its_last_character(
    name: str, before: str, subject: str, after: str
) -> None:
    text = f"{before} {subject} {after}"
    start, end = last_mention(text, subject)
    assert text[start:end] == subject
    [encoded] = encode(TOKENIZERS[name], [text])
    i, j = encoded.span(start, end)
    assert encoded.offsets[i][0] <= start or text[start : encoded.offsets[i][0]].isspace()
    assert encoded.offsets[j - 1][0] < end <= encoded.offsets[j - 1][1]
    assert all(a >= end for a, b in encoded.offsets[j:] if b > a)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "text",
    ["Danielle Darrieux speaks French", "It was said by Danielle Darrieux", "the tongue of Danielle Darrieux is"],
)
def test_b5_the_tokens_up_to_the_span_s_end_decode_to_the_text_up_to_the_subject_s_end(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    start, end = last_mention(text, "Danielle Darrieux")
    [encoded] = encode(tokenizer, [text])
    i, j = encoded.span(start, end)
    assert tokenizer.decode(encoded.ids[:j], skip_special_tokens=True) == text[:end]
    assert tokenizer.decode(encoded.ids[i:j]).strip() == "Danielle Darrieux"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_b5_a_last_token_that_merges_with_what_follows_belongs_to_the_subject(name: str) -> None:
    text = "he is known as Franc"
    start, end = last_mention(text, "know")  # "known" may be one token
    assert covered(TOKENIZERS[name], text, start, end).strip().startswith("know")


@pytest.mark.parametrize(
    ("text", "subject", "start"),
    [
        ("Paris and Paris again", "Paris", 10),  # the last of two
        ("Paris, not the Parisian", "Paris", 0),  # a word before a part of a word
        ("he: Ed; place: edinburgh", "Ed", 4),
        ("about paris or the PARIS of PARISIANS", "Paris", 19),  # in another case
        ("Parisian", "Paris", 0),  # a part of a word where there is no more
        ("法国的首都", "法国", 0),  # no blanks between words
        ("use {} or {subject}", "{subject}", 10),  # braces are letters like others
        ("in C++ (.*)", "(.*)", 7),  # and so are the signs of regular expressions
        ("the STRASSE", "strasse", 4),
    ],
)
def test_b5_which_mention_is_meant_is_defined(text: str, subject: str, start: int) -> None:
    assert last_mention(text, subject) == (start, start + len(subject))


@pytest.mark.parametrize(("text", "subject"), [("of Paris", "Rome"), ("of Paris", ""), ("STRASSE", "straße")])
def test_a_subject_that_is_not_there_is_an_error(text: str, subject: str) -> None:
    with pytest.raises(ModelError, match="does not occur in"):
        last_mention(text, subject)


def test_a_mention_is_looked_for_from_the_start_on() -> None:
    assert last_mention("Rome; Paris; Rome", "Rome", 4) == (13, 17)
    with pytest.raises(ModelError, match="does not occur"):
        last_mention("Rome; Paris", "Rome", 4)


@FEW
@given(chats, texts)
def test_b7_a_chat_prompt_begins_with_bos_once(name: str, text: str) -> None:
    lm = CHATS[name]
    [encoded] = encode(lm.tokenizer, [lm.render(text)])
    assert encoded.ids[0] == lm.tokenizer.bos_token_id and encoded.ids.count(lm.tokenizer.bos_token_id) == 1


@FEW
@given(st.sampled_from(["pocket", "llama2"]), texts)
def test_b7_a_plain_prompt_begins_with_bos_once(name: str, text: str) -> None:
    bos = TOKENIZERS[name].bos_token_id
    for row in encode(TOKENIZERS[name], [text, f"{TOKENIZERS[name].bos_token}{text}"]):
        assert row.ids[0] == bos and row.ids.count(bos) == 1


def test_b7_a_tokenizer_that_starts_no_text_is_given_no_bos() -> None:
    assert TOKENIZERS["gpt2"].bos_token_id not in encode(TOKENIZERS["gpt2"], ["Paris is"])[0].ids


def test_an_empty_text_that_has_no_tokens_is_an_error() -> None:
    with pytest.raises(ModelError, match="an empty text"):
        encode(TOKENIZERS["gpt2"], ["Paris", ""])
    assert encode(TOKENIZERS["pocket"], [""])[0].ids == [TOKENIZERS["pocket"].bos_token_id]
    assert encode(TOKENIZERS["gpt2"], []) == []


@settings(max_examples=150, deadline=None)
@given(names, texts, texts.filter(str.strip))
def test_b4_the_target_s_tokens_are_those_of_the_whole_text(name: str, prompt: str, target: str) -> None:
    lm = LMS[name]
    text = f"Q{prompt}"
    seam = "" if text[-1:].isspace() else " "
    [encoded], [(i, j)] = lm.with_targets([text], [target])
    full = text + seam + target.strip()
    assert encoded.ids == lm.tokenizer(full)["input_ids"]
    assert 0 < i < j == len(encoded.ids)
    assert covered(lm.tokenizer, full, len(text), len(full)).strip().endswith(target.strip())
    assert all(b <= len(text) for _, b in encoded.offsets[:i])  # no token of the target is counted to the prompt


@pytest.mark.parametrize(
    ("name", "prompt", "target"),
    [(n, p, t) for n in TOKENIZERS for p in ("born in", "born in:", "He said") for t in ("1984", "'tis", "É", "Paris")],
)
def test_b4_the_target_decodes_to_itself(name: str, prompt: str, target: str) -> None:
    lm = LMS[name]
    [encoded], [(i, j)] = lm.with_targets([prompt], [target])
    assert lm.tokenizer.decode(encoded.ids[i:j]).strip() == target
    assert lm.tokenizer.decode(encoded.ids[:i], skip_special_tokens=True).strip() == prompt


@pytest.mark.parametrize("name", TOKENIZERS)
def test_b4_blanks_around_a_target_and_behind_a_prompt_change_nothing(name: str) -> None:
    lm = LMS[name]
    plain = lm.with_targets([lm.render("The capital is")], ["Paris"])
    for prompt, target in [("", " Paris"), (" ", "Paris"), ("  ", "Paris \n")]:
        prompt = f"The capital is{prompt}"
        assert lm.with_targets([lm.render(prompt)], [target]) == plain


def test_b4_a_target_merged_with_the_prompt_s_last_blank_is_counted_whole() -> None:
    lm = LMS["gpt2"]
    [encoded], [(i, j)] = lm.with_targets(["France is "], ["French"])
    assert lm.tokenizer.decode(encoded.ids[i:j]) == " French"


def test_b7_a_target_stands_where_the_template_puts_an_answer() -> None:
    """Llama-2 puts a blank between "[/INST]" and the answer; Llama-3 nothing behind its header's blank line."""
    for lm, seam in ((CHATS["llama2"], " "), (CHATS["pocket"], "")):
        turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Paris"}]
        whole = lm.tokenizer.apply_chat_template(turns, tokenize=False)
        text = lm.render("Who?")
        [encoded], [(i, j)] = lm.with_targets([text], ["Paris"])
        assert whole.startswith(f"{text}{seam}Paris")
        assert encoded.ids == lm.tokenizer(f"{text}{seam}Paris", add_special_tokens=False)["input_ids"]
        assert lm.tokenizer.decode(encoded.ids[i:j]).strip() == "Paris"


@pytest.mark.parametrize("target", ["", " ", "\n"])
def test_a_target_without_words_is_an_error(target: str) -> None:
    with pytest.raises(ModelError, match="an empty target behind 'Paris is'"):
        LMS["gpt2"].with_targets(["Paris is"], [target])


def test_a_target_that_nothing_stands_before_is_an_error() -> None:
    with pytest.raises(ModelError, match="give a prompt that is not empty"):
        LMS["gpt2"].with_targets([""], ["Paris"])


def test_a_tokenizer_without_offsets_is_an_error() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow gives no character offsets; load a fast tokenizer"):
        encode(Slow(), ["Paris"])  # type: ignore[arg-type]
