"""A finished evaluation as tables for the terminal, Markdown, LaTeX, CSV or JSON, or as one self-contained page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lte.evaluate.config import EvaluateError
from lte.evaluate.report.batch_sizes import batch_size_plots, batch_sizes
from lte.evaluate.report.catalogue import catalogue
from lte.evaluate.report.figures import Sheet, figure, keys, label, sheets
from lte.evaluate.report.flat import csv_text, json_text
from lte.evaluate.report.numbers import Figure
from lte.evaluate.report.tables import grand, markdown, tables
from lte.evaluate.report.tex import tex
from lte.evaluate.results import Results, read_results

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["FORMS", "Figure", "Results", "Sheet", "catalogue", "figure", "keys", "label", "render", "sheets"]


def _page(results: Results) -> str:
    from lte.evaluate.report.html import page  # brings in jinja2

    return page(results)


FORMS: dict[str, Callable[[Results], Group | str]] = {
    "table": tables,
    "md": markdown,
    "grand": grand,
    "tex": tex,
    "csv": csv_text,
    "json": json_text,
    "html": _page,
}
STUDIES: dict[str, Callable[[Results], Group | str]] = {  # of runs that hold what they compare
    "batch-size": batch_sizes,
    "batch-size-svg": batch_size_plots,
}


def render(results: Results | str | Path, form: str) -> Group | str:
    """The newest results of a folder, or results at hand, in one of `FORMS` or `STUDIES`: text, or for `rich`."""
    forms = FORMS | STUDIES
    if form not in forms:
        raise EvaluateError(f"report form {form!r}: no such form; there are {', '.join(forms)}")
    return forms[form](results if isinstance(results, Results) else read_results(results))
