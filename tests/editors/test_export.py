"""Edits as a LoRA adapter: PEFT loads it and answers as the edited model; what is cut off is said."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from editors_kit import EDITS, make, same, state
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from lte.editors.base import EditorError, Handle, HandleError, Rewrite
from lte.editors.export import export_lora, export_model
from lte.models import LM, load_model


def logits(model: PreTrainedModel) -> Tensor:
    """What the model says to a few tokens."""
    ids = torch.arange(40, 72).reshape(2, 16)
    with torch.no_grad():
        return torch.as_tensor(model(ids).logits)


def with_peft(lm: LM, folder: Path) -> Tensor:
    """What PEFT makes of the unedited model with the adapter."""
    peft = pytest.importorskip("peft")
    wrapped = peft.PeftModel.from_pretrained(lm.model, folder)
    try:
        return logits(wrapped)
    finally:
        assert wrapped.unload() is lm.model


def factors(folder: Path) -> dict[str, Tensor]:
    """B @ A of each module, in float64."""
    found = load_file(folder / "adapter_model.safetensors")
    paths = {name.rpartition(".lora_")[0] for name in found}
    return {
        path.removeprefix("base_model.model."): found[f"{path}.lora_B.weight"].double()
        @ found[f"{path}.lora_A.weight"].double()
        for path in paths
    }


def by_hand(lm: LM, ranks: dict[int, int]) -> Handle:
    """A random change of the given rank at each layer."""
    generator = torch.Generator().manual_seed(3)
    with ExitStack() as undo:
        rewrites = {}
        for layer, rank in ranks.items():
            W = rewrites[f"{lm.layout.mlp_out.format(layer)}.weight"] = Rewrite(lm.mlp_out(layer))
            undo.callback(W.restore_)
            u, v = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in W.weight.shape)
            W.add_(0.05 * u @ v.T)
        return Handle(lm, "hand", EDITS, undo, rewrites, plain=True)


@pytest.mark.parametrize("name", ["rome", "ft_m"])
def test_peft_with_the_adapter_is_the_edited_model(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    plain = logits(tiny_lm.model)
    with make(name, tiny_lm, tmp_path).apply(tiny_lm, EDITS) as handle:
        edited = logits(tiny_lm.model)
        found = export_lora(handle, tmp_path / "adapter")
    assert (edited - plain).abs().max() > 0.1
    assert_close(with_peft(tiny_lm, tmp_path / "adapter"), edited, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(tiny_lm.model), plain)
    [module] = found.values()
    assert not module.cut and module.error < 1e-6 and (name == "ft_m" or module.rank == 2)


def test_our_own_reader_takes_it_too(tiny_lm: LM, tmp_path: Path) -> None:
    with by_hand(tiny_lm, {0: 2, 2: 3}) as handle:
        edited = logits(tiny_lm.model)
        export_lora(handle, tmp_path / "adapter")
    told = tiny_lm.load_adapter(tmp_path / "adapter", "edited")
    with tiny_lm.using("edited"):
        assert_close(logits(tiny_lm.model), edited, rtol=1e-5, atol=1e-5)
    assert told["base_sha256"] == tiny_lm.weight_hash()


def test_transposed_weights_are_turned(any_other: LM, tmp_path: Path) -> None:
    with by_hand(any_other, {1: 2}) as handle:
        edited = logits(any_other.model)
        export_lora(handle, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"]
    assert_close(with_peft(any_other, tmp_path / "adapter"), edited, rtol=1e-5, atol=1e-5)


def test_all_modules_have_the_rank_of_the_widest_and_only_those_changed_are_named(tiny_lm: LM, tmp_path: Path) -> None:
    with by_hand(tiny_lm, {0: 2, 2: 5}) as handle:
        found = export_lora(handle, tmp_path / "adapter")
    paths = [tiny_lm.layout.mlp_out.format(layer) for layer in (0, 2)]
    assert {p: m.rank for p, m in found.items()} == dict(zip(paths, (2, 5)))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (5, 5, paths)
    shapes = {n: tuple(t.shape) for n, t in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()}
    assert shapes == {
        f"base_model.model.{path}.lora_{kind}.weight": shape
        for path in paths
        for kind, shape in (("A", (5, 56)), ("B", (32, 5)))
    }


@pytest.mark.parametrize("max_rank", [1, 3, 8, 31])
def test_what_is_cut_off_is_said_and_is_the_least(tiny_lm: LM, tmp_path: Path, max_rank: int) -> None:
    before = tiny_lm.mlp_out(1).double().clone()
    with by_hand(tiny_lm, {1: 32}) as handle:
        [change] = (W.change.clone() for W in handle.rewrites.values())
        assert_close(tiny_lm.mlp_out(1).double() - before, change, rtol=1e-4, atol=1e-6)
        [(path, module)] = export_lora(handle, tmp_path / "adapter", max_rank).items()
    size = torch.linalg.norm(change)
    error = float(torch.linalg.norm(change - factors(tmp_path / "adapter")[path]) / size)
    least = float(torch.linalg.svdvals(change)[max_rank:].square().sum().sqrt() / size)
    assert module.cut and module.rank == max_rank
    assert module.error == pytest.approx(error, rel=1e-9) and error == pytest.approx(least, rel=1e-5)
    told = json.loads((tmp_path / "adapter" / "lte.json").read_text())
    assert told["modules"][path] == {"rank": max_rank, "whole": False, "error": module.error}


def test_a_change_of_a_sequence_has_the_rank_of_its_edits_and_not_of_their_rounding(
    tiny_lm: LM, tmp_path: Path
) -> None:
    tiny_lm.model.to(torch.bfloat16)
    rome = make("rome", tiny_lm, tmp_path)
    handle = rome.apply(tiny_lm, EDITS[:1])
    handle.join(rome.apply(tiny_lm, EDITS[1:]))
    [module] = export_lora(handle, tmp_path / "adapter").values()
    assert module.rank == 2 and module.error < 1e-6


def test_bfloat16_factors_are_stored_as_such_and_their_error_is_said(tiny_lm: LM, tmp_path: Path) -> None:
    with by_hand(tiny_lm, {1: 2}) as handle:
        [(path, module)] = export_lora(handle, tmp_path / "adapter", dtype="bfloat16").items()
        change = handle.rewrites[f"{path}.weight"].change.clone()
    assert {t.dtype for t in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {torch.bfloat16}
    error = torch.linalg.norm(change - factors(tmp_path / "adapter")[path]) / torch.linalg.norm(change)
    assert not module.cut and module.error == pytest.approx(float(error), rel=1e-9) and 1e-4 < module.error < 1e-2


def test_no_change_is_an_adapter_that_does_nothing(tiny_lm: LM, tmp_path: Path) -> None:
    with by_hand(tiny_lm, {1: 0}) as handle:
        export_lora(handle, tmp_path / "adapter")
    assert torch.equal(with_peft(tiny_lm, tmp_path / "adapter"), logits(tiny_lm.model))


def test_what_no_adapter_can_hold_is_refused(tiny_lm: LM, tmp_path: Path) -> None:
    with make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS) as handle, pytest.raises(EditorError, match="in the pro"):
        export_lora(handle, tmp_path / "adapter")
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        with ExitStack() as undo:
            W = Rewrite(tiny_lm.model.get_parameter(name).data)
            undo.callback(W.restore_)
            W.add_(torch.ones_like(W.exact))
            other = Handle(tiny_lm, "hand", EDITS, undo, {name: W})
        with other, pytest.raises(EditorError, match=f"{name} was changed.*delta"):
            export_lora(other, tmp_path / "adapter")
    done = by_hand(tiny_lm, {1: 1})
    for settings in ({"max_rank": 0}, {"dtype": "int8"}):
        refused: Any = settings
        with pytest.raises(EditorError, match=r"max_rank 0|int8"):
            export_lora(done, tmp_path / "adapter", **refused)
    done.undo()
    with pytest.raises(HandleError, match="was undone"):
        export_lora(done, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_edited_checkpoint_holds_the_edited_weights(tiny_lm: LM, tmp_path: Path) -> None:
    with by_hand(tiny_lm, {0: 1, 1: 32}):
        now = state(tiny_lm)
        export_model(tiny_lm, tmp_path / "model")
        assert same(now, state(load_model(tmp_path / "model", device="cpu")))
        with pytest.raises(EditorError, match="not empty"):
            export_model(tiny_lm, tmp_path / "model")
    with make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS), pytest.raises(EditorError, match="lte serve"):
        export_model(tiny_lm, tmp_path / "other")
    assert not (tmp_path / "other").exists()
