"""A model comes back from its folder as it was saved; what cannot be loaded says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_kit import logits, write_adapter

from lte.models import LM, Layout, ModelError, load, load_model


@pytest.fixture
def folder(tiny_lm: LM, tmp_path: Path) -> Path:
    """A saved model with its tokenizer."""
    tiny_lm.model.save_pretrained(tmp_path / "model")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_architecture_comes_back_as_it_was(any_lm: LM, tmp_path: Path) -> None:
    any_lm.model.save_pretrained(tmp_path)
    any_lm.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert torch.equal(logits(loaded), logits(any_lm))
    assert loaded.weight_hash() == any_lm.weight_hash()
    assert (loaded.layout, loaded.chat, loaded.name) == (any_lm.layout, True, str(tmp_path))
    assert loaded.answer(["Who?"], max_new_tokens=5) == any_lm.answer(["Who?"], max_new_tokens=5)
    assert (loaded.device.type, loaded.dtype, loaded.context) == ("cpu", torch.float32, any_lm.context)
    assert not loaded.model.training


def test_device_dtype_chat_and_layout_are_chosen(folder: Path) -> None:
    paths = {"block": "model.layers.{}", "mlp_out": "model.layers.{}.self_attn.o_proj"}
    lm = load_model(str(folder), device="cpu", dtype="bfloat16", chat=False, layout=paths)
    assert lm.dtype == torch.bfloat16 and not lm.chat and lm.layout == Layout(**paths)
    assert lm.answer(["Who?"], max_new_tokens=3) and lm.score(["Who is"], ["he"])[0].logprob < 0


def test_an_adapter_is_loaded_off(folder: Path, tiny_lm: LM, tmp_path: Path) -> None:
    lm = load_model(folder, adapter=write_adapter(tmp_path / "adapter", tiny_lm))
    assert list(lm.adapters) == ["lte"] and lm.on is None
    assert torch.equal(logits(lm), logits(tiny_lm))


def test_pocket_brings_its_own_adapter(folder: Path, tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "pocket_home", lambda: folder)
    assert load_model().adapters == {}
    write_adapter(folder / "adapter", tiny_lm)
    lm = load_model("pocket")
    assert list(lm.adapters) == ["lte"] and lm.name == "pocket"


def test_pocket_where_it_is_not_installed_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "__file__", str(tmp_path / "lte" / "models" / "load.py"))
    with pytest.raises(ModelError, match=r"not installed; `python -m lte\.pocket` builds it"):
        load_model("pocket")


def test_pocket_is_found_in_the_package_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "__file__", str(tmp_path / "lte" / "models" / "load.py"))
    for home in (tmp_path / "data" / "pocket", tmp_path / "lte" / "data" / "pocket"):
        home.mkdir(parents=True)
        (home / "config.json").touch()
        assert load.pocket_home() == home


def test_a_folder_without_a_tokenizer_says_how_to_save_one(tiny_lm: LM, tmp_path: Path) -> None:
    tiny_lm.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError) as error:
        load_model(tmp_path)
    assert f"no tokenizer; save it beside the weights: tokenizer.save_pretrained('{tmp_path}')" in str(error.value)


@pytest.mark.parametrize("name", ["no/such-model-anywhere", "./no/such/folder", "nowhere", "a b:c"])
def test_what_is_neither_a_folder_nor_at_hand_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*Wanted a folder with config\.json, weights") as error:
        load_model(name)
    assert str(error.value).startswith(f"{name}: ") and "\n" not in str(error.value)


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def garble_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def garble_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def another_shape(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))


@pytest.mark.parametrize(
    "damage", [lose_config, lose_weights, cut_weights, garble_config, garble_tokenizer, another_shape]
)
def test_a_broken_folder_is_named(folder: Path, damage) -> None:  # type: ignore[no-untyped-def]
    damage(folder)
    with pytest.raises(ModelError, match="cannot be loaded: ") as error:
        load_model(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("dtype", ["float33", "int8", "Tensor", ""])
def test_a_dtype_that_is_none_is_named(folder: Path, dtype: str) -> None:
    with pytest.raises(ModelError, match=f"dtype '{dtype}': no such dtype; use auto, float32, bfloat16 or float16"):
        load_model(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["tpu9", "cuda:77", "meta "])
def test_a_device_that_is_not_there_is_named(folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}': .*; use auto, cpu or a device at hand"):
        load_model(folder, device=device)


def test_a_layout_with_another_key_is_named(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"layout: has \['blocks'\]; it names two paths, block and mlp_out"):
        load_model(folder, layout={"blocks": "model.layers.{}"})


def test_chat_without_a_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert not load_model(folder).chat
    with pytest.raises(ModelError, match="chat asked for, but the tokenizer has no chat template"):
        load_model(folder, chat=True)
