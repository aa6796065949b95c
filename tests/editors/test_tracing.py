"""Causal tracing: what restoring does at its ends, and that noise is the seed's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from editors_kit import EDITS
from torch.testing import assert_close

from lte.editors import tracing
from lte.editors.base import EditorError
from lte.editors.restoring import Fact, Restore, clean_run, likelihoods, parts_of, probabilities
from lte.editors.tracing import ROLES, TracingConfig, averages, known_facts, trace_fact, trace_facts
from lte.models import LM

CONFIG = TracingConfig(samples=3, noise=3.0, window=2, batch_tokens=2000)


@pytest.fixture
def fact(any_lm: LM) -> Fact:
    """What a random model "knows" about a subject of several tokens in the middle of its prompt."""
    return known_facts(any_lm, EDITS[:1])[0]


def noise_for(lm: LM, fact: Fact, draws: int = 3, size: float = 1.0) -> torch.Tensor:
    """Noise that surely matters to a random model."""
    drawn = torch.Generator().manual_seed(7)
    return size * torch.randn(draws, fact.end - fact.first, lm.hidden_size, generator=drawn)


def test_restoring_every_token_of_any_layer_gives_the_clean_probability(any_lm: LM, fact: Fact) -> None:
    clean, tokens = clean_run(any_lm, fact), range(len(fact.ids))
    whole = likelihoods(any_lm, torch.tensor([fact.ids]))[0, fact.answer]
    restores = [None, *(Restore("state", (layer,), tokens) for layer in range(3))]
    found = probabilities(any_lm, fact, clean, noise_for(any_lm, fact), restores)
    assert_close(found[1:], whole.expand(3, 3), rtol=1e-4, atol=1e-7)
    assert (found[0] - whole).abs().min() > 1e-5  # the noise does something


def test_at_the_last_layer_only_the_last_token_matters(any_lm: LM, fact: Fact) -> None:
    clean, noise = clean_run(any_lm, fact), noise_for(any_lm, fact)
    last = len(fact.ids) - 1
    restores = [None, Restore("state", (2,), (last,)), Restore("state", (2,), range(last))]
    noised, restored, others = probabilities(any_lm, fact, clean, noise, restores)
    whole = likelihoods(any_lm, torch.tensor([fact.ids]))[0, fact.answer]
    assert_close(restored, whole.expand(3), rtol=1e-4, atol=1e-7)
    assert_close(others, noised, rtol=1e-5, atol=1e-8)


def test_what_is_read_before_the_noise_has_no_effect(any_lm: LM, fact: Fact) -> None:
    assert fact.first > 0
    clean, noise = clean_run(any_lm, fact), noise_for(any_lm, fact)
    restores = [None, *(Restore(kind, range(3), range(fact.first)) for kind in clean)]
    noised, *restored = probabilities(any_lm, fact, clean, noise, restores)
    for found in restored:
        assert_close(found, noised, rtol=1e-4, atol=1e-7)


def test_the_stream_is_what_mlps_and_attention_add(any_lm: LM, fact: Fact) -> None:
    """Both put back everywhere leave only the noise itself in the stream; put back in no layer, nothing."""
    clean, noise = clean_run(any_lm, fact), noise_for(any_lm, fact)
    assert set(clean) == {"state", "mlp", "attention"}
    for kind, modules in parts_of(any_lm).items():
        assert len(modules) == len(clean[kind]) == 3
        assert clean[kind][0].shape == (len(fact.ids), any_lm.hidden_size)
    tokens = range(len(fact.ids))
    restores = [None, Restore("mlp", (), tokens), Restore("mlp", (1,), tokens), Restore("attention", (1,), tokens)]
    noised, nothing, mlp, attention = probabilities(any_lm, fact, clean, noise, restores)
    assert torch.equal(nothing, noised)
    assert not torch.allclose(mlp, noised) and not torch.allclose(attention, noised) and not torch.equal(mlp, attention)


def test_without_noise_there_is_no_effect(any_lm: LM, fact: Fact) -> None:
    traced = trace_fact(any_lm, fact, CONFIG.model_copy(update={"noise": 0.0}), 1.0)
    assert traced.clean == pytest.approx(traced.noised, rel=1e-4)
    assert all(effect.abs().max() < 1e-5 for effect in traced.effects.values())


def test_a_state_restored_at_the_last_layer_and_token_brings_back_everything(any_lm: LM, fact: Fact) -> None:
    traced = trace_fact(any_lm, fact, CONFIG, 1.0)
    total = traced.clean - traced.noised
    assert abs(total) > 1e-5 and len(fact.roles) == len(fact.ids) - fact.first
    assert float(traced.effects["state"][2, -1]) == pytest.approx(total, rel=1e-3, abs=1e-7)
    assert float(traced.effects["state"][2, :-1].abs().max()) < 1e-6


def test_noise_is_the_seeds_and_the_facts_alone(tiny_lm: LM) -> None:
    def effects(edits: Any = EDITS, **settings: Any) -> list[Any]:
        return [t.effects["mlp"] for t in trace_facts(tiny_lm, edits, CONFIG.model_copy(update=settings))]

    first, again, other = effects(), effects(), effects(seed=5)
    assert len(first) == 2 and all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.allclose(a, b) for a, b in zip(first, other))
    few, alone = (effects(EDITS[:1], samples=1, batch_tokens=size) for size in (300, 1))  # a row a forward
    assert_close(alone, few, rtol=1e-3, atol=1e-6)


def test_a_window_is_centred_and_cut_at_the_ends(tiny_lm: LM) -> None:
    [fact] = known_facts(tiny_lm, EDITS[:1]).values()
    wide = trace_fact(tiny_lm, fact, CONFIG.model_copy(update={"window": 9}), 1.0).effects["mlp"]
    assert_close(wide[0], wide[2])  # every layer, wherever the middle is
    one = trace_fact(tiny_lm, fact, CONFIG.model_copy(update={"window": 1}), 1.0).effects["mlp"]
    clean = clean_run(tiny_lm, fact)
    drawn = torch.Generator().manual_seed(CONFIG.seed)
    noise = 3 * torch.randn(3, fact.end - fact.first, tiny_lm.hidden_size, generator=drawn)
    at = fact.end - 1
    both = [None, Restore("mlp", (1,), (at,)), Restore("mlp", (0, 1), (at,))]
    noised, alone, pair = probabilities(tiny_lm, fact, clean, noise, both).mean(1)
    assert_close(one[1, at - fact.first], alone - noised, rtol=1e-3, atol=1e-7)
    two = trace_fact(tiny_lm, fact, CONFIG, 1.0).effects["mlp"]
    assert_close(two[1, at - fact.first], pair - noised, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("first", "end", "length", "roles"),
    [
        (1, 2, 3, ["last subject", "last"]),
        (1, 3, 6, ["first subject", "last subject", "first after", "further", "last"]),
        (0, 4, 4, ["first subject", "middle subject", "middle subject", "last subject"]),
        (2, 5, 7, ["first subject", "middle subject", "last subject", "first after", "last"]),
    ],
)
def test_the_roles_of_tokens(first: int, end: int, length: int, roles: list[str]) -> None:
    assert Fact("", [0] * length, first, end, 0).roles == roles and set(roles) <= set(ROLES)


def test_only_known_facts_are_traced(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = replace(EDITS[0], target_true="English")
    text = tiny_lm.render(edit.prompt)
    [encoded], [(start, _)] = tiny_lm.with_targets([text], ["English"])
    start += not tiny_lm.tokenizer.decode([encoded.ids[start]]).strip()  # a blank of its own is no answer
    always = torch.zeros(1, len(tiny_lm.tokenizer))
    always[0, encoded.ids[start]] = 1.0
    monkeypatch.setattr(tracing, "likelihoods", lambda *_: always)  # a model that says "English" to everything
    found = known_facts(tiny_lm, [replace(edit, target_true="Zürich"), edit, EDITS[1]])
    assert list(found) == [1, 2] and found[1].answer == encoded.ids[start]
    assert found[1].ids == encoded.ids[:start]
    subject = tiny_lm.tokenizer.decode(found[1].ids[found[1].first : found[1].end]).strip()
    assert subject == "Danielle Darrieux"
    with pytest.raises(EditorError, match="none of the 1 facts"):
        list(trace_facts(tiny_lm, [replace(edit, target_true="Zürich")], CONFIG))
    with pytest.raises(EditorError, match="names no subject"):
        known_facts(tiny_lm, [replace(EDITS[0], subject="")])


def test_averages_are_of_facts_and_not_of_tokens(tiny_lm: LM) -> None:
    traced = list(trace_facts(tiny_lm, EDITS, CONFIG))
    found = averages(traced)
    assert set(found) == {"state", "mlp", "attention"} and all(len(v) == 3 for v in found["mlp"].values())
    assert list(found["mlp"]) == [role for role in ROLES if any(role in t.fact.roles for t in traced)]
    middle = [t.effects["mlp"][:, [r == "further" for r in t.fact.roles]].mean(1) for t in traced]
    assert_close(torch.tensor(found["mlp"]["further"]), torch.stack(middle).mean(0))


def test_the_model_is_left_as_it_was(any_lm: LM, fact: Fact) -> None:
    before = likelihoods(any_lm, torch.tensor([fact.ids]))
    trace_fact(any_lm, fact, CONFIG, 1.0)
    assert torch.equal(likelihoods(any_lm, torch.tensor([fact.ids])), before)
