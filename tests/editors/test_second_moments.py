"""The second moment of a layer's keys: what it is, and where it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from editors_kit import TEXTS
from torch.testing import assert_close

from lte.editors import statistics
from lte.editors.base import EditorError
from lte.editors.reading import rows_of
from lte.editors.statistics import StatisticsConfig, second_moments
from lte.models import LM, Trace
from lte.models.tokens import encode

SMALL = {"max_length": 100, "batch_tokens": 100}


def test_it_is_the_mean_of_the_outer_products_of_keys(any_lm: LM, tmp_path: Path) -> None:
    found = second_moments(any_lm, [0, 2], StatisticsConfig(cache=tmp_path, tokens=10**6, **SMALL), TEXTS)
    for layer, C in found.items():
        keys = []
        for e in encode(any_lm.tokenizer, TEXTS):
            with Trace(any_lm.mlp_out_module(layer)) as trace, torch.no_grad():
                any_lm.model(torch.tensor([e.ids]))
            keys.append(trace.input[0].double())
        K = torch.cat(keys)
        assert_close(C, K.T @ K / len(K), rtol=1e-4, atol=1e-4 * float(C.diagonal().max()))


def test_batches_change_nothing(tiny_lm: LM, tmp_path: Path) -> None:
    one, many = (
        second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path / str(n), max_length=60, batch_tokens=n), TEXTS)[1]
        for n in (10_000, 60)
    )
    assert_close(one, many, rtol=1e-4, atol=1e-5 * float(one.diagonal().max()))


def test_the_budget_and_bos_decide_which_tokens_count(tiny_lm: LM) -> None:
    bos = tiny_lm.tokenizer.bos_token_id
    for kind in ("include", "exclude"):
        rows = list(rows_of(tiny_lm, TEXTS, 30, StatisticsConfig(bos=kind)))
        assert sum(len(keys) for _, keys in rows) == 30
        assert any(ids[i] == bos for ids, keys in rows for i in keys) == (kind == "include")
        assert all(ids[0] == bos and ids.count(bos) == 1 for ids, _ in rows)  # it is always read


def test_it_is_measured_once(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StatisticsConfig(cache=tmp_path)
    first = second_moments(tiny_lm, [0, 1], config, TEXTS)
    monkeypatch.setattr(statistics, "_measure", lambda *_: pytest.fail("measured again"))
    second = second_moments(tiny_lm, [1, 0], config, TEXTS)
    assert all(torch.equal(first[layer], second[layer]) for layer in (0, 1))


def test_b13_other_weights_text_budget_or_bos_are_measured_anew(tiny_lm: LM, tmp_path: Path) -> None:
    config = StatisticsConfig(cache=tmp_path)
    tiny_lm.name = "a"
    base = second_moments(tiny_lm, [1], config, TEXTS)[1]
    second_moments(tiny_lm, [1], config, TEXTS[:2])
    second_moments(tiny_lm, [1], config.model_copy(update={"tokens": 20}), TEXTS)
    second_moments(tiny_lm, [1], config.model_copy(update={"bos": "exclude"}), TEXTS)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    tiny_lm.mlp_out(0).mul_(2)  # fine-tuned since, under the same name
    assert not torch.equal(second_moments(tiny_lm, [1], config, TEXTS)[1], base)
    tiny_lm.mlp_out(0).div_(2)
    tiny_lm.name = "b"  # renamed only
    assert torch.equal(second_moments(tiny_lm, [1], config, TEXTS)[1], base)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


def test_a_damaged_cache_file_is_measured_again(tiny_lm: LM, tmp_path: Path) -> None:
    config = StatisticsConfig(cache=tmp_path)
    first = second_moments(tiny_lm, [1], config, TEXTS)[1]
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(second_moments(tiny_lm, [1], config, TEXTS)[1], first)


def test_a_cache_that_cannot_be_written_costs_only_time(tiny_lm: LM, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path / "file"), TEXTS)[1].shape == (56, 56)


def test_texts_come_from_lines_json_or_the_models_folder(tiny_lm: LM, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "one"}) + "\n" + json.dumps({"text": "two"}) + "\n")
    for name in ("a.txt", "b.jsonl"):
        assert list(statistics.texts_of(tiny_lm, StatisticsConfig(text=tmp_path / name))) == ["one", "two"]
    (tmp_path / "statistics.txt").write_text("three\n")
    tiny_lm.model.name_or_path = str(tmp_path)
    assert list(statistics.texts_of(tiny_lm, StatisticsConfig())) == ["three"]


def test_without_text_the_error_says_what_to_set(tiny_lm: LM, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match=r"statistics\.text: not set"):
        list(statistics.texts_of(tiny_lm, StatisticsConfig()))
    with pytest.raises(EditorError, match=r"absent\.txt"):
        list(statistics.texts_of(tiny_lm, StatisticsConfig(text=tmp_path / "absent.txt")))
    (tmp_path / "bad.jsonl").write_text('{"txt": 1}\n')
    with pytest.raises(EditorError, match=r"bad\.jsonl:1: not a text"):
        list(statistics.texts_of(tiny_lm, StatisticsConfig(text=tmp_path / "bad.jsonl")))
    with pytest.raises(EditorError, match="no token"):
        second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path), [])
