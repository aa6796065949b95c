"""Change a model, reversibly: one file per method, one line per method below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from lte.config import Config, ConfigError, based, load, parse, read

if TYPE_CHECKING:
    from lte.editors.base import Editor

__all__ = ["EDITORS", "Entry", "editor", "editor_from"]


@dataclass(frozen=True)
class Entry:
    """Where an editor and its settings are; imported when it is first made, so that listing them needs no torch."""

    module: str
    editor: str
    config: str
    about: str

    def load(self) -> tuple[Callable[..., Editor], type[Config]]:
        """The editor's class and that of its settings."""
        module = import_module(self.module)
        return getattr(module, self.editor), getattr(module, self.config)


EDITORS: dict[str, Entry] = {
    "lte": Entry(
        "lte.editors.in_context",
        "LTE",
        "LTEConfig",
        "edits in the prompt, recalled by the question; an aligned adapter heeds them",
    ),
    "ice": Entry(
        "lte.editors.in_context",
        "ICE",
        "ICEConfig",
        "edits in the prompt, recalled by the question; the model as it is",
    ),
    "ft_m": Entry(
        "lte.editors.finetune",
        "FineTune",
        "FineTuneConfig",
        "one MLP projection fine-tuned on the answer tokens (FT-M)",
    ),
    "ft_l": Entry(
        "lte.editors.ft_l",
        "FTL",
        "FTLConfig",
        "one MLP projection fine-tuned, none of its entries further than a bound (FT-L)",
    ),
    "locft_bf": Entry(
        "lte.editors.locft_bf",
        "LocFT",
        "LocFTConfig",
        "late MLP projections fine-tuned breadth-first: epochs of mini-batches over all edits",
    ),
    "lora": Entry(
        "lte.editors.lora",
        "LoRA",
        "LoRAConfig",
        "a low-rank adapter trained on the answer tokens and merged into the weights",
    ),
    "rome": Entry(
        "lte.editors.rome",
        "Rome",
        "RomeConfig",
        "each fact a rank-one change to one MLP projection, by one consistent key (r-ROME)",
    ),
    "memit": Entry(
        "lte.editors.memit",
        "Memit",
        "MemitConfig",
        "many facts by one solve, balanced against ordinary keys, spread over some layers",
    ),
    "emmet": Entry(
        "lte.editors.emmet",
        "Emmet",
        "EmmetConfig",
        "many facts by one solve, each met exactly, in one layer",
    ),
    "alphaedit": Entry(
        "lte.editors.alphaedit",
        "AlphaEdit",
        "AlphaEditConfig",
        "many facts by one solve, in directions that ordinary keys lack and beside those of earlier edits",
    ),
    "ultraedit": Entry(
        "lte.editors.ultraedit",
        "UltraEdit",
        "UltraEditConfig",
        "many matrices by one step of closed form from keys and gradients, normalised over all edits",
    ),
}


def editor(
    name: str,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    overrides: Sequence[str] = (),
    **parts: Any,
) -> Editor:
    """The editor `name` with its settings: a settings object, a mapping, a YAML file, or `None` for the defaults.

    name   of `EDITORS`, or one of your own where the settings say of which (`editor: rome`), to compare several
    config  a mapping may stand on a YAML file: {from: configs/editors/pocket/rome.yaml, layer: 0}
    parts  what the editor's class takes besides its settings: `texts` for those that need statistics (rome, memit,
           emmet), `memory` for lte and ice
    """
    if isinstance(config, Mapping):
        config = based(config, f"settings of {name}: from")
    if name not in EDITORS:
        name = _base(name, config)
    kind, settings = EDITORS[name].load()
    if isinstance(config, Mapping):
        config = parse(settings, config, f"settings of {name}")
    elif not isinstance(config, Config):
        config = load(settings, config, overrides)
    elif not isinstance(config, settings):
        raise ConfigError(f"editor {name!r}: takes a {settings.__name__}, not a {type(config).__name__}")
    return kind(config, **parts)


def _base(name: str, config: Config | Mapping[str, Any] | str | Path | None) -> str:
    """The editor that settings under a name of their own are for."""
    if isinstance(config, Config):
        base = getattr(config, "editor", None)
    else:
        base = (config if isinstance(config, Mapping) else read(config) if config else {}).get("editor")
    if base not in EDITORS:
        raise ConfigError(
            f"editor {name!r}: no such editor; there are {', '.join(EDITORS)}. A name of your own stands for one of "
            "them with other settings, which say which: {editor: rome, layer: 1}"
        )
    return str(base)


def editor_from(path: str | Path, overrides: Sequence[str] = (), **parts: Any) -> Editor:
    """The editor that a YAML file names under `editor`, with the settings it holds."""
    return editor(load(_Named, path).editor, path, overrides, **parts)


class _Named(Config):
    model_config = ConfigDict(frozen=True, extra="ignore")

    editor: str
