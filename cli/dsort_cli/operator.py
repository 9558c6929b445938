"""`dsort operator`: the control plane, as its pod runs it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from dsort_api.reasons import DSortError, Reason
from dsort_operator.settings import Settings

if TYPE_CHECKING:
    import argparse


def operator(options: argparse.Namespace) -> int:
    """Run the operator with these settings until a signal ends it; returns its exit code.

    Raises DSortError InvalidSpec for a setting that is none, and when what it needs is not installed.
    """
    settings = Settings.load(vars(options))
    try:
        from dsort_operator.logs import set_up
        from dsort_operator.serve import serve
    except ModuleNotFoundError as error:
        raise DSortError(
            Reason.INVALID_SPEC, f"{error.name} is not installed; install dsort-operator[operator]"
        ) from None
    set_up(form=settings.log_format, level=settings.log_level)
    code = asyncio.run(serve(settings))
    sys.stderr.flush()
    return code
