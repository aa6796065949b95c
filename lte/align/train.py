"""Fine-tune a model on the parallel dataset with TRL, under DeepSpeed where it was started by its launcher."""

from __future__ import annotations

import json
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lte.align.adapter import load_base, lora_config
from lte.align.dataset import AlignError, DatasetConfig, Row, build, describe, refuse_leaks
from lte.align.settings import TrainSettings
from lte.config import Config, load
from lte.edits import read_cases
from lte.models import LM
from lte.models.adapter import MANIFEST
from lte.prompt import TEMPLATE_ID

log = logging.getLogger(__name__)


class AlignConfig(Config):
    """One alignment run. `data` and `train` have defaults; the rest says which model learns from which cases."""

    model: str = "pocket"
    cases: str  # JSONL of cases (lte/edits.py)
    held_out: tuple[str, ...] = ()  # case files whose subjects must not be trained on
    output: str
    work: str = ""  # checkpoints; beside the output by default
    limit: int | None = None
    seed: int = 0
    deepspeed: str | None = None  # a DeepSpeed JSON, used when the DeepSpeed launcher started us
    data: DatasetConfig = DatasetConfig()
    train: TrainSettings = TrainSettings()


def main(
    config: str | Path,
    overrides: list[str] | tuple[str, ...] = (),
    preview: int = 0,
    dry_run: bool = False,
    resume: str = "auto",
) -> dict[str, Any]:
    """Align as the config file says; what was made comes back (the manifest, or the dataset's figures on a dry run).

    preview  how many rendered samples to return under "samples", with the learned part in ⟦brackets⟧; no training
    dry_run  build the dataset and check everything, train nothing
    resume   "auto" takes up the last checkpoint, "none" starts over, a path names a checkpoint
    """
    settings = load(AlignConfig, config, overrides)
    cases = read_cases(settings.cases)[: settings.limit]
    for path in settings.held_out:
        refuse_leaks(cases, read_cases(path))
    lm = load_base(settings.model, settings.train.method, _device(), launched=_launched(settings))
    rows = build(cases, lm, settings.data)
    figures = describe(rows)
    log.info("%s: %s", settings.cases, figures)
    if preview or dry_run:
        return {**figures, "samples": [shown(lm, row) for row in rows[:preview]]}
    return train(lm, rows, settings, resume, figures)


def shown(lm: LM, row: Row) -> str:
    """A row as the trainer sees it: the whole text, with the tokens that carry loss in ⟦ ⟧."""
    text = lm.render(row.prompt)
    return f"{row.role}\n{text}⟦{row.answer}{lm.tokenizer.eos_token}⟧"


def train(lm: LM, rows: list[Row], settings: AlignConfig, resume: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Train, save the adapter (or the whole model) and its manifest into `settings.output`; the manifest comes back."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if not lm.tokenizer.chat_template:
        raise AlignError(f"{settings.model}: its tokenizer has no chat template; align an instruct model, or set one")
    base_hash = None if settings.train.method == "qlora" else lm.weight_hash()  # quantised, it is no one else's
    t = settings.train
    work = Path(settings.work or f"{settings.output}.work")
    arguments = SFTConfig(
        output_dir=str(work),
        use_cpu=not _accelerated(),
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
        max_length=t.max_length,
        completion_only_loss=True,
        packing=False,
        pad_to_multiple_of=t.pad_to,
        activation_checkpointing=t.gradient_checkpointing,
        dataloader_pin_memory=_accelerated(),
        logging_steps=t.log_steps,
        save_steps=t.save_steps,
        save_total_limit=2,
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        deepspeed=settings.deepspeed if _launched(settings) else None,
    )
    trainer = SFTTrainer(
        model=lm.model,
        args=arguments,
        train_dataset=Dataset.from_list([_conversation(row) for row in rows]),
        processing_class=lm.tokenizer,
        peft_config=lora_config(t.lora) if t.method != "full" else None,
    )
    refuse_empty_loss(trainer, len(rows))
    trainer.train(resume_from_checkpoint=_checkpoint(work, resume))
    trainer.save_model(settings.output)
    manifest = {
        "template": TEMPLATE_ID,
        "base": settings.model,
        "base_sha256": base_hash,
        "data": figures,
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "versions": _versions("torch", "transformers", "trl", "peft", "deepspeed"),
    }
    if trainer.is_world_process_zero():
        _tidy(Path(settings.output), settings.model if t.method != "full" else None)
        (Path(settings.output) / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (work / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in trainer.state.log_history))
    return manifest


def refuse_empty_loss(trainer: Any, rows: int) -> None:
    """Raise `AlignError` when rows lost their answer, or a batch has no token to learn: both would pass in silence."""
    limit = trainer.args.max_length
    if kept := rows - len(trainer.train_dataset):
        raise AlignError(f"{kept} of {rows} rows have no answer within max_length={limit} tokens; raise it")
    batch = next(iter(trainer.get_train_dataloader()))
    if not (batch["labels"] != -100).any():
        raise AlignError(f"no token of the first batch carries loss (max_length={limit}); look at --preview")


def _conversation(row: Row) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row.prompt}],
        "completion": [{"role": "assistant", "content": row.answer}],
    }


def _tidy(output: Path, base: str | None) -> None:
    """Leave what a model needs: no pickled arguments; beside an adapter (of `base`) no second copy of its tokenizer.

    The adapter names its base as the config does, not by the folder that this machine loaded it from.
    """
    extra = ["training_args.bin", "README.md"]
    if base is not None:
        extra += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
        config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base
        (output / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    for name in extra:
        (output / name).unlink(missing_ok=True)


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # deepspeed is not needed on one device
            continue
    return found


def _launched(settings: AlignConfig) -> bool:
    """Whether DeepSpeed is to be used: the config names a preset, and a launcher started us."""
    return settings.deepspeed is not None and "LOCAL_RANK" in os.environ


def _accelerated() -> bool:
    import torch

    return torch.cuda.is_available()


def _device() -> str:
    """This rank's own GPU under a launcher, else whatever there is."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if _accelerated() else "cpu"


def _checkpoint(work: Path, resume: str) -> str | None:
    if resume == "none":
        return None
    if resume != "auto":
        if not Path(resume).is_dir():
            raise AlignError(f"--resume {resume}: no such checkpoint folder; use auto, none or a checkpoint-N folder")
        return resume
    done = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    whole = [p for p in done if (p / "trainer_state.json").exists()]  # a kill while saving leaves a part
    return str(whole[-1]) if whole else None
