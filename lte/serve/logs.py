"""The server's log: JSON lines or text, without prompts and without keys unless they are asked for."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from typing import Any, Literal

from lte.config import Config
from lte.memory.fault import MemoryFault
from lte.serve.keys import TOKEN

CREDENTIAL = re.compile(r"\b(bearer|basic)\s+[^\s'\",]+", re.IGNORECASE)
HARMLESS = (OSError, MemoryFault)  # their words are about files and locks


class LogConfig(Config):
    """What is logged, and how."""

    form: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal, else JSON
    requests: bool = True  # a line for each
    prompts: bool = False  # bodies of requests, and the words of exceptions, which may quote them


class Plain(logging.Formatter):
    """Text lines. Keys are cut out of them; of an exception only its kind and where it arose are told."""

    def __init__(self, prompts: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self.prompts = prompts

    def format(self, record: logging.LogRecord) -> str:
        """The record on a line, its traceback behind."""
        return self._clean(record, super().format)

    def formatException(self, ei: Any) -> str:
        """The traceback; in it the words of exceptions only where prompts may be logged."""
        return super().formatException(ei) if self.prompts else "\n".join(_told(ei[1]))

    def _clean(self, record: logging.LogRecord, form: Any) -> str:
        kept, record.exc_text = record.exc_text, None  # another handler's formatter may have left the words there
        try:
            return without_keys(form(record))
        finally:
            record.exc_text = kept


class Lines(Plain):
    """JSON, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time (UTC), level, logger, message, and what a request's line knows of it."""
        return self._clean(record, self._line)

    def _line(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line |= getattr(record, "lte", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def install(config: LogConfig) -> None:
    """Give every handler of the root logger the form that is wanted: what other libraries log passes there too."""
    lines = config.form == "json" or (config.form == "auto" and not sys.stderr.isatty())
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter(lines, config.prompts))


def formatter(lines: bool, prompts: bool) -> logging.Formatter:
    """JSON lines, or text."""
    return (Lines if lines else Plain)(prompts)


def without_keys(text: str) -> str:
    """The text with every key and credential cut out of it; of our own keys their id stays."""
    return CREDENTIAL.sub(r"\1 [removed]", TOKEN.sub(r"lte_\1_[removed]", text))


def _told(error: BaseException | None) -> list[str]:
    """An exception and those behind it, the first cause first, in lines: kinds and places, no words."""
    if error is None:
        return []
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    places = [f"  {f.filename}:{f.lineno} in {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    words = f": {error}" if isinstance(error, HARMLESS) else ""
    return [*_told(behind), *places, name + words]
