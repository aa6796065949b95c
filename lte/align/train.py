"""Fine-tune a model on the parallel dataset with TRL, under DeepSpeed where it was started by its launcher."""

from __future__ import annotations

import json
import logging
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lte.align.adapter import load_base
from lte.align.callbacks import BEST, Journal, Keeper, Stop
from lte.align.checkpoints import fingerprint, pick, refuse_full_disk, sign
from lte.align.dataset import AlignError, Row
from lte.align.divided import weight_hash
from lte.align.forecast import forecast
from lte.align.model_card import model_card
from lte.align.prepare import Encoder, Progress, prepared, silent
from lte.align.ranks import lost_ranks_told
from lte.align.rows import tokenised, written
from lte.align.settings import AlignConfig
from lte.align.trainer import accelerated, arguments_of, trainer_of
from lte.align.watch import Watch
from lte.config import load
from lte.edits import read_cases
from lte.models import LM
from lte.models.adapter import MANIFEST
from lte.prompt import TEMPLATE_ID

log = logging.getLogger(__name__)


def main(
    config: str | Path,
    overrides: list[str] | tuple[str, ...] = (),
    preview: int = 0,
    dry_run: bool = False,
    resume: str = "auto",
    encoder: Encoder = lambda config: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Align as the config file says; what was made comes back (the manifest, or the dataset's figures on a dry run).

    preview  how many rendered samples to return under "samples", with the learned part in ⟦brackets⟧; no training
    dry_run  build the dataset and check everything, train nothing
    resume   "auto" takes up the last checkpoint, "none" starts over, a path names a checkpoint
    encoder  gives what finds the near misses of a dataset that is built here; without one there are none
    progress  opens the bars that show how far the dataset is built
    """
    settings = load(AlignConfig, config, overrides)
    arguments, zero = None, _zero(settings)
    folder = prepared(settings, _device(), encoder, progress)
    rows, figures = written(folder, settings.held_out, settings.limit)
    if not (preview or dry_run):  # before the model: then ZeRO-3 loads it in parts, each rank its own
        arguments = arguments_of(settings.train, settings.checkpoints, settings.seed, zero)
    lm = load_base(settings.model, settings.train.method, _device(), launched=zero is not None)
    log.info("%s: %s", folder, figures)
    if figures.get("model") not in (None, settings.model):
        log.warning("%s holds the own answers of %s; this run trains %s", folder, figures["model"], settings.model)
    if preview or dry_run:
        planned = forecast(lm, rows, settings) if dry_run else {}
        return {**figures, **planned, "samples": [shown(lm, row) for row in rows[:preview]]}
    return train(lm, rows, settings, resume, figures, arguments)


def shown(lm: LM, row: Row) -> str:
    """A row as the trainer sees it: the whole text, with the tokens that carry loss in ⟦ ⟧."""
    text = lm.render(row.prompt)
    return f"{row.role}\n{text}⟦{row.answer}{lm.tokenizer.eos_token}⟧"


def train(
    lm: LM, rows: list[Row], settings: AlignConfig, resume: str, figures: dict[str, Any], arguments: Any = None
) -> dict[str, Any]:
    """Train, save the adapter (or the whole model) and its manifest into `settings.output`; the manifest comes back.

    A run that SIGTERM has stopped writes no output; what comes back says at which step it stands.

    arguments  TRL's, where they were made before the model was loaded
    """
    t = settings.train
    work, output = settings.checkpoints, Path(settings.output)
    if not lm.tokenizer.chat_template:
        raise AlignError(f"{settings.model}: its tokenizer has no chat template; align an instruct model, or set one")
    made, report = tokenised(lm.tokenizer, rows, t)
    log.info("rows: %s", report)
    base_hash = None if t.method == "qlora" else weight_hash(lm)  # quantised, it is no one else's
    zero = _zero(settings)
    watch = Watch(lm, read_cases(t.watch.cases)[: t.watch.limit]) if t.watch.cases else None
    trainer = trainer_of(lm, made, t, arguments or arguments_of(t, work, settings.seed, zero))
    mine = fingerprint(
        settings.model,
        figures.get("sha256"),
        settings.seed,
        t.model_dump(mode="json"),
        trainer.args.world_size,
        bool(zero),
    )
    checkpoint = pick(work, resume, mine)
    moving = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad)
    refuse_full_disk(work, moving, moving * lm.dtype.itemsize)
    first = trainer.is_world_process_zero()
    if first:
        sign(work, mine)
    stop = Stop()
    keeper = Keeper(trainer, watch, t.watch, work / "best") if watch else None
    for callback in (Journal(work / "log.jsonl"), stop, keeper):
        if callback:
            trainer.add_callback(callback)
    with stop.listening(), lost_ranks_told(work):
        trainer.train(resume_from_checkpoint=checkpoint)
        if stop.asked and trainer.state.global_step < trainer.state.max_steps:
            return {"stopped_at_step": trainer.state.global_step, "of": trainer.state.max_steps, "work": str(work)}
        if keeper and keeper.best:
            if first:
                shutil.copytree(keeper.folder, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(BEST))
        else:
            trainer.save_model(settings.output)
    manifest = {
        "template": TEMPLATE_ID,
        "base": settings.model,
        "base_sha256": base_hash,
        "data": figures,
        "lengths": report,
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "metrics": keeper.best or keeper.last if keeper else {},
        "versions": _versions("torch", "transformers", "trl", "peft", "deepspeed"),
    }
    if first:
        _tidy(output, settings.model if t.method != "full" else None)
        (output / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (output / "README.md").write_text(model_card(manifest, t.method), encoding="utf-8")
    return manifest


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


def _zero(settings: AlignConfig) -> str | None:
    """The DeepSpeed preset, where the config names one and a launcher started us."""
    return settings.deepspeed if "LOCAL_RANK" in os.environ else None


def _device() -> str:
    """This rank's own GPU under a launcher, else whatever there is."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if accelerated() else "cpu"
