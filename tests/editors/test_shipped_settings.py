"""Every settings file that is shipped: it loads, says how to run it, and asks for nothing that its model has not."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from lte.config import load
from lte.editors import EDITORS, editor, editor_from
from lte.editors.statistics import StatisticsConfig
from lte.pocket import home

SHIPPED = Path(__file__).parents[2] / "configs" / "editors"
FILES = sorted(SHIPPED.rglob("*.yaml"))
SHAPES = {  # folder: blocks, entries of a key (d_k), tokens of context: from the models' own config.json
    "llama3-8b": (32, 14336, 8192),
    "llama3.1-8b": (32, 14336, 131072),
    "llama3.2-1b": (16, 8192, 131072),
    "llama3.2-3b": (28, 8192, 131072),
    "llama2-7b": (32, 11008, 4096),
    "qwen2.5-7b": (28, 18944, 131072),
    "gpt-j": (28, 16384, 2048),
    "gpt2-xl": (48, 6400, 1024),
}
LOCATED = ("rome", "memit", "emmet", "alphaedit")  # of the study: each model has them all
MOST = 2048  # tokens of a text read for statistics; whole contexts of 131 072 are what runs out of memory (B23)
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")


def shape(folder: str) -> tuple[int, int, int]:
    """(blocks, d_k, context) of the model that a folder is for."""
    if folder != "pocket":
        return SHAPES[folder]
    config = json.loads((home() / "config.json").read_text(encoding="utf-8"))
    return config["num_hidden_layers"], config["intermediate_size"], config["max_position_embeddings"]


def command(path: Path) -> list[str]:
    """The words of the command in a file's first line."""
    return shlex.split(path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#"))


@every_file
def test_it_loads_by_its_name_and_by_itself(path: Path) -> None:
    made = editor_from(path)
    assert made.name == path.stem  # where the command line looks for the settings of an editor
    assert editor(made.name, path).config == made.config == load(EDITORS[made.name].load()[1], path)


@every_file
def test_its_first_line_runs_it(path: Path) -> None:
    words, own = command(path), f"configs/editors/{path.relative_to(SHIPPED)}"
    assert words[:2] in (["lte", "edit"], ["lte", "evaluate"])
    assert [w for w in words if "configs/editors/" in w] in ([own], [f"editor_settings.{path.stem}={own}"])
    if words[1] == "edit":
        overrides = [b for a, b in pairwise(words) if a == "--set"]
        assert editor_from(path, overrides).name == path.stem
        assert (words[words.index("--model") + 1] == "pocket") == (path.parent.name == "pocket")


@every_file
def test_its_layers_are_layers_of_its_model(path: Path) -> None:
    if path.parent == SHIPPED:
        return  # for any model
    settings = editor_from(path).config
    wanted = getattr(settings, "layers", None) or [getattr(settings, "layer", None)]
    depth = shape(path.parent.name)[0]
    assert all(layer is None or 0 <= layer < depth for layer in wanted)


@every_file
def test_its_statistics_are_of_enough_tokens_in_forwards_that_fit(path: Path) -> None:
    settings = getattr(editor_from(path).config, "statistics", None)
    if not isinstance(settings, StatisticsConfig):
        return  # an editor without
    _, keys, context = shape(path.parent.name)
    assert settings.tokens is None or settings.tokens >= 10 * keys  # None: ten per key dimension
    assert settings.max_length <= min(MOST, context)
    assert settings.batch_tokens <= 16384


@pytest.mark.parametrize("folder", SHAPES)
@pytest.mark.parametrize("name", LOCATED)
def test_every_model_of_the_study_is_ready(folder: str, name: str) -> None:
    path = SHIPPED / folder / f"{name}.yaml"
    assert path in FILES
    settings = editor_from(path).config
    lines = path.read_text(encoding="utf-8")
    assert settings.statistics.tokens == 10 * SHAPES[folder][1]
    assert "arXiv:" in lines and "Memory:" in lines


def test_every_folder_is_of_a_known_model() -> None:
    assert {p.parent.name for p in FILES if p.parent != SHIPPED} == {"pocket", *SHAPES}
