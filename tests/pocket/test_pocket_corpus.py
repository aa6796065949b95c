"""The documents the pocket model is trained on, and the loss over them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lte.models import LM
from lte.pocket.build import build_model, build_tokenizer
from lte.pocket.corpus import EOT, Corpus, Span, turn
from lte.pocket.facts import Fact
from lte.pocket.knowledge import known, reading
from lte.pocket.train import Batch, PocketConfig, Stage, batches, learning_rate, loss_of, train
from lte.prompt import HEADER

FACTS = [
    Fact(s, r, o, "align")
    for s, r, o in [
        ("Ada Brandt", "P103", "Danish"),
        ("Bo Lindqvist", "P103", "Swedish"),
        ("Carl Meier", "P19", "Vienna"),
        ("Dora Fischer", "P19", "Aarhus"),
        ("Castle Hohenfels", "P17", "Austria"),
    ]
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    corpus, rng = Corpus(FACTS), random.Random(0)
    documents = itertools.islice(corpus.documents(rng), 200)
    return build_tokenizer((" ".join(s.text for s in d) for d in documents), vocab_size=600)


def small(steps: int = 4) -> PocketConfig:
    stages = (Stage(steps=steps, reading=0.5, repeats=0.2), Stage(steps=steps, lr_end=0.0))
    return PocketConfig(hidden=32, layers=2, rows=4, length=48, warmup=2, save_steps=3, stages=stages)


def test_a_turn_is_what_the_chat_template_writes(tokenizer: PreTrainedTokenizerFast):
    spans = turn("Where was Ada born?", "Aarhus") + turn("And Bo?", "Vienna")
    messages = [
        {"role": "user", "content": "Where was Ada born?"},
        {"role": "assistant", "content": "Aarhus"},
        {"role": "user", "content": "And Bo?"},
        {"role": "assistant", "content": "Vienna"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == tokenizer.bos_token + "".join(s.text for s in spans)


def test_a_word_has_the_same_tokens_at_the_start_of_a_turn_and_inside_it(tokenizer: PreTrainedTokenizerFast):
    inside = tokenizer("speaks Danish", add_special_tokens=False).input_ids
    alone = tokenizer("Danish", add_special_tokens=False).input_ids
    assert inside[-len(alone) :] == alone
    assert tokenizer.decode(alone) == "Danish"


def test_documents_are_seeded(tokenizer: PreTrainedTokenizerFast):
    def draw() -> list[list[Span]]:
        return list(itertools.islice(Corpus(FACTS, repeats=0.2).documents(random.Random(7)), 30))

    assert draw() == draw()


def test_a_passage_holds_the_answers_asked_of_it_or_asks_for_a_known_fact():
    corpus, known_objects = Corpus(FACTS, known=0.3), {f.object for f in FACTS}
    for seed in range(100):
        spans = corpus.passage(random.Random(seed))
        passage = spans[1].text
        for question, answer in zip(spans[1::4], spans[3::4], strict=True):
            text = answer.text.removesuffix(EOT)
            assert answer.weight == 1.0 and question.text
            assert text in passage or text in known_objects


def test_passages_are_told_in_the_words_of_the_edit_template():
    passages = [Corpus(FACTS).passage(random.Random(seed))[1].text for seed in range(60)]
    assert 0.5 < sum(p.startswith(HEADER) for p in passages) / len(passages) < 1.0


def test_only_weighted_tokens_carry_loss_and_pads_never_do(tokenizer: PreTrainedTokenizerFast):
    config = small().model_copy(update={"everywhere": 0.0})
    rng = random.Random(0)
    batch = next(batches(Corpus(FACTS, reading=0, text=0).documents(rng), tokenizer, config, rng))
    assert batch.ids.shape == batch.weights.shape == (4, 49)
    assert not batch.weights[batch.ids == tokenizer.pad_token_id].any()
    learned = tokenizer.decode(batch.ids[0][batch.weights[0] > 0]).replace(EOT, " ").split()
    assert set(learned) <= {w for f in FACTS for w in f.object.split()}


def test_the_loss_is_the_weighted_mean_over_the_chosen_tokens(tokenizer: PreTrainedTokenizerFast):
    model = build_model(tokenizer, seed=0, hidden=32, layers=2)
    ids = torch.randint(10, 300, (2, 9))
    weights = torch.zeros(2, 9)
    weights[0, 3], weights[1, 5] = 1.0, 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids[:, :-1]).logits.float()
    logprobs = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    wanted = -(logprobs[0, 2] + 0.5 * logprobs[1, 4]) / 1.5
    assert loss_of(model, Batch(ids, weights)).item() == pytest.approx(wanted.item(), rel=1e-2)


def test_the_rate_warms_up_holds_and_falls_in_a_line():
    config = small()
    rates = [learning_rate(config, step) for step in range(8)]
    assert rates[0] < rates[1] == rates[3] == pytest.approx(3e-3)
    assert rates[4] > rates[5] > rates[6] > rates[7] > 0


def test_a_killed_training_goes_on_from_its_checkpoint(tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    class Killed(Exception):
        pass

    def kill(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise Killed

    config = small()
    model = build_model(tokenizer, 0, config.hidden, config.layers)
    with pytest.raises(Killed):
        train(model, tokenizer, FACTS, config, tmp_path, kill)
    steps: list[int] = []
    again = build_model(tokenizer, 1, config.hidden, config.layers)
    train(again, tokenizer, FACTS, config, tmp_path, lambda step, total, loss: steps.append(step))
    assert steps == [4, 5, 6, 7, 8]


def test_the_figures_of_a_model_that_knows_nothing_are_zero(tokenizer: PreTrainedTokenizerFast):
    lm = LM.of(build_model(tokenizer, 0, 32, 2).eval(), tokenizer)
    assert known(lm, FACTS, held_out=True) == 0
    assert set(reading(lm, FACTS, 12).values()) == {0.0}
