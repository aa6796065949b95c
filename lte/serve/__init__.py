"""An OpenAI-compatible server whose model keeps up with its edits."""

from lte.serve.app import build_app
from lte.serve.config import Limits, ServeConfig
from lte.serve.engine import Ask, EmbeddedEngine, Engine, Piece
from lte.serve.errors import ServeError

__all__ = ["Ask", "EmbeddedEngine", "Engine", "Limits", "Piece", "ServeConfig", "ServeError", "build_app"]
