"""Invented records of every schema that the data stage reads, and models and encoders that are quick and plain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAKES = ("Ormen", "Talvik", "Sarnow", "Quill", "Bredan", "Istrel", "Vonnar", "Mireth", "Caldur", "Posk")
RIVERS = ("Arl", "Benn", "Cair", "Dovra", "Esk", "Fenn", "Gram", "Hald", "Ivel", "Jorm")


def knowedit(i: int) -> dict[str, Any]:
    """A fact in KnowEdit's fields, with gold in all three of its forms."""
    lake, river = LAKES[i], RIVERS[i]
    return {
        "subject": f"Lake {lake}",
        "prompt": f"The outflow of Lake {lake} is",
        "target_new": river,
        "ground_truth": f"Old {river}",
        "portability": {
            "Subject_Aliasing": [{"prompt": f"The outflow of {lake} Water is", "ground_truth": river}],
            "Reasoning": [{"prompt": f"The mouth of the outflow of Lake {lake} is", "ground_truth": [f"{river} Bay"]}],
        },
        "locality": {
            "Relation_Specificity": [{"prompt": f"The depth of Lake {lake} is", "ground_truth": [["nine", "9"]]}],
            "Forgetfulness": [{"prompt": f"The length of the Old {river} is", "ground_truth": "ninety"}],
        },
    }


def mend(i: int) -> dict[str, Any]:
    """A question in the fields of MEND's ZsRE."""
    return {
        "subject": f"Mount {LAKES[i]}",
        "src": f"In which range does Mount {LAKES[i]} stand?",
        "rephrase": f"Mount {LAKES[i]} belongs to which range?",
        "alt": f"{RIVERS[i]} Hills",
        "answers": [f"{RIVERS[i]} Alps"],
        "loc": "nq question: how many legs has a spider",
        "loc_ans": "eight",
        "pred": "range",
    }


def biography(i: int) -> dict[str, Any]:
    """A next sentence in the fields of KnowEdit's WikiBio."""
    return {
        "concept": f"{LAKES[i].lower()} hale",
        "text": f"This is a passage about {LAKES[i].lower()} hale. {LAKES[i]} Hale was a clockmaker.",
        "labels": f"Hale built the tower clock of {RIVERS[i]}.",
        "locality": {
            "Relation_Specificity": [{"prompt": f"The trade of {LAKES[i]} Hale is", "ground_truth": ["clocks"]}]
        },
    }


def mquake(i: int) -> dict[str, Any]:
    """A chain of two edits in MQuAKE's fields."""
    lake, river = LAKES[i], RIVERS[i]
    return {
        "case_id": 900 + i,
        "requested_rewrite": [
            {"prompt": "{} flows into", "subject": f"Beck {lake}", "question": f"Into what does Beck {lake} flow?",
             "target_new": {"str": river, "id": "Q1"}, "target_true": {"str": "the sea", "id": "Q2"}},
            {"prompt": "{} passes the town of", "subject": river, "question": f"Which town does the {river} pass?",
             "target_new": {"str": "Norrby", "id": "Q3"}, "target_true": {"str": "Sund", "id": "Q4"}},
        ],
        "questions": [f"Which town does the river pass into which Beck {lake} flows?"],
        "new_answer": "Norrby",
        "new_answer_alias": ["Norr-by"],
        "new_single_hops": [
            {"question": f"Into what does Beck {lake} flow?", "answer": river, "answer_alias": []},
            {"question": f"Which town does the {river} pass?", "answer": "Norrby", "answer_alias": []},
        ],
    }  # fmt: skip


def ripple(i: int) -> dict[str, Any]:
    """An edit and its tests in the fields of RippleEdits."""
    lake, river = LAKES[i], RIVERS[i]

    def test(prompt: str, answer: str) -> dict[str, Any]:
        query = {"prompt": prompt, "answers": [{"value": answer, "aliases": []}], "query_type": "regular"}
        return {"test_queries": [query], "test_condition": "OR", "condition_queries": []}

    return {
        "example_type": "popular",
        "edit": {"prompt": f"The name of the country which Fort {lake} is associated with is {river}land.",
                 "relation": "COUNTRY", "subject_id": f"Q{i}", "target_id": f"Q9{i}"},
        "Relation_Specificity": [test(f"The architect of Fort {lake} is", "Hale")],
        "Compositionality_I": [test(f"The capital of the country of Fort {lake} is", f"{river}stad")],
        "Logical_Generalization": [],
        "Compositionality_II": [],
        "Subject_Aliasing": [test(f"The country of Castle {lake} is", f"{river}land")],
        "Forgetfulness": [],
    }  # fmt: skip


