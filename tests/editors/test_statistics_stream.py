"""The second moment as a stream: what is held, where texts come from, and when it is measured anew."""

from __future__ import annotations

import json
import logging
import os
import tracemalloc
from collections.abc import Iterator
from copy import deepcopy
from math import ceil
from pathlib import Path

import pytest
import torch
from editors_kit import TEXTS
from tiny_models import tiny_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from lte.config import ConfigError, parse
from lte.editors import statistics
from lte.editors.base import EditorError
from lte.editors.corpus import Dataset, DatasetConfig, Files, Given
from lte.editors.moment import Moment
from lte.editors.reading import WINDOW, Row, batches_of, rows_of, tokenizer_hash
from lte.editors.solve import Factor
from lte.editors.statistics import StatisticsConfig, corpus_of, measures, moments, second_moments
from lte.models import LM, Trace, load_model
from lte.models.tokens import encode

LONG = " ".join(TEXTS) * 40


def keys_of_texts(lm: LM, layer: int, texts: list[str], length: int = 10**6) -> torch.Tensor:
    """The layer's key at every token of the texts, (tokens, d_k), each text read alone."""
    found = []
    for e in encode(lm.tokenizer, texts):
        with Trace(lm.mlp_out_module(layer)) as trace, torch.no_grad():
            lm.model(torch.tensor([e.ids[:length]]))
        found.append(trace.input[0])
    return torch.cat(found)


# --- how much is held, how much is counted ---------------------------------------------------------------------------


def test_the_stream_adds_up_to_the_whole(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.double()  # so that nothing but the sum is rounded
    config = StatisticsConfig(cache=tmp_path, tokens=10**6, max_length=60, batch_tokens=60)
    for layer, C in second_moments(tiny_lm, [0, 1, 2], config, TEXTS).items():
        K = keys_of_texts(tiny_lm, layer, TEXTS, 60)
        assert_close(C, K.T @ K / len(K), rtol=1e-12, atol=1e-12 * float(C.abs().max()))


def test_stripes_change_nothing(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_lm.model.double()
    whole = second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path / "a"), TEXTS)[1]
    monkeypatch.setattr(statistics, "STRIPE", 5)  # 56 rows do not divide by it
    assert_close(
        second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path / "b"), TEXTS)[1], whole, rtol=1e-12, atol=0
    )


def test_no_more_than_a_window_of_rows_is_held() -> None:
    read = given = 0
    most = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for n in range(3000):
            ids = [0] * (1 + n * 7 % 50)
            read += len(ids)
            yield ids, list(range(len(ids)))

    for batch in batches_of(rows(), 200):
        most = max(most, read - given)
        given += sum(len(ids) for ids, _ in batch)
        assert len(batch) * max(len(ids) for ids, _ in batch) <= 200
    assert given == read and most <= WINDOW * 200 + 50


def test_memory_does_not_grow_with_the_text(tiny_lm: LM, tmp_path: Path) -> None:
    peaks = []
    for lines in (50, 2000):
        (tmp_path / "a.txt").write_text("".join(f"{n} {TEXTS[n % 4]}\n" for n in range(lines)), encoding="utf-8")
        config = StatisticsConfig(text=tmp_path / "a.txt", max_length=64, batch_tokens=128)
        tracemalloc.start()
        corpus = corpus_of(tiny_lm, config)
        corpus.identity()
        count = sum(len(keys) for batch in batches_of(rows_of(tiny_lm, corpus, None, config), 128) for _, keys in batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count > 10 * lines
    assert peaks[1] < peaks[0] + 300_000  # 2000 rows would take some megabytes


def test_the_budget_is_spent_to_the_token_and_nothing_is_read_after(tiny_lm: LM, tmp_path: Path) -> None:
    asked = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            asked.append(text)
            yield text

    first = len(encode(tiny_lm.tokenizer, TEXTS[:1])[0].ids)
    rows = list(rows_of(tiny_lm, texts(), first + 3, StatisticsConfig()))
    assert [len(keys) for _, keys in rows] == [first, 3] and len(rows[1][0]) == 3 and len(asked) == 2
    asked.clear()
    assert len(list(rows_of(tiny_lm, texts(), first, StatisticsConfig()))) == 1 == len(asked)
    for tokens in (1, 77):
        [made] = moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path, tokens=tokens), TEXTS)
        assert made.counted == tokens


