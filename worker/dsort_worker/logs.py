"""The log of a worker: one JSON object a line for machines, or text for people. Of every line it says which job and rank."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, TextIO

log: Final = logging.getLogger("dsort")

Form = Literal["json", "text"]


def set_up(form: Form, *, stream: TextIO, about: Mapping[str, object]) -> None:
    """Log to `stream` from now on, traces of what nobody catches as well. about: fields of every line (job, uid, rank)."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(about) if form == "json" else TextFormatter(about))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_exception


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("%s", kind.__name__, exc_info=(kind, error, trace))


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, the fields of `about`; exception with its trace."""

    def __init__(self, about: Mapping[str, object]) -> None:
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._about,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def __init__(self, about: Mapping[str, object]) -> None:
        super().__init__()
        self._rank = f" rank {about['rank']}" if "rank" in about else ""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the trace below it."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        line = f"{when} {record.levelname.lower():7}{self._rank}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
