"""What the ranks of a job see to themselves where whoever drives them does not reach the output, as in a cluster.

They hold the lock of the job together, and when all is published rank 0 removes what is staged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from dsort_api.reasons import DSortError, Reason
from dsort_worker.joblock import Hold, try_lock
from dsort_worker.staging import Staging, unwritable

log: Final = logging.getLogger("dsort.rank")

_PATIENCE: Final = 10.0
"""Seconds that the lock may be held by somebody who looks whether the job is alive."""

_NAP: Final = 0.1


class Unattended:
    """One rank's part of it."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._lock_fd: int | None = None

    async def lock(self) -> None:
        """Share the lock of the job as long as this process lives. Raises DSortError JobBusy, OutputUnwritable."""
        staging = self._staging
        deadline = time.monotonic() + _PATIENCE
        while self._lock_fd is None:
            with unwritable(staging.home), contextlib.suppress(FileNotFoundError):  # removed by who held it
                staging.create()
                self._lock_fd = try_lock(staging.home, Hold.SHARED)
            if self._lock_fd is None:
                if time.monotonic() > deadline:
                    raise DSortError(
                        Reason.JOB_BUSY, f"{staging.home} is being removed, or worked on, by somebody else"
                    )
                await asyncio.sleep(_NAP)

    def remove(self) -> None:
        """Remove what is staged. The result is whole: what cannot be removed is no failure."""
        try:
            self._staging.remove()
        except DSortError as error:
            log.warning("the result is whole, and %s", error.message)
