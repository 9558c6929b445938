"""Flows: windows and requests as the receive window allows them, for the tasks that want them.

The decisions are those of `receive`; here they become waiting and waking, and the throttle level comes in. Who waits is served in
order, but for a request whose source has no room, which others pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from dsort_worker.budget import Buffers
from dsort_worker.receive import ReceiveWindow
from dsort_worker.state import Flowing
from dsort_worker.throttle import Throttle


class _Waiter(NamedTuple):
    source: int
    size: int
    turn: asyncio.Future[None]


class Flows:
    """The flows of one rank; belongs to one event loop.

    buffers: one for each window. requests: that may ever be in progress; of_one: with one of several sources. flow: where the
    figures are shown.
    """

    def __init__(
        self,
        *,
        buffers: Buffers,
        requests: int,
        of_one: int,
        sources: int,
        throttle: Throttle,
        flow: Flowing,
    ) -> None:
        self.requests = requests
        """Requests that may be in progress at the most."""
        self._buffers = buffers
        self._window = ReceiveWindow(
            windows=buffers.count, size=buffers.size, requests=requests, of_one=of_one, sources=sources
        )
        self._throttle = throttle
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self._waiters: list[_Waiter] = []
        self._room = asyncio.Event()
        throttle.subscribe(self._told)
        self._follow()

    @property
    def level(self) -> int:
        """The throttle level. Any thread may ask."""
        return self._throttle.level

    def next_size(self) -> int:
        """Bytes of the next window."""
        return self._window.next_size

    async def room(self) -> None:
        """Wait until the next window may be opened, and there is a buffer for it."""
        while not self._window.has_room() or self._buffers.lent == self._buffers.count:
            self._room.clear()
            await self._room.wait()

    @asynccontextmanager
    async def window(self, size: int) -> AsyncIterator[memoryview]:
        """A buffer for a window of `size` bytes; its content is whatever the last owner left."""
        self._window.open(size)
        try:
            async with self._buffers.lend() as buffer:
                yield buffer
        finally:
            self._window.close(size)
            self._wake()

    @asynccontextmanager
    async def request(self, source: int, *, size: int) -> AsyncIterator[Callable[[int], None]]:
        """Leave for one request of `size` bytes (0: not known); call what is lent with the bytes of each piece that came."""
        await self._leave(_Waiter(source, size, self._loop.create_future()))
        left = size

        def came(piece: int) -> None:
            nonlocal left
            expected = min(piece, left)
            left -= expected
            self._window.came(piece, expected=expected, now=self._loop.time())
            self._flow.outstanding = self._window.outstanding

        try:
            yield came
        finally:
            self._end(source, left)

    async def _leave(self, waiter: _Waiter) -> None:
        """Wait for leave to make a request; who has it has to end it."""
        self._waiters.append(waiter)
        self._wake()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            else:  # it was given leave in the same moment
                self._end(waiter.source, waiter.size)
            raise

    def _end(self, source: int, rest: int) -> None:
        self._window.end(source, rest, now=self._loop.time())
        self._wake()

    def _wake(self) -> None:
        """Let go on who may."""
        for waiter in list(self._waiters):
            if not waiter.turn.cancelled() and self._window.may_ask(waiter.source):
                self._window.ask(waiter.source, waiter.size, now=self._loop.time())
                self._waiters.remove(waiter)
                waiter.turn.set_result(None)
        self._room.set()
        flow, window = self._flow, self._window
        flow.window, flow.outstanding, flow.requests = window.bytes_cap, window.outstanding, window.requests

    def _told(self) -> None:
        """The throttle level has changed. Called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all that could be held back
            self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        """Have the window and its buffers follow the throttle level."""
        level = self._throttle.level
        self._window.throttle(level)
        if level:
            self._buffers.give_back()
        else:
            self._buffers.keep()
        self._wake()
