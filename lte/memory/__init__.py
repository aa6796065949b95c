"""Edits in a log on disk; recalls those a query touches."""

from lte.memory.change import Change
from lte.memory.conflicts import Conflict
from lte.memory.fault import ConflictFault, MemoryFault, Outdated, UnknownEdit
from lte.memory.memory import EditMemory, MemoryConfig, Recalled
from lte.memory.record import Author, EditTest, Record
from lte.memory.signing import Checkpoint

__all__ = [
    "Author",
    "Change",
    "Checkpoint",
    "Conflict",
    "ConflictFault",
    "EditMemory",
    "EditTest",
    "MemoryConfig",
    "MemoryFault",
    "Outdated",
    "Recalled",
    "Record",
    "UnknownEdit",
]
