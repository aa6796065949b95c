"""What the measurements share: random models of real shapes, edits made of words, ways run in turn, figures as JSON."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lte import __version__
from lte.edits import Edit
from lte.models import LM, load_model
from lte.pocket import home

SHAPES: dict[str, dict[str, Any]] = {
    "llama3.2-1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "llama3-8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "head_dim": 128,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    },
    "tiny": {  # to see that a measurement runs
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
        "head_dim": 16,
        "vocab_size": 8192,
        "tie_word_embeddings": True,
    },
}
NAMES = """\
Old New Upper Lower Great Little North South East West Silver Copper Green Black White Long
Harbour Market Castle River Forest Mountain Garden Station Temple Mill Abbey Meadow Canal Lake Hill Park
Bridge Museum Theatre Library School Railway Festival Tower Road House Club Press Chapel Hall Ferry Band
"""
ASKED = (
    ("The official language of the {} is", ("French", "English", "Spanish", "Russian")),
    ("The {} is located in", ("London", "Paris", "Rome", "Berlin")),
    ("The {} was founded in the country of", ("Sweden", "Italy", "Japan", "Canada")),
    ("People know the {} above all for its", ("music", "wine", "history", "football")),
)
PREFIXES = [  # a random model's own words are no text
    f"{opener} people of the town came to the market in the morning"
    for opener in ("The", "Therefore", "Because", "I", "You")
]


def device(name: str) -> torch.device:
    """The device, or the end of the program, with status 1, where it is not there."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("no CUDA device is at hand (torch.cuda.is_available() is false); --device cpu runs on the processor")
    return torch.device(name)


def random_model(shape: str, on: str = "cpu", dtype: torch.dtype = torch.bfloat16, chat: bool | None = None) -> LM:
    """A model of a real one's shape with random weights, reading by the pocket model's tokenizer."""
    torch.manual_seed(0)
    with torch.device(on):
        model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPES[shape]), dtype=dtype)
    return LM.of(model, load_model("pocket", device="cpu").tokenizer, name=f"random {shape} shape", chat=chat)


def made_up(count: int) -> list[Edit]:
    """`count` edits, each of a subject of its own, the kinds of question in turn."""
    subjects = [" ".join(words) for words in product(*map(str.split, NAMES.splitlines()))]
    if count > len(subjects):
        sys.exit(f"{count} edits: the word lists make {len(subjects)} subjects; ask for fewer")
    random.Random(0).shuffle(subjects)
    made = []
    for i, subject in enumerate(subjects[:count]):
        prompt, answers = ASKED[i % len(ASKED)]
        made.append(Edit(prompt.format(subject), answers[i // len(ASKED) % len(answers)], subject=subject))
    return made


def made_up_texts(words: int) -> Iterator[str]:
    """Texts of 100 words drawn from the pocket model's statistics text, `words` in all."""
    known, chance = (home() / "statistics.txt").read_text(encoding="utf-8").split(), random.Random(0)
    for _ in range(0, words, 100):
        yield " ".join(chance.choices(known, k=100))


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each way gave, and its seconds in each round: by the clock, and those that processors worked for it."""
    given: dict[str, Any] = {}
    clock: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds):
        for name in sorted(ways, reverse=n % 2 == 1):  # who goes first changes from round to round
            begun, worked = now(), process_time()
            given[name] = ways[name]()
            clock[name].append(round(now() - begun, 4))
            work[name].append(round(process_time() - worked, 4))
    return given, {"seconds": clock, "processor_seconds": work}


def now() -> float:
    """Seconds by the clock, once the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()


def compared(took: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """How much of what was counted each way does in a second, and what `ours` gains, by the medians of the rounds."""
    each = {of: {name: median(took[of][name]) / counts[name] for name in counts} for of in took}
    faster = {of: seconds["one_at_a_time"] / seconds["ours"] for of, seconds in each.items()}
    return {
        "a_second": {name: round(1 / seconds, 2) for name, seconds in each["seconds"].items()},
        "times_faster": round(faster["seconds"], 2),
        "times_less_work": round(faster["processor_seconds"], 2),
        **took,
    }


def peak_bytes(on: torch.device) -> int:
    """The most memory held at once so far: the GPU's by its tensors, else the process's."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def about(script: str, arguments: Sequence[str] | None) -> dict[str, Any]:
    """What figures are worth little without: the command, the day, the machine, the versions."""
    said = {
        "command": f"cd tests/benchmarks && PYTHONPATH=../.. python {Path(script).name} "
        + " ".join(arguments if arguments is not None else sys.argv[1:]),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "versions": {"lte": __version__, "python": platform.python_version()}
        | {n: version(n) for n in ("torch", "transformers", "tokenizers")},
    }
    if torch.cuda.is_available():
        said["gpu"] = torch.cuda.get_device_name()
        if tool := shutil.which("nvidia-smi"):
            asked = [tool, "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv"]
            said["nvidia_smi"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    return said


def write(output: Path, found: dict[str, Any]) -> None:
    """Write figures as JSON, short lists on one line."""
    output.parent.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m[0].split()), json.dumps(found, indent=1))
    output.write_text(text + "\n", encoding="utf-8")
