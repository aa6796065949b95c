"""Edits in a log on disk; recalls those a query touches."""

from lte.memory.fault import MemoryFault, UnknownEdit
from lte.memory.memory import EditMemory, MemoryConfig, Recalled
from lte.memory.store import Change

__all__ = ["Change", "EditMemory", "MemoryConfig", "MemoryFault", "Recalled", "UnknownEdit"]
