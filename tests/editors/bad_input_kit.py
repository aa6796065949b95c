"""What the tests of bad input share: which editors change weights, models of four families, and what is promised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from editors_kit import make, state
from tiny_models import tiny_model
from tiny_tokenizers import gpt2_like, llama2_like, llama3_like, normalising

from lte.editors import EDITORS
from lte.editors.in_context import InContextConfig
from lte.editors.located import LocatedConfig
from lte.edits import Edit
from lte.models import LM

FAMILIES = {"llama3": llama3_like, "gpt2": gpt2_like, "llama2": llama2_like, "normalising": normalising}
SETTINGS = {name: entry.load()[1] for name, entry in EDITORS.items()}
WEIGHTS = [name for name, kind in SETTINGS.items() if not issubclass(kind, InContextConfig)]
LOCATED = [name for name in WEIGHTS if issubclass(SETTINGS[name], LocatedConfig)]
TRAINED = [name for name in WEIGHTS if name not in LOCATED]
of_weights = pytest.mark.parametrize("name", WEIGHTS)
of_located = pytest.mark.parametrize("name", LOCATED)
CLOZE = Edit("Where was Toko Yasuda", "London", subject="Toko Yasuda")


@cache
def model(family: str) -> LM:
    """A model of the family, asked in plain text: what ends in the subject can be steered even at random weights."""
    tokenizer = normalising(words=False) if family == "unparted" else FAMILIES[family]()
    return LM.of(tiny_model("gpt2" if family == "gpt2" else "llama", tokenizer), tokenizer, name=family, chat=False)


def made(name: str, lm: LM, cache: Path, **wanted: Any) -> Any:
    """The editor with those of the settings that it has."""
    return make(name, lm, cache, **{k: v for k, v in wanted.items() if k in SETTINGS[name].model_fields})


def after(editor: Any, lm: LM, *edits: Edit) -> dict[str, torch.Tensor]:
    """The weights with the edits in force."""
    with editor.apply(lm, edits):
        return state(lm)


def refused(editor: Any, lm: LM, edits: Sequence[Edit], said: str) -> None:
    """The edits are refused in these words, and nothing is changed by that."""
    before = state(lm)
    with pytest.raises(ValueError, match=said):
        editor.apply(lm, edits)
    assert all(torch.equal(before[n].nan_to_num(7), w.nan_to_num(7)) for n, w in state(lm).items())
    assert lm.handles == [] and lm.routes == []


def likelier(editor: Any, lm: LM, edit: Edit) -> bool:
    """Whether the edit's answer is likelier once it is made."""
    before = lm.score([edit.prompt], [edit.target_new])[0].logprob
    with editor.apply(lm, [edit]):
        return lm.score([edit.prompt], [edit.target_new])[0].logprob > before
