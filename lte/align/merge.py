"""An adapter written into its base model for good: one checkpoint that any server loads."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

from lte.align.dataset import AlignError
from lte.models import load_model
from lte.models.adapter import MANIFEST
from lte.models.layout import out_in
from lte.models.load import POCKET, pocket_home

log = logging.getLogger(__name__)


def merge(adapter: str | Path, output: str | Path, model: str = "", dtype: str = "", device: str = "cpu") -> Path:
    """Save the base model of `adapter` with the adapter's changes added to its weights, tokenizer and manifest beside.

    Each change is made and added in float32 and rounded once to the weights' dtype. A merged model is always on: it
    cannot leave a query without an edit to the base, as an adapter that is switched can.

    model  the base, where it is not what the adapter's manifest names
    dtype  of the merged weights; as the base's files have them where none is given
    """
    import torch

    adapter, output = Path(adapter), Path(output)
    if output.exists() and any(output.iterdir()):
        raise AlignError(f"{output}: not empty; name a new folder")
    base = model or _base(adapter)
    lm = load_model(base, device=device, dtype=dtype or _stored(base), adapter=adapter)
    manifest = lm.adapters["lte"].manifest
    if (trained := manifest.get("base_sha256")) and not lm.has_weights(trained):
        log.warning("%s was trained on other weights than those of %s", adapter, base)
    holders = Counter(id(p) for m in lm.model.modules() for p in m.parameters(recurse=False))
    changes = lm.adapters["lte"]
    with torch.no_grad():
        for path in changes.factors:
            module = lm.model.get_submodule(path)
            weight = out_in(module)
            if holders[id(module.get_parameter("weight"))] > 1:
                raise AlignError(f"{path}: shares its weight with another module, which the merge would change as well")
            a, b = (factor.float() for factor in changes.factors[path])
            weight.copy_((weight.float() + changes.scale * (b @ a)).to(weight.dtype))
    _refuse_full_disk(output, sum(weight.nbytes for weight in lm.model.parameters()))
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    lm.model.save_pretrained(part)
    lm.tokenizer.save_pretrained(part)
    told = {**manifest, "merged": {"adapter": str(adapter), "base": base}}
    (part / MANIFEST).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if output.exists():
        output.rmdir()
    part.replace(output)  # whole, or not there
    return output


def _refuse_full_disk(output: Path, wanted: int) -> None:
    """Raise `AlignError` where weights of so many bytes would not fit beside `output`."""
    there = next(p for p in output.absolute().parents if p.exists())
    if (free := shutil.disk_usage(there).free) < wanted:
        raise AlignError(
            f"{output}: {free / 1e9:.1f} GB are free, the merged weights take {wanted / 1e9:.1f} GB; name a folder on "
            "a larger disk, or make room"
        )


def _base(adapter: Path) -> str:
    """The base model that the adapter names: in our manifest, else in PEFT's config."""
    if not adapter.is_dir():
        raise AlignError(f"{adapter}: no such folder; give that of an adapter, with adapter_config.json")
    for name, key in ((MANIFEST, "base"), ("adapter_config.json", "base_model_name_or_path")):
        file = adapter / name
        if file.exists() and (found := json.loads(file.read_text(encoding="utf-8")).get(key)):
            return str(found)
    raise AlignError(f"{adapter}: names no base model; give one, or the folder of an adapter that `lte align` wrote")


def _stored(base: str) -> str:
    """The dtype of the base's files, by name; of what is no model, `load_model` will say so."""
    from transformers import AutoConfig

    try:
        kind = AutoConfig.from_pretrained(str(pocket_home()) if base == POCKET else base).dtype
    except (OSError, ValueError):
        return "auto"
    return str(kind).removeprefix("torch.") if kind else "float32"
