"""What the ranks of a job see to themselves where whoever drives them does not reach the output, as in a cluster.

They hold the lock of the job together. The job's id is that of its resource, so a manifest with it ends every rank, wherever
it is in its work: rank 0 may have ended before this rank heard of it. And when all is published rank 0 removes what is staged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Final

from dsort_api.messages import Outcome
from dsort_api.reasons import DSortError, Reason
from dsort_worker.joblock import Hold, try_lock
from dsort_worker.staging import Staging, unwritable

log: Final = logging.getLogger("dsort.rank")

_PATIENCE: Final = 10.0
"""Seconds that the lock may be held by somebody who looks whether the job is alive."""

_NAP: Final = 0.1

_LOOK: Final = 5.0
"""Seconds between two looks for the manifest, and then for rank 0 to say so itself."""


class Unattended:
    """One rank's part of it. look: see _LOOK."""

    def __init__(self, staging: Staging, *, look: float = _LOOK) -> None:
        self._staging = staging
        self._look = look
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

    async def published(self) -> Outcome | None:
        """How the job ended, when it has been published whole."""
        path = await asyncio.to_thread(self._staging.published)
        return Outcome(state="Complete", manifest=path) if path else None

    async def unless_published(
        self, work: Coroutine[None, None, Outcome], *, on_manifest: Callable[[], None]
    ) -> Outcome:
        """The outcome of the work, or that of the job when it has been published and nobody told this rank.

        on_manifest: called before the work is cancelled.
        """

        async def appears() -> Outcome:
            while (done := await self.published()) is None:  # noqa: ASYNC110 - a file on a network has no event
                await asyncio.sleep(self._look)
            await asyncio.sleep(self._look)
            return done

        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            manifest = group.create_task(appears())
            await asyncio.wait({working, manifest}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                on_manifest()
                working.cancel()
            manifest.cancel()
        return manifest.result() if working.cancelled() else working.result()

    def remove(self) -> None:
        """Remove what is staged. The result is whole: what cannot be removed is no failure."""
        try:
            self._staging.remove()
        except DSortError as error:
            log.warning("the result is whole, and %s", error.message)
