"""The arrows between the rooms, and the habits that hold in every file of the package."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import lte

PACKAGE = Path(lte.__file__).parent
REPOSITORY = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
EVERY_ROOM = {
    "edits",
    "config",
    "prompt",
    "records",
    "models",
    "align",
    "memory",
    "editors",
    "serve",
    "evaluate",
    "pocket",
}

# Who may import whom; a longer name adds to what its room may. Every room may import `config` and itself.
ARROWS: dict[str, set[str]] = {
    "edits": set(),
    "config": set(),
    "prompt": {"edits"},  # for the control tokens
    "records": {"edits"},
    "models": set(),
    "align": {"prompt", "edits", "models", "records"},
    "memory": {"edits"},
    "editors": {"models", "edits"},
    "editors.in_context": {"memory", "prompt"},
    "serve": {"memory", "prompt", "edits"},
    "serve.engine": {"models"},  # the embedded engine
    "serve.child": {"models.load"},  # where the bundled model is
    "evaluate": {"editors.base", "models", "edits", "records"},
    "pocket": EVERY_ROOM,
    "cli": {*EVERY_ROOM, "cli_memory", "cli_memory_check", "cli_align", "cli_edit", "cli_evaluate", "cli_serve"},
    "cli_align": {
        "align",
        "models",
        "memory.encoder",
        "evaluate.client",
        "evaluate.config",
        "cli_memory",
        "cli_evaluate",
    },
    "cli_edit": {"editors", "edits", "models", "cli_memory", "cli_evaluate", "cli_statistics", "cli_locate"},
    "cli_statistics": {"editors", "models", "cli_memory", "cli_evaluate"},
    "cli_locate": {"editors", "evaluate", "models", "cli_memory", "cli_evaluate", "cli_statistics"},
    "cli_evaluate": {"evaluate", "editors", "models", "pocket", "cli_memory"},
    "cli_serve": {"serve", "models", "cli_memory", "cli_evaluate"},
    "cli_memory": {"memory", "edits"},
    "cli_memory_gate": {"memory", "edits", "cli_memory"},
    "cli_memory_log": {"memory", "edits", "cli_memory", "cli_memory_gate"},
    "cli_memory_check": {"memory", "models", "serve", "cli_memory", "cli_memory_log"},
}
HEAVY = {"torch", "transformers", "sentence_transformers", "faiss", "sqlalchemy", "matplotlib", "numpy", "pydantic"}


def imported(path: Path) -> set[str]:
    """The modules of lte that a file imports anywhere: at its top, inside functions, for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = NAMES[path] if path.name == "__init__.py" else NAMES[path].rpartition(".")[0]
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("lte.") for name in found if name.startswith("lte.")}


def within(name: str, room: str) -> bool:
    """Whether a dotted name lies in a room."""
    return name == room or name.startswith(f"{room}.")


@pytest.mark.parametrize("path", FILES, ids=NAMES.values())
def test_imports_follow_the_arrows(path: Path) -> None:
    name = NAMES[path].removeprefix("lte").removeprefix(".")
    if not name:
        return  # lte/__init__.py hands out names of every room; that it imports none is tested below
    room = name.split(".")[0]
    assert room in ARROWS, f"a new room, {room}: say here whom it may import"
    allowed = {room, "config"} | {a for owner, arrows in ARROWS.items() if within(name, owner) for a in arrows}
    own = {"__version__"}  # of the package itself
    astray = {i for i in imported(path) - own if not any(within(i, a) for a in allowed)}
    assert not astray, f"{name} may import {sorted(allowed)}, not {sorted(astray)}"


@pytest.mark.parametrize("path", FILES, ids=NAMES.values())
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and docstring.splitlines()[0].strip(), f"{path}: say in one sentence what it is for"


@pytest.mark.parametrize("path", [f for f in FILES if not NAMES[f].startswith("lte.cli")], ids=lambda f: NAMES[f])
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    printing = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not printing, f"{path}: lines {printing} print; log with the module's logger"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_config_opens_with_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    commands = ("lte ", "deepspeed ", "bash ", "python -m ", "make ")
    assert first.startswith("# ") and any(c in first for c in commands), f"{path}: {first!r}"
    assert path.name in first, f"{path}: the command does not name the file"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs `code`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)


@pytest.mark.parametrize("module", ["lte", "lte.cli", "lte.edits", "lte.prompt"])
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    done = run(f"import sys, json, {module}; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))")
    assert not HEAVY & set(json.loads(done.stdout))


def test_help_takes_less_than_300_ms_of_work() -> None:
    code = "import sys; sys.argv = ['lte', '--help']; from lte.cli import main; main()"
    spent = []
    for _ in range(4):  # the least of a few: other processes only ever add
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "evaluate" in run(code).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.3, f"seconds of processor time: {spent}"
