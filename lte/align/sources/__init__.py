"""What a dataset is made of: named, weighted sources of cases, of stated questions and of instructions."""

from __future__ import annotations

from lte.align.sources.draw import Drawn, SourceConfig, Tally, draw
from lte.align.sources.items import Item, Stated
from lte.align.sources.kinds import KINDS, Kind

__all__ = ["KINDS", "Drawn", "Item", "Kind", "SourceConfig", "Stated", "Tally", "draw"]
