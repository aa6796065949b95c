"""A second model beside `tiny_lm`, of another architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from lte.models import LM


@pytest.fixture
def any_other(tokenizer: PreTrainedTokenizerFast) -> LM:
    """A random GPT-2, which keeps its weights transposed and adds biases."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=512, initializer_range=0.3
    )
    return LM.of(AutoModelForCausalLM.from_config(config), tokenizer, name="tiny-gpt2")


@pytest.fixture(scope="session")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Second moments are taken once a model."""
    return tmp_path_factory.mktemp("statistics")
