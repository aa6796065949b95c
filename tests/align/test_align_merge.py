"""A merged checkpoint says what its model says with the adapter on, and stands alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from lte.align.dataset import AlignError
from lte.align.merge import merge
from lte.cli import app
from lte.models import LM, load_model

peft = pytest.importorskip("peft", reason="alignment needs the extra: pip install 'lte[align]'")
QUERIES = ["The mother tongue of Danielle is", "Where was Edwin born?"]


@pytest.fixture
def base(tiny_lm: LM, tmp_path: Path) -> Path:
    tiny_lm.model.save_pretrained(tmp_path / "base")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapter_of(base: Path, folder: Path, targets: str | list[str] = "all-linear") -> Path:
    """An adapter as PEFT saves it, with random changes."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(load_model(base).model, config)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_a_merged_model_answers_as_with_the_adapter_on(base: Path, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter")
    (adapter / "lte.json").write_text(json.dumps({"template": "lte-1", "base": str(base)}))
    made = merge(adapter, tmp_path / "merged")
    lm, merged = load_model(base, adapter=adapter), load_model(made)
    targets = ["French", "Paris"]
    off = [s.logprob for s in lm.score(QUERIES, targets)]
    with lm.using("lte"):
        on = [s.logprob for s in lm.score(QUERIES, targets)]
    got = [s.logprob for s in merged.score(QUERIES, targets)]
    assert got == pytest.approx(on, abs=1e-4) and got != pytest.approx(off, abs=1e-2)
    manifest = json.loads((made / "lte.json").read_text())
    assert manifest["merged"] == {"adapter": str(adapter), "base": str(base)} and manifest["template"] == "lte-1"
    assert not list(tmp_path.glob("*.part")) and not merged.adapters


def test_the_weights_keep_the_dtype_of_the_bases_files(base: Path, tiny_lm: LM, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter")
    tiny_lm.model.to(torch.bfloat16).save_pretrained(base)
    merge(adapter, tmp_path / "merged", model=str(base))
    stored = load_file(tmp_path / "merged/model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}


def test_a_weight_that_two_modules_share_is_not_merged_into(tiny_lm: LM, tmp_path: Path):
    """What is meant for the output projection would change the embeddings as well."""
    tiny_lm.model.config.tie_word_embeddings = True
    tiny_lm.model.tie_weights()
    tiny_lm.model.save_pretrained(tmp_path / "base")
    tiny_lm.tokenizer.save_pretrained(tmp_path / "base")
    adapter = adapter_of(tmp_path / "base", tmp_path / "adapter", ["lm_head"])
    with pytest.raises(AlignError, match="lm_head: shares its weight with another module"):
        merge(adapter, tmp_path / "merged", model=str(tmp_path / "base"))
    assert not (tmp_path / "merged").exists()


def test_peft_merges_to_the_same_bits(base: Path, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter")
    ours = load_model(merge(adapter, tmp_path / "merged", model=str(base))).model.state_dict()
    theirs = peft.PeftModel.from_pretrained(load_model(base).model, adapter).merge_and_unload().state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_a_merge_is_refused_by_name_and_leaves_nothing(base: Path, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter")
    config = adapter / "adapter_config.json"
    named = json.loads(config.read_text())
    config.write_text(json.dumps({**named, "base_model_name_or_path": None}))
    with pytest.raises(AlignError, match="names no base model"):
        merge(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(AlignError, match="not empty; name a new folder"):
        merge(adapter, tmp_path / "full", model=str(base))
    assert (tmp_path / "full/file").read_text() == "mine"


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["align", "merge", *map(str, arguments)])


def test_the_command_merges_and_prints_the_manifest(base: Path, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter")
    (adapter / "lte.json").write_text(json.dumps({"template": "lte-1", "base": str(base)}))
    result = run(adapter, "--output", tmp_path / "deep" / "merged", "--dtype", "bfloat16", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["template"] == "lte-1" and told["merged"] == {"adapter": str(adapter), "base": str(base)}
    stored = load_file(tmp_path / "deep/merged/model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "deep/merged/lte.json").read_text()) == told


def test_the_command_refuses_in_one_message(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    adapter = adapter_of(base, tmp_path / "adapter")
    (adapter / "lte.json").write_text(json.dumps({"template": "lte-1"}))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    new, named = ("--output", tmp_path / "merged"), ("--model", base)
    for arguments, told in (
        ((adapter, "--output", tmp_path / "full", *named), "not empty; name a new folder"),
        ((adapter, *new), "names no base model; give one"),
        ((tmp_path / "gone", *new), "gone: no such folder"),
        ((adapter, *new, *named, "--dtype", "float17"), "'float17': no such dtype"),
        ((adapter, *new, "--model", tmp_path / "full"), "holds no tokenizer"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and told in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.glob("merged*")) and (tmp_path / "full/file").read_text() == "mine"
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    result = run(adapter, *new, *named)
    assert result.exit_code == 2 and "merged: 0.0 GB are free, the merged weights take 0.0 GB" in result.stderr
    assert not list(tmp_path.glob("merged*"))  # nothing was written
    assert run(adapter, *new).exit_code == 2


def test_an_adapter_of_other_weights_is_told(base: Path, tiny_lm: LM, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    adapter = adapter_of(base, tmp_path / "adapter")
    for base_sha256, warned in ((tiny_lm.weight_hash(), False), ("0" * 64, True)):
        (adapter / "lte.json").write_text(json.dumps({"base": str(base), "base_sha256": base_sha256}))
        with caplog.at_level(logging.WARNING, "lte"):
            assert run(adapter, "--output", tmp_path / f"merged-{warned}").exit_code == 0
        assert (f"{adapter} was trained on other weights than those of {base}" in caplog.text) is warned
