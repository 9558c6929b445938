"""Whether the job has been published whole: its manifest ends every rank, wherever it is in its work.

Rank 0 says so as long as it lives. It may have ended, or been killed, before this rank heard of it; and who tells this rank to
end may have been too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

from dsort_api.messages import Outcome
from dsort_worker.staging import Staging

_LOOK: Final = 5.0
"""Seconds between two looks for the manifest, and then for rank 0 to say so itself."""


class Publication:
    """The manifest of one run of the job.

    recurs: the job's id comes of a fingerprint, so that it is the id of every run of it. The manifest of an earlier one says
    nothing of what is there now; that of this run stands beside what it has staged. look: see _LOOK.
    """

    def __init__(self, staging: Staging, *, recurs: bool, look: float = _LOOK) -> None:
        self._staging = staging
        self._recurs = recurs
        self._look = look

    def outcome(self) -> Outcome | None:
        """How the job ended, when it has been published whole. Looks at a file system, which may take its time."""
        if self._recurs and not self._staging.publishing():
            return None
        path = self._staging.published()
        return Outcome(state="Complete", manifest=path) if path else None

    async def or_else(
        self, work: Coroutine[None, None, Outcome], *, on_manifest: Callable[[], None]
    ) -> Outcome:
        """The outcome of the work, or that of the job when it has been published and nobody told this rank.

        on_manifest: called before the work is cancelled.
        """

        async def appears() -> Outcome:
            while (done := await asyncio.to_thread(self.outcome)) is None:  # noqa: ASYNC110 - a file on a network has no event
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
