"""TRL's trainer, set up as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lte.align.adapter import lora_config, require
from lte.align.checkpoints import KEPT
from lte.align.dataset import AlignError
from lte.align.ranks import on_one_gpu, refuse_misuse
from lte.align.rows import Tokens, checked
from lte.align.settings import TrainSettings
from lte.models import LM


def arguments_of(t: TrainSettings, work: Path, seed: int, zero: str | None) -> Any:
    """TRL's arguments (`trl.SFTConfig`); `zero` is a DeepSpeed preset, which takes effect at once, or none."""
    from trl import SFTConfig

    refuse_misuse(zero)
    if t.liger:
        require("liger_kernel", "train.liger", "liger-kernel")
    for tracker in t.trackers:
        require(tracker, f"train.trackers: {tracker}", tracker)
    arguments = SFTConfig(
        output_dir=str(work),
        use_cpu=not accelerated(),
        bf16=t.bf16,
        num_train_epochs=t.epochs,
        max_steps=t.max_steps,
        per_device_train_batch_size=t.batch_size,
        gradient_accumulation_steps=t.accumulation,
        learning_rate=t.learning_rate,
        lr_scheduler_type=t.schedule,
        warmup_steps=t.warmup_steps,
        weight_decay=t.weight_decay,
        optim="adamw_torch",
        max_length=t.max_length if t.batching == "packed" else None,  # the rows are short enough already
        completion_only_loss=True,
        packing=t.batching == "packed",
        padding_free=t.batching == "padding-free",
        pad_to_multiple_of=t.pad_to,
        use_liger_kernel=t.liger,
        activation_checkpointing=t.gradient_checkpointing,
        dataloader_pin_memory=accelerated(),
        logging_steps=t.log_steps,
        save_steps=t.save_steps,
        save_total_limit=KEPT,
        report_to=list(t.trackers) or "none",
        seed=seed,
        data_seed=seed,
        deepspeed=zero,
    )
    return on_one_gpu(arguments)


def trainer_of(lm: LM, rows: list[Tokens], t: TrainSettings, arguments: Any) -> Any:
    """A `trl.SFTTrainer` over rows that are tokenised and short enough."""
    from datasets import Dataset
    from trl import SFTTrainer

    if t.attention:
        try:
            model: Any = lm.model
            model.set_attn_implementation(t.attention)
        except (ImportError, ValueError) as error:
            raise AlignError(
                f"train.attention={t.attention}: {str(error).splitlines()[0]} Install what it names, or leave it out"
            ) from error
    trainer = SFTTrainer(
        model=lm.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=lm.tokenizer,
        peft_config=lora_config(t.lora) if t.method != "full" else None,
    )
    trainer.data_collator = checked(trainer.data_collator)
    return trainer


def accelerated() -> bool:
    """Whether there is a GPU."""
    import torch

    return torch.cuda.is_available()