def test_documents_bound_it_as_in_the_papers(tiny_lm: LM, tmp_path: Path) -> None:
    lengths = [len(e.ids) for e in encode(tiny_lm.tokenizer, TEXTS)]
    [made] = moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path, documents=3), ["", *TEXTS])
    assert made.counted == sum(lengths[:3])  # a blank text is none
    [both] = moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path, documents=3, tokens=5), TEXTS)
    assert both.counted == 5


def test_layers_per_pass_bounds_the_totals_and_changes_nothing(
    tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[int]] = []
    measure = statistics._measure
    monkeypatch.setattr(
        statistics, "_measure", lambda lm, layers, *more: passes.append(layers) or measure(lm, layers, *more)
    )
    at_once = second_moments(tiny_lm, [2, 0, 1, 0], StatisticsConfig(cache=tmp_path / "a"), TEXTS)
    in_turn = second_moments(tiny_lm, [2, 0, 1], StatisticsConfig(cache=tmp_path / "b", layers_per_pass=2), TEXTS)
    assert passes == [[2, 0, 1], [2, 0], [1]]
    assert all(torch.equal(at_once[layer], in_turn[layer]) for layer in range(3))


def test_finished_layers_are_handed_on_one_by_one(tiny_lm: LM, tmp_path: Path) -> None:
    config = StatisticsConfig(cache=tmp_path)
    for made in moments(tiny_lm, [0, 1], config, TEXTS):
        assert isinstance(made, Moment) and made.file.exists()
        assert len(list(tmp_path.glob("*.safetensors"))) == 1
        break  # who stops here has the first layer kept, and only that


def test_b23_a_forward_stays_within_the_cap_at_a_context_of_128k(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=131072, **shape)
    )
    lm = LM.of(model, tokenizer)
    sizes: list[int] = []
    hook = lm.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel()))
    config = StatisticsConfig(cache=tmp_path, tokens=3000, max_length=300, batch_tokens=1000)
    [made] = moments(lm, [1], config, [LONG] * 9 + TEXTS)
    hook.remove()
    assert made.counted == 2700 + sum(len(e.ids) for e in encode(tokenizer, TEXTS))
    assert max(sizes) <= 1000 and len(sizes) >= ceil(made.counted / 1000)


def test_texts_are_cut_to_what_the_model_can_hold(any_other: LM, tmp_path: Path) -> None:
    assert any_other.context == 512
    [made] = moments(any_other, [1], StatisticsConfig(cache=tmp_path, tokens=600, max_length=1024), [LONG, LONG])
    assert made.counted == 600  # 512 of the first, 88 of the second


def test_a_long_texts_tokens_are_those_of_the_whole(tiny_lm: LM) -> None:
    for text in (LONG, "a" + " " * 400 + LONG):
        [(ids, _)] = rows_of(tiny_lm, [text], None, StatisticsConfig(max_length=20, documents=1))
        assert ids == encode(tiny_lm.tokenizer, [text])[0].ids[:20]


# --- which model, which numbers --------------------------------------------------------------------------------------


