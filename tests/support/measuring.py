"""Of which processes an account is kept of the lines that they run.

Coverage costs a small job twice its own time and more: it is started, and its account written down, in the command, in the
nursery and in every rank. So by default a test's processes are not measured, nor the ranks that it forks itself; a few tests of
each kind of process are, which is enough to see what runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CONFIGURATION: Final = Path(__file__).resolve().parents[2] / "pyproject.toml"
ENDS_AND_FORKS: Final = {"DSORT_MEASURE_EXIT": "_exit", "DSORT_MEASURE_FORK": "fork"}
"""What makes pyproject.toml's configuration measure processes that end by os._exit, and what they fork."""


def unmeasured() -> dict[str, str]:
    """The environment of processes that are not measured."""
    return {**os.environ, "COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}


def measured() -> dict[str, str]:
    """The environment of processes that are, with all that they fork, if this one is."""
    inherited = dict(os.environ)
    if not inherited.pop("COVERAGE_PROCESS_CONFIG", ""):
        return inherited
    return {**inherited, "COVERAGE_PROCESS_START": str(_CONFIGURATION), **ENDS_AND_FORKS}
