"""The memory budget of a rank: how it is divided, and the fixed sets of buffers made from it.

The budget is all unreclaimable memory of the rank. What the interpreter and its libraries take is a stated constant; the
rest is divided once, when the first control exchange has named the budget, and nothing that grows with a record, a shard or
a body is ever allocated beside it. Rows (metadata) have a share too, and go to disk where they do not fit in.

A buffer is an anonymous mmap with one owner at a time: it is lent for the length of an `async with` block, and the view
that was lent is dead after it (a late use raises ValueError).
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from dsort_worker.sockets import LARGE_SOCKET_BUFFER, SOCKET_BUFFER

MIB: Final = 1 << 20
LEAST_BUDGET: Final = 64 * MIB
"""The documented least budget of a rank."""

INTERPRETER: Final = 52 * MIB
"""What Python, numpy and aiohttp take before the first record is read (bytes, measured)."""

LEAST_ROWS: Final = 2 * MIB
"""Bytes for rows at the least budget: what does not fit is sorted on disk, in runs of some ten thousand records."""

FLOW: Final = 768 << 10
"""What a request in progress takes beside its window: the client's, the transport's and the parser's buffers (bytes)."""

WAITER: Final = 64 << 10
"""What a request takes that waits for a slot: its connection, and what of its body has come (bytes)."""


class Division(NamedTuple):
    """How a budget is divided: counts, and sizes in bytes (multiples of 512).

    serve_slots responses in progress with two pieces each, and `waiting` requests that wait for one; `windows` receive windows
    of `window`; at most `flows` requests in progress. rows: for metadata in memory; what is more goes to disk. socket: bytes that a connection may buffer.
    """

    serve_slots: int
    piece: int
    waiting: int
    windows: int
    window: int
    flows: int
    rows: int
    socket: int

    @property
    def reserved(self) -> int:
        """Bytes of all buffers."""
        serving = 2 * self.serve_slots * self.piece + self.waiting * WAITER
        sockets = _sockets(self.socket, flows=self.flows, slots=self.serve_slots)
        return serving + self.windows * self.window + self.flows * FLOW + sockets


def divide(budget: int) -> Division:
    """Divide a budget of LEAST_BUDGET bytes or more. Larger windows than 16 MiB gain nothing: rows have the rest."""
    rest = max(budget, LEAST_BUDGET) - INTERPRETER - LEAST_ROWS
    flows = max(3, min(8, rest // (6 * FLOW)))  # a slow source has one of them; the others need more than one
    rest -= flows * FLOW
    slots = max(2, min(4, rest // (16 * MIB)))
    piece = max(128 << 10, min(MIB, rest // (8 * slots) // MIB * MIB))
    waiting = max(16, min(128, rest // (16 * WAITER)))
    rest -= 2 * slots * piece + waiting * WAITER
    windows = 3
    window = max(MIB, min(16 * MIB, rest // windows // MIB * MIB))
    rest -= windows * window
    socket = SOCKET_BUFFER
    sockets = _sockets(LARGE_SOCKET_BUFFER, flows=flows, slots=slots)
    if rest >= 2 * sockets:  # rows that do not fit are worse
        socket = LARGE_SOCKET_BUFFER
        rest -= sockets
    return Division(
        serve_slots=slots,
        piece=piece,
        waiting=waiting,
        windows=windows,
        window=window,
        flows=flows,
        rows=LEAST_ROWS + rest,
        socket=socket,
    )


def _sockets(size: int, *, flows: int, slots: int) -> int:
    """Bytes that the kernel takes for the buffers of connections past what FLOW has for them."""
    return 2 * (size - SOCKET_BUFFER) * (flows + slots)


class Buffers:
    """A fixed set of equal buffers. Waiting is in order of arrival and ends when the waiter is cancelled."""

    def __init__(self, *, count: int, size: int) -> None:
        self.size = size
        self.count = count
        self._free: asyncio.Queue[mmap.mmap] = asyncio.Queue()
        self._lent: set[int] = set()
        self._thrifty = False
        self._all = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(count)]
        for buffer in self._all:
            # Small pages would fault in one by one, 4,096 of them for a large window.
            with contextlib.suppress(OSError):  # a kernel without large ones
                buffer.madvise(mmap.MADV_HUGEPAGE)
            self._free.put_nowait(buffer)

    @property
    def lent(self) -> int:
        """Buffers in use now."""
        return len(self._lent)

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[memoryview]:
        """A buffer of `size` bytes for the length of the block. Its content is whatever the last owner left."""
        buffer = await self._free.get()
        self._lent.add(id(buffer))
        view = memoryview(buffer)
        try:
            yield view
        finally:
            view.release()
            self._lent.discard(id(buffer))
            if self._thrifty:
                _drop_pages(buffer)
            self._free.put_nowait(buffer)

    def give_back(self) -> None:
        """Have the system take the memory of what is free, now and whenever a buffer comes back; it is given anew on first use."""
        self._thrifty = True
        for buffer in self._all:
            if id(buffer) not in self._lent:
                _drop_pages(buffer)

    def keep(self) -> None:
        """Keep the memory of what is free, as at the start."""
        self._thrifty = False

    def close(self) -> None:
        """Give the memory back. A buffer of which a view is left (in the traceback of what ended the job) goes with it."""
        for buffer in self._all:
            with contextlib.suppress(BufferError):
                buffer.close()


def _drop_pages(buffer: mmap.mmap) -> None:
    buffer.madvise(mmap.MADV_DONTNEED)