def test_b13_a_fine_tuned_checkpoint_of_the_same_name_has_a_file_of_its_own(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for folder, seed in (("a", 0), ("b", 1), ("c", 0)):
        tiny_model("llama", tokenizer, seed).save_pretrained(tmp_path / folder / "model")
        tokenizer.save_pretrained(tmp_path / folder / "model")
    config = StatisticsConfig(cache=tmp_path / "cache")
    files = []
    for folder in ("a", "b", "c"):
        lm = load_model(tmp_path / folder / "model", device="cpu")
        files += [made.file for made in moments(lm, [1], config, TEXTS)]
    assert files[0] != files[1] and files[0] == files[2]


def test_whatever_changes_the_tokens_is_measured_anew(tiny_lm: LM, tmp_path: Path) -> None:
    def file(**settings: object) -> Path:
        [made] = moments(tiny_lm, [1], parse(StatisticsConfig, {"cache": tmp_path, **settings}, "test"), TEXTS)
        return made.file

    found = [file(), file(max_length=9), file(documents=5), file(tokens=9), file(bos="exclude")]
    assert len(set(found)) == 5
    assert file(batch_tokens=1000) == file(layers_per_pass=1) == found[0]  # these only say how
    before = tokenizer_hash(tiny_lm)
    tiny_lm.tokenizer = deepcopy(tiny_lm.tokenizer)
    tiny_lm.tokenizer(TEXTS, padding=True, truncation=True, max_length=5)  # leaves its marks in the tokenizer
    assert tokenizer_hash(tiny_lm) == before
    tiny_lm.tokenizer.add_tokens(["Darrieux"])
    assert tokenizer_hash(tiny_lm) != before


def test_a_model_in_bfloat16_is_summed_in_float32(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.bfloat16()
    C = second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path), TEXTS[:1])[1]
    K = keys_of_texts(tiny_lm, 1, TEXTS[:1])
    assert K.dtype == torch.bfloat16 and C.dtype == torch.float64
    K = K.double()
    assert_close(C, K.T @ K / len(K), rtol=1e-5, atol=1e-6 * float(C.abs().max()))  # bfloat16 would be off by 1e-3


def test_a_singular_second_moment_warns_and_is_usable(
    tiny_lm: LM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        C = second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path), TEXTS[:1])[1]
    assert "singular" in caplog.text and int(torch.linalg.matrix_rank(C, rtol=1e-6)) <= 11 < len(C)
    k = torch.ones(len(C), dtype=torch.float64)
    assert torch.isfinite(Factor.of(C).solve(k)).all()
    caplog.clear()
    second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path), TEXTS[:1])
    assert "singular" in caplog.text  # out of the cache it is no better
    caplog.clear()
    second_moments(tiny_lm, [1], StatisticsConfig(cache=tmp_path, tokens=100), TEXTS)
    assert not caplog.text


def test_keys_that_are_not_finite_are_refused_and_not_kept(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3, 3] = float("nan")
    with pytest.raises(EditorError, match=r"layer 1 of tiny-llama gives keys that are not finite"):
        second_moments(tiny_lm, [0, 1], StatisticsConfig(cache=tmp_path), TEXTS)
    assert not list(tmp_path.iterdir())
    assert torch.isfinite(second_moments(tiny_lm, [0], StatisticsConfig(cache=tmp_path), TEXTS)[0]).all()


def test_what_is_told_of_a_second_moment(tiny_lm: LM, tmp_path: Path) -> None:
    config = StatisticsConfig(cache=tmp_path, tokens=90)
    [told], [made] = measures(tiny_lm, [2], config, TEXTS), moments(tiny_lm, [2], config, TEXTS)
    assert (told.layer, told.dimensions, told.tokens, told.file) == (2, 56, 90, made.file)
    assert told.trace == pytest.approx(float(made.C.diagonal().sum()))
    ridged = made.C + 1e-6 * told.trace / 56 * torch.eye(56)
    assert 1 < told.condition <= float(torch.linalg.cond(ridged)) * 1.01


# --- where texts come from -------------------------------------------------------------------------------------------


