"""Ask every editor the same questions: cases -> answers -> metrics -> report.

config                                settings, and the room's one error
benchmarks/  validate                 a file becomes cases, or is told what is wrong with it
plan  site  work  run                 units of a run, where they are worked on, how, and all of them to the end
cluster  hosts  pieces                the same on Ray
probes  baseline  proof  cost         what is asked, of the unedited model too; whose answers they are; what they cost
journal  collect  results             answers on disk as they come, gathered, and the file they add up to
metrics  texts  legacy                what an answer is worth; judge, judging: as another model sees it
growth  sweep  recipes                how far a sequence moves weights; one layer after another; ways of serving edits
endpoint  served  likelihoods         a model behind a server; client, address: how one is asked
ability  harness  subject  quiet      what else a model can do
intervals  compare  pairs  significance
report/  trackers                     figures for people, and for their tools
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "EvaluateConfig",
    "EvaluateError",
    "Results",
    "Shard",
    "Supplies",
    "build_editors",
    "evaluate",
    "evaluate_main",
    "load_cases",
    "read_results",
]

_HOME = {
    "EvaluateConfig": "lte.evaluate.config",
    "EvaluateError": "lte.evaluate.config",
    "Results": "lte.evaluate.results",
    "Shard": "lte.evaluate.plan",
    "Supplies": "lte.evaluate.site",
    "build_editors": "lte.evaluate.site",
    "evaluate": "lte.evaluate.run",
    "evaluate_main": "lte.evaluate.run",
    "load_cases": "lte.evaluate.benchmarks",
    "read_results": "lte.evaluate.results",
}

if TYPE_CHECKING:
    from lte.evaluate.benchmarks import load_cases
    from lte.evaluate.config import EvaluateConfig, EvaluateError
    from lte.evaluate.plan import Shard
    from lte.evaluate.results import Results, read_results
    from lte.evaluate.run import evaluate, evaluate_main
    from lte.evaluate.site import Supplies, build_editors


def __getattr__(name: str) -> Any:
    """Import on first use: a report is made without torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'lte.evaluate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
