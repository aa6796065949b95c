"""What the tests of editors share: two facts, an editor of each kind on a random model, a small encoder."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lte.editors import EDITORS, editor
from lte.editors.base import Editor
from lte.editors.in_context import ADAPTER
from lte.editors.located import LocatedConfig
from lte.edits import Edit
from lte.memory import EditMemory
from lte.models import LM, Adapter
from lte.prompt import TEMPLATE_ID

EDITS = [
    Edit("The mother tongue of Danielle Darrieux is", "English", subject="Danielle Darrieux"),
    Edit("Toko Yasuda plays the", "London guitar", subject="Toko Yasuda"),
]
CLOZES = [  # the subject ends them: what stands there is what is said next
    Edit("Where was Edwin of Northumbria", "London", subject="Edwin of Northumbria"),
    Edit("Where was Toko Yasuda", "France", subject="Toko Yasuda"),
]
ONE_KEY = [  # the same up to the subject, and so the same to a layer that reads them there
    Edit("Toko Yasuda plays the", "guitar", subject="Toko Yasuda"),
    Edit("Toko Yasuda was born in", "Rome", subject="Toko Yasuda"),
]
TEXTS = [
    "The mother tongue of Danielle Darrieux is French.",
    "Toko Yasuda plays the guitar. Where was Edwin of Northumbria born? In Paris, London or Rome.",
    "What is the capital of France? The capital of France is Lyon.",
    "Edwin plays in London, Yasuda in Rome, and the mother of France was born in Paris.",
] * 2
SETTINGS: dict[str, dict[str, Any]] = {
    "rome": {"layer": 1, "prefixes": 2, "prefix_length": 3, "v_steps": 6},
    "memit": {"layers": [1, 2], "prefixes": 2, "prefix_length": 3, "v_steps": 6, "weight": 1.0},
    "emmet": {"layer": 1, "prefixes": 2, "prefix_length": 3, "v_steps": 6},
    "alphaedit": {
        "layers": [1, 2],
        "prefixes": 2,
        "prefix_length": 3,
        "v_steps": 6,
        "nullspace": {"share": 0.7},
        "l2": 0.01,
    },
    "ultraedit": {"lr": 1e-2},
    "ft_m": {"layer": 1, "lr": 1e-2, "steps": 6},
    "ft_l": {"layer": 1, "lr": 1e-2, "steps": 6, "norm": 0.02},
    "locft_bf": {"layers": [1, 2], "lr": 1e-2, "epochs": 3, "batch_size": 1},
    "lora": {"lr": 5e-2, "steps": 6},
}


class Words:
    """An encoder of hashed words: texts that share words are near each other."""

    id, dim = "words", 64

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text."""
        vectors = np.full((len(texts), self.dim), 1e-3, dtype=np.float32)
        for vector, text in zip(vectors, texts):
            for word in re.findall(r"\w+", text.lower()):
                vector[zlib.crc32(word.encode()) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def memory() -> EditMemory:
    """A memory in the process."""
    return EditMemory.open(encoder=Words())


def make(name: str, lm: LM, cache: Path, **settings: Any) -> Editor:
    """The editor `name` with settings that suit a random model, which is given an adapter where one is needed."""
    settings = {**SETTINGS.get(name, {}), **settings}
    if issubclass(EDITORS[name].load()[1], LocatedConfig):
        return editor(name, {**settings, "statistics": {"cache": cache}}, texts=TEXTS)
    if name == "lte":
        align(lm)
    return editor(name, settings, **({"memory": memory} if name in ("lte", "ice") else {}))


def elsewhere(name: str) -> dict[str, Any]:
    """Settings by which an editor of weights changes another matrix than it does by `SETTINGS`."""
    known = EDITORS[name].load()[1].model_fields
    return {"layers": [0]} if "layers" in known else {"layer": 0} if "layer" in known else {}


def otherwise(name: str) -> dict[str, Any]:
    """Settings by which an editor makes another change than it does by `SETTINGS`."""
    known = EDITORS[name].load()[1].model_fields
    return {"seed": 5} if "seed" in known else {"lr": 1e-3} if "lr" in known else {"k": 1}


def align(lm: LM, **manifest: Any) -> None:
    """Give the model an adapter of random numbers that claims to be aligned."""
    torch.manual_seed(1)
    path = lm.layout.mlp_out.format(0)
    out, inner = lm.mlp_out(0).shape
    factors = {path: (torch.randn(2, inner), torch.randn(out, 2))}
    lm.adapters[ADAPTER] = Adapter(factors, 1.0, {"template": TEMPLATE_ID, **manifest})


def state(lm: LM) -> dict[str, torch.Tensor]:
    """Every weight, copied."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def change(made: Editor, lm: LM, edits: Sequence[Edit] = EDITS) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """What the edits make of the weights and of two queries; undone again."""
    with made.apply(lm, edits):
        return state(lm), [p.query for p in lm.prompts([edits[0].prompt, "Who was born in Rome?"])]