def test_a_folder_gives_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_text('{"body": "three"}\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("one\n \ntwo\n", encoding="utf-8")
    (tmp_path / "sub" / "c.txt").write_text("four", encoding="utf-8")
    (tmp_path / "notes.md").write_text("none of it", encoding="utf-8")
    assert list(Files.at(tmp_path, "body")) == ["one", "two", "three", "four"]


def test_a_file_that_was_changed_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n", encoding="utf-8")
    before, when = Files.at(file).identity(), file.stat()
    (tmp_path / "other.txt").write_text("one\n", encoding="utf-8")
    assert Files.at(tmp_path / "other.txt").identity() == before  # the same text under another name
    file.write_text("two\n", encoding="utf-8")
    os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))  # of the same size, at the same time
    assert Files.at(file).identity() != before
    assert Given(["ab", "c"]).identity() != Given(["a", "bc"]).identity()


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetConfig:
    """A folder of data files that the package `datasets` reads."""
    pytest.importorskip("datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.dumps({"body": text, "n": n}) + "\n" for n, text in enumerate(TEXTS[:4])]
    (folder / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    return DatasetConfig(path=str(folder))


def test_a_dataset_is_streamed(dataset: DatasetConfig, tiny_lm: LM, tmp_path: Path) -> None:
    assert list(Dataset(dataset, "body")) == TEXTS[:4]
    shuffled = [list(Dataset(dataset.model_copy(update={"shuffle": seed}), "body")) for seed in (1, 2, 3, 4, 1)]
    assert shuffled[0] == shuffled[4] and any(texts != TEXTS[:4] for texts in shuffled)
    assert all(sorted(texts) == sorted(TEXTS[:4]) for texts in shuffled)
    config = StatisticsConfig(dataset=dataset, column="body", cache=tmp_path / "c", tokens=10**6)
    C = second_moments(tiny_lm, [1], config)[1]
    given = config.model_copy(update={"dataset": None})
    assert torch.equal(C, second_moments(tiny_lm, [1], given, TEXTS[:4])[1])


def test_another_dataset_has_another_identity(dataset: DatasetConfig) -> None:
    def changed(**settings: object) -> str:
        return Dataset(dataset.model_copy(update=settings), "body").identity()

    first = changed()
    assert first == changed() and len({first, changed(shuffle=1), changed(shuffle=2), changed(split="test")}) == 4
    assert Dataset(dataset, "n").identity() != first
    file = Path(dataset.path) / "train.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"body": "more", "n": 9}\n', encoding="utf-8")
    assert changed() != first


def test_a_dataset_that_cannot_be_read_is_refused_by_name(dataset: DatasetConfig, tmp_path: Path) -> None:
    for update, complaint in (
        ({"path": str(tmp_path / "none")}, "none split train cannot be read"),
        ({"split": "tset"}, "split tset cannot be read"),
        ({"name": "nope"}, "nope"),
    ):
        with pytest.raises(EditorError, match=complaint):
            list(Dataset(dataset.model_copy(update=update), "body"))
    for column in ("text", "n"):  # absent; a number
        with pytest.raises(EditorError, match=rf"{column}: no text in a row with body, n; set statistics\.column"):
            list(Dataset(dataset, column))


def test_bad_files_and_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"text": null}\n', encoding="utf-8")
    with pytest.raises(EditorError, match=r"a\.csv: wanted a \.txt file"):
        Files.at(tmp_path / "a.csv")
    with pytest.raises(EditorError, match=r"holds no \.txt and no \.jsonl"):
        (tmp_path / "empty").mkdir()
        Files.at(tmp_path / "empty")
    with pytest.raises(EditorError, match=r"b\.txt: not UTF-8"):
        list(Files.at(tmp_path / "b.txt"))
    with pytest.raises(EditorError, match=r"c\.jsonl:2: not a text"):
        list(Files.at(tmp_path / "c.jsonl"))
    with pytest.raises(ConfigError, match="lower max_length or raise batch_tokens"):
        parse(StatisticsConfig, {"max_length": 9000}, "test")
    with pytest.raises(ConfigError, match="set one of them"):
        parse(StatisticsConfig, {"text": "a.txt", "dataset": {"path": "b"}}, "test")
