"""Admission: how many responses a rank has in progress, and who waits.

A fixed number of slots, each with two buffers that were set aside at start, so that serving never waits for receiving. A
bounded number of requests wait in order of arrival; past that a request is refused at once and told when to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dsort_worker.budget import Buffers


class Busy(Exception):
    """No slot, and no place to wait for one. retry_after: seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"busy, come back in {retry_after:.1f} s")
        self.retry_after = retry_after


class Admission:
    """Slots for responses, `waiting` places in the queue for them."""

    def __init__(self, *, slots: int, piece: int, waiting: int = 128) -> None:
        self._buffers = Buffers(count=2 * slots, size=piece)
        self._slots = asyncio.Semaphore(slots)
        self._waiting = 0
        self._most_waiting = waiting

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[tuple[memoryview, memoryview]]:
        """Two buffers for one response. Raises Busy when the queue is full."""
        if self._waiting >= self._most_waiting:
            raise Busy(0.5)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            async with self._buffers.lend() as one, self._buffers.lend() as other:
                yield one, other
        finally:
            self._slots.release()

    def close(self) -> None:
        """Give the buffers back."""
        self._buffers.close()
