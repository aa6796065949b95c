"""The embedded default: a small Llama that knows real facts, and the script that builds it."""

from __future__ import annotations

from pathlib import Path


def home() -> Path:
    """The folder of the bundled model, its adapter, cases and texts."""
    from lte.models.load import pocket_home

    return pocket_home()
