"""The README.md beside what was trained: what it is, what it learned from, what was measured, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lte.prompt import with_edits


def model_card(manifest: Mapping[str, Any], method: str) -> str:
    """A model card in the hub's format (YAML head, Markdown) from a run's manifest."""
    data, base = manifest["data"], manifest["base"]
    train = manifest["settings"]["train"]
    kind = "All weights" if method == "full" else f"A LoRA adapter (rank {train['lora']['r']})"
    head = ["---", f"base_model: {base}"]
    head += [
        "library_name: " + ("transformers" if method == "full" else "peft"),
        "tags: [lte, knowledge-editing]",
        "---",
    ]
    lines = [
        "",
        f"# {base}, taught to heed the edits in its prompt",
        "",
        f"{kind} of `{base}`, trained by `lte align`. With edits in front of a question the model answers by those",
        "that concern it and as before by those that do not. It was trained on this wording and no other",
        f"(template `{manifest['template']}`):",
        "",
        "```",
        with_edits(["The capital of France is Lyon"], "What is the capital of France?"),
        "```",
        "",
        "The base model's licence and limits hold for this one.",
        "",
        "## Data",
        "",
        f"{data.get('rows', '?')} rows, SHA-256 `{data.get('sha256', '?')}`.",
        "",
        *_table("role", "rows", data.get("roles", {})),
        *_table("length", "", manifest.get("lengths", {})),
        "## Training",
        "",
        *_table("setting", "value", {k: v for k, v in train.items() if not isinstance(v, Mapping)}),
        *_table("package", "version", manifest["versions"]),
    ]
    if measured := manifest.get("metrics"):
        lines += ["## Measured on held-out cases while it trained", ""]
        lines += _table("figure", "value", {k: round(v, 4) for k, v in measured.items()})
    lines += ["## Use", "", "```python", *_use(base, method), "```", ""]
    return "\n".join([*head, *lines])


def _table(name: str, value: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    return [f"| {name} | {value} |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items()), ""]


def _use(base: str, method: str) -> list[str]:
    if method == "full":
        return ["from lte.models import load_model", "", 'lm = load_model("THIS FOLDER")']
    return [
        "from lte.models import load_model",
        "",
        f'lm = load_model("{base}", adapter="THIS FOLDER")  # off; vLLM and PEFT load the folder as it is',
        'with lm.using("lte"):',
        "    lm.answer([...])",
    ]
