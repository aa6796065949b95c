"""The parallel dataset, from named sources to Parquet and a data card."""

from __future__ import annotations

from lte.align.data.answers import Base, base_of
from lte.align.data.build import build_data
from lte.align.data.config import DataConfig, Rates, Targets
from lte.align.data.shards import read_figures, read_rows

__all__ = ["Base", "DataConfig", "Rates", "Targets", "base_of", "build_data", "read_figures", "read_rows"]
