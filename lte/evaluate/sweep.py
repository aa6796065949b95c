"""Single edits in one layer after another: how well each layer takes them, and which takes them best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lte.edits import Case
from lte.evaluate.config import BenchmarkConfig, EvaluateConfig, EvaluateError
from lte.evaluate.metrics import HARMONIC, HARMONIC_OF
from lte.evaluate.run import Progress, evaluate

if TYPE_CHECKING:
    from lte.editors.base import Editor
    from lte.models import LM

log = logging.getLogger(__name__)
Row = dict[str, Any]


def sweep(
    lm: LM,
    layers: Sequence[int],
    make: Callable[[int], Editor],
    cases: Sequence[Case],
    folder: Path,
    config: EvaluateConfig | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Iterator[Row]:
    """ES, PS, NS and S of single edits in each layer, in percent, as soon as they are there.

    make    the editor that edits the layer; made for its turn and let go after it, with the statistics it holds
    cases   each edited alone, on the unedited model
    folder  each layer's run lies in it, in a folder of its own: it is resumed, reported and compared like any other
    """
    base = config or EvaluateConfig()
    for layer in layers:
        editor = make(layer)
        once = base.model_copy(
            update={
                "benchmarks": (BenchmarkConfig(name="cases"),),
                "protocols": ("single",),
                "scorings": ("preference",),
                "latency_answers": 0,
                "ability": None,
            }
        )
        into = folder / f"layer-{layer:02d}"
        results = evaluate(lm, {editor.name: editor}, cases, once, into, resume, progress)
        if not results.valid:
            raise EvaluateError(f"{into}: the model was not the one it should have been; see the results in it")
        [(task, found)] = results.data["results"].items()
        refused = results.data["lte"]["validity"][task]["refused"]
        if refused:
            log.warning("layer %d: %d of %d edits were refused", layer, refused, len(cases))
        scores = {key.partition(",")[0]: found.get(key) for key in (*HARMONIC_OF, HARMONIC)}
        yield {"layer": layer, **{n: None if v is None else 100 * v for n, v in scores.items()}, "refused": refused}


def best(rows: Sequence[Row]) -> Row:
    """The row of the highest S; of equals the lowest layer's."""
    scored = [row for row in rows if row["S"] is not None]
    if not scored:
        raise EvaluateError(
            "S needs ES, PS and NS: give cases with the old answer (target_true), rephrasings (generalization) and "
            "neighbours with their own answers (locality)"
        )
    return max(scored, key=lambda row: (row["S"], -row["layer"]))
