"""The log: one JSON object a line (or text for people), with the job and its uid wherever a line is about a job."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

_JOB: ContextVar[tuple[str, str] | None] = ContextVar("job", default=None)
_QUIET: Final = ("kopf", "aiohttp", "asyncio", "kubernetes")
"""Libraries whose information is of use only to who looks for a fault."""


@contextlib.contextmanager
def about(job: str, *, uid: str) -> Iterator[None]:
    """Log lines of this block, and of tasks started in it, are about this job: namespace/name and uid."""
    token = _JOB.set((job, uid))
    try:
        yield
    finally:
        _JOB.reset(token)


def set_up(*, form: str, level: str) -> None:
    """Log to standard error from now on. form: json or text; level: the least that is logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(capture=True)


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message; job and uid; exception with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        job = _JOB.get()
        if job is not None:
            line["job"], line["uid"] = job
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the trace below it."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        job = _JOB.get()
        about_job = f" [{job[0]}]" if job else ""
        line = f"{when} {record.levelname.lower():7} {record.name}{about_job}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
