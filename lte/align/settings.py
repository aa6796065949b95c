"""The settings of an alignment run's training: what moves, how fast, in which batches, and what is watched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lte.config import Config


class LoraSettings(Config):
    """The shape of the adapter; the defaults reach every linear layer."""

    r: int = Field(16, gt=0)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"


class TrainSettings(Config):
    """Optimisation, in TRL's own terms."""

    method: Literal["lora", "qlora", "full"] = "lora"  # qlora: LoRA over weights in 4 bits, needs bitsandbytes
    epochs: float = Field(1.0, gt=0)
    max_steps: int = -1  # -1: as many as the epochs have
    batch_size: int = Field(16, gt=0)  # rows a device
    accumulation: int = Field(1, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_steps: int | float = Field(20, ge=0)  # below 1: a share of all steps
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(1024, gt=0)
    pad_to: int | None = Field(None, gt=0)  # padded rows are filled up to a multiple of this; None: to the longest
    bf16: bool = True
    gradient_checkpointing: bool = False
    save_steps: int = Field(100, gt=0)
    log_steps: int = Field(10, gt=0)  # steps from one line of log.jsonl to the next
    lora: LoraSettings = LoraSettings()
