"""The weights that a run starts from, and the adapter that it trains on top of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lte.align.dataset import AlignError
from lte.align.settings import LoraSettings
from lte.models import LM, load_model
from lte.models.load import POCKET, pocket_home


def lora_config(lora: LoraSettings) -> Any:
    """PEFT's description of the adapter (`peft.LoraConfig`)."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="CAUSAL_LM",
    )


def load_base(name: str, method: str, device: str, launched: bool = False) -> LM:
    """The model to train, its weights in the numbers that the method needs.

    launched  DeepSpeed trains, and keeps a float32 copy of what it trains; otherwise full fine-tuning is on float32
              weights: in bfloat16 most of Adam's steps would be rounded away
    """
    if method == "qlora":
        return _quantised(name, device)
    return load_model(name, device=device, dtype="float32" if method == "full" and not launched else "auto")


def require(package: str, setting: str, install: str) -> None:
    """Raise `AlignError` where an optional package is not there that a setting asks for."""
    if find_spec(package) is None:
        raise AlignError(f"{setting} needs the package {install}; pip install {install}, or change the setting")


def _quantised(name: str, device: str) -> LM:
    """The model with the linear layers of its blocks in NF4, as QLoRA has it (arXiv:2305.14314, section 3)."""
    require("bitsandbytes", "train.method=qlora", "bitsandbytes")
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from lte.models.load import load_tokenizer

    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    source = str(pocket_home()) if name == POCKET else name
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=bits, dtype=torch.bfloat16, device_map={"": device}
    )
    return LM.of(model, load_tokenizer(name)[0], name=name)
