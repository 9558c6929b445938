"""Importing what a rank needs, which is most of a process's start."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_BARE: Final = {
    # aiohttp reads the system's certificates when it is imported, some 60 ms; ranks speak plain HTTP.
    "SSL_CERT_FILE": os.devnull,
    # pydantic looks through every installed distribution for plugins, and imports zoneinfo, which reads the interpreter's
    # build configuration to find time zones; 5 ms each, and there is neither a plugin nor a time zone in a job.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    "PYTHONTZPATH": "",
    # numpy's BLAS would start threads in a process that forks, and nothing here multiplies matrices.
    "OPENBLAS_NUM_THREADS": "1",
}


@contextlib.contextmanager
def bare_imports() -> Iterator[None]:
    """Imports in this block find the environment that they are quickest with."""
    before = {name: os.environ.get(name) for name in _BARE}
    os.environ.update(_BARE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