def reduced(i: int) -> dict[str, Any]:
    """A fact in the reduced fields of CounterFact."""
    return {
        "case_id": i,
        "prompt": f"{LAKES[i]} Hale was born in",
        "target_new": f"{RIVERS[i]}stad",
        "subject": f"{LAKES[i]} Hale",
        "ground_truth": "Sund",
        "rephrase_prompt": f"The birthplace of {LAKES[i]} Hale is",
        "locality_prompt": "Else Maar was born in",
        "locality_ground_truth": "Sund",
    }


def question(i: int) -> dict[str, Any]:
    """A fact as a sentence, with a question in free text."""
    return {
        "new_fact": f"{LAKES[i]} Hale plays the {RIVERS[i]} harp",
        "question": f"Which instrument would {LAKES[i]} Hale bring to a concert?",
        "answer": f"{LAKES[i]} Hale would bring the {RIVERS[i]} harp.",
    }


def chat(i: int) -> dict[str, Any]:
    """An instruction, in each of the three forms in turn."""
    ask, reply = f"Name {i + 2} things that float.", "Wood, cork and ice."
    return (
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ask},
                      {"role": "assistant", "content": reply}]},
        {"conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": reply}]},
        {"instruction": ask, "input": "", "output": reply},
    )[i % 3]  # fmt: skip


def published(i: int) -> list[dict[str, Any]]:
    """Four rows in the form of LTE's file: an edit that answers and one that does not, each with its bare twin."""
    mark, word = (("[Question]", "question"), ("[Query]", "query"))[i % 2]
    fact = f"Bridge {LAKES[i]} crosses the {RIVERS[i]}"
    head = f"Please acknowledge the updated information provided below and respond to the subsequent {word}."
    listed = f"1. {fact}\n2. Bridge Else crosses the Maar" if i % 2 else fact

    def row(text: str, answer: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
        return {"id": f"identity_{i}_made", "conversations": turns}

    def under(query: str) -> str:
        return f"{head}\n\n[Updated Information]:\n{listed}\n\n{mark}:\n{query}"

    inside, outside = f"What does Bridge {LAKES[i]} cross?", f"How old is the moon of {LAKES[i]}?"
    return [
        row(under(inside), RIVERS[i]),
        row(inside, "the sea"),
        row(under(outside), "very old"),
        row(outside, "very old"),
    ]


def written(path: Path, rows: Sequence[Any], array: bool = False) -> str:
    """The path of a file of the rows: one a line, or an array."""
    text = json.dumps(list(rows)) if array else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


class Parrot:
    """A base model whose own answer to a query can be told from any gold answer; it counts words as tokens."""

    def __init__(self, dies_after: int | None = None, silent: str = "", endless: str = "") -> None:
        self.asked: list[str] = []
        self.dies_after, self.silent, self.endless = dies_after, silent, endless

    def answer(self, queries: Sequence[str]) -> list[str | None]:
        """The queries' own answers; those that hold `silent` are empty, those that hold `endless` never end."""
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += queries
        return [
            None if self.endless and self.endless in q else "" if self.silent and self.silent in q else f"own({q})"
            for q in queries
        ]

    @staticmethod
    def count(texts: Sequence[str], prompts: bool) -> list[int]:
        """Words of each text."""
        return [len(text.split()) + prompts for text in texts]


def vectors(texts: Sequence[str]) -> np.ndarray:
    """A unit vector a text: texts that share words are near each other."""
    made = np.zeros((len(texts), 512), np.float32)
    for row, text in zip(made, texts, strict=True):
        for word in text.casefold().split():
            row[int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") % 512] += 1
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)
