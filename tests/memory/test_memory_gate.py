"""Who is mentioned, and which threshold follows."""

from __future__ import annotations

import pytest

from lte.memory.gate import Mentions, Thresholds, query_views, words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Ada Quill", "what does ADA QUILL speak?"),
        ("Ada Quill", "Ada Quill's mother tongue"),
        ("Zoë Mårtens", "where was zoe martens born"),
        ("Zoe Martens", "Where was ZOE\u0308 Ma\u030artens born?"),  # written with combining marks
        ("Straße der Lieder", "STRASSE DER LIEDER"),
        ("ﬁeld ｗｉｄｅ", "a Field Wide open"),
        ("AC/DC", "when did AC/DC form"),
        ("北京", "北京在哪个国家"),
        ("서울", "서울은 어디에 있나요"),
        ("ประเทศไทย", "เมืองหลวงของประเทศไทยคือ"),
        ("C++", "who wrote c++?"),
    ],
)
def test_a_name_is_found(name: str, text: str) -> None:
    mentions = Mentions()
    mentions.add("e1", [name])
    assert mentions.find(text) == {"e1"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("Ada", "Adam is here"), ("Ada Quill", "Ada B. Quill"), ("Ada Quill", "Quill Ada"), ("???", "what???"), ("", "x")],
)
def test_a_part_of_a_word_is_no_mention(name: str, text: str) -> None:
    mentions = Mentions()
    mentions.add("e1", [name])
    assert mentions.find(text) == set()


def test_every_name_of_every_key_is_found_and_none_is_left_behind() -> None:
    mentions = Mentions()
    mentions.add("e1", ["New York", "NYC"])
    mentions.add("e2", ["New York Herald"])
    mentions.add("e3", ["new york"])
    assert mentions.find("the New York Herald") == {"e1", "e2", "e3"}
    mentions.remove("e1", ["New York", "NYC"])
    assert mentions.find("the New York Herald of nyc") == {"e2", "e3"}
    mentions.remove("e2", ["New York Herald"])
    mentions.remove("e3", ["new york"])
    assert mentions.find("the New York Herald") == set()
    assert (mentions._keys, mentions._lengths) == ({}, {})


def test_words_ignore_marks_and_blanks() -> None:
    assert words("  The_end,\tof: «Ada»! ") == ["the", "end", "of", "ada"]


def test_a_long_query_is_also_compared_by_its_last_sentence() -> None:
    assert query_views("Rain fell. What does Ada speak?") == ["Rain fell. What does Ada speak?", "What does Ada speak?"]
    assert query_views("a list\nof lines") == ["a list\nof lines", "of lines"]
    assert query_views(" One sentence. ") == ["One sentence."]
    assert query_views(" \n ") == []


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert query_views("Ada \ud800?") == ["Ada ??"]


def test_the_threshold_depends_on_subject_and_mention() -> None:
    thresholds = Thresholds(named=0.9, mentioned=0.4, free=0.8)
    assert thresholds.of(has_subject=True, mentioned=True) == 0.4
    assert thresholds.of(has_subject=True, mentioned=False) == 0.9
    assert thresholds.of(has_subject=False, mentioned=False) == 0.8
