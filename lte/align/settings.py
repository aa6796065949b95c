"""The settings of an alignment run: which model learns from what, what moves, how fast, and what is watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lte.align.data.config import DataConfig, Recipe
from lte.align.sources import SourceConfig
from lte.config import Config, based


class LoraSettings(Config):
    """The shape of the adapter; the defaults reach every linear layer."""

    r: int = Field(16, gt=0)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"


class WatchSettings(Config):
    """What is measured on held-out cases while the model trains; without `cases`, nothing is."""

    cases: str = ""  # JSONL of cases that are not trained on (lte/edits.py)
    every: int = Field(100, gt=0)  # steps from one measurement to the next
    limit: int = Field(64, gt=0)  # cases, the first of the file
    keep_best: bool = True  # what is saved in the end: the best measured, else the last


class TrainSettings(Config):
    """Optimisation, in TRL's own terms."""

    method: Literal["lora", "qlora", "full"] = "lora"  # qlora: LoRA over weights in 4 bits, needs bitsandbytes
    epochs: float = Field(1.0, gt=0)
    max_steps: int = -1  # -1: as many as the epochs have
    batch_size: int = Field(16, gt=0)  # rows a device, of `max_length` tokens where they are packed
    accumulation: int = Field(1, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_steps: int | float = Field(20, ge=0)  # below 1: a share of all steps
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(1024, gt=0)
    too_long: Literal["drop", "cut", "refuse"] = "drop"  # rows of more tokens: left out, cut at the end, or an error
    batching: Literal["padded", "padding-free", "packed"] = "padded"  # the latter two: best with flash attention
    pad_to: int | None = Field(None, gt=0)  # padded rows are filled up to a multiple of this; None: to the longest
    attention: str | None = None  # of transformers, e.g. flash_attention_2 or sdpa; None: the model's own choice
    liger: bool = False  # Liger's kernels; needs the package liger-kernel and a GPU
    bf16: bool = True
    gradient_checkpointing: bool = False
    save_steps: int = Field(100, gt=0)
    log_steps: int = Field(10, gt=0)  # steps from one line of log.jsonl to the next
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()  # beside the local log.jsonl
    lora: LoraSettings = LoraSettings()
    watch: WatchSettings = WatchSettings()

    @model_validator(mode="after")
    def _one_way_of_batching(self) -> TrainSettings:
        if self.pad_to and self.batching != "padded":
            raise ValueError(f"pad_to={self.pad_to} fills up padded rows; batching={self.batching} has none")
        return self


class AlignConfig(Config):
    """One alignment run: which model learns from what, and how."""

    model: str = "pocket"
    data: Recipe = Recipe()  # the dataset, built into the work folder; `from` names a file of `lte align data`
    cases: str = ""  # JSONL of your own cases (lte/edits.py): one source more
    dataset: str = ""  # in place of both: a folder that `lte align data` has written
    held_out: tuple[str, ...] = ()  # case files whose subjects, or prompts, must not be trained on
    output: str
    work: str = ""  # checkpoints and the dataset; beside the output by default
    limit: int | None = None  # rows, the first of the dataset; data.items limits what is built
    seed: int = 0
    deepspeed: str | None = None  # a DeepSpeed JSON, used when the DeepSpeed launcher started us
    train: TrainSettings = TrainSettings()

    @field_validator("data", mode="before")
    @classmethod
    def _on_top_of_a_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "from" not in given:
            return given
        found = based(given, "data.from")
        return {name: value for name, value in found.items() if name not in ("model", "seed")}  # this run has its own

    @model_validator(mode="after")
    def _one_source(self) -> AlignConfig:
        if bool(self.cases or self.data.sources) == bool(self.dataset):
            raise ValueError(
                "wanted something to train on: sources under data, or cases, a JSONL file; or else a dataset, the "
                "folder of `lte align data`, and none of these"
            )
        return self

    def recipe(self) -> DataConfig:
        """The dataset to build, of the sources of `data` and of `cases`, in this run's seed and for this model."""
        chosen = self.data.model_dump(exclude_unset=True)
        chosen["sources"] = dict(self.data.sources)
        if self.cases:
            chosen["sources"]["cases"] = SourceConfig(kind="cases", path=self.cases)
        known = {path: SourceConfig(kind="cases", path=path) for path in self.held_out}
        chosen["held_out"] = {**self.data.held_out, **known}
        chosen.setdefault("max_length", self.train.max_length)
        return DataConfig(model=self.model, seed=self.seed, **chosen)

    @property
    def checkpoints(self) -> Path:
        """Where they are kept."""
        return Path(self.work or f"{self.output}.work")
