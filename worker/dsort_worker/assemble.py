"""Assembly: the windows of a rank's stream, filled from many sources and written in order.

Slices that this rank can open itself are read straight to their places, the others are fetched from their ranks, one
streamed request a source and window, a few sources at a time: what a window needs beside its buffer does not depend on the
number of ranks. While one window is written the next are filled, as many and as large as the receive window allows. Where
nobody else is needed, one thread does all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Final

import numpy as np

from dsort_worker.flows import Flows
from dsort_worker.gather import Slices, gather, gathering
from dsort_worker.packing import END_OF_ARCHIVE
from dsort_worker.peers import Peers
from dsort_worker.rows import Index
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.shardwriter import ShardWriter
from dsort_worker.stream import Part, Stream, Window
from dsort_worker.threads import WorkCancelled, in_thread
from dsort_worker.window import Placer
from dsort_worker.wire import MAX_SLICES, encode_slices

_ZEROS: Final = bytes(END_OF_ARCHIVE)

_LOCAL_WINDOW: Final = 1 << 20
"""Bytes of a window that needs no other rank: what was read is hashed and written while it is in the processor's own cache.
With other ranks, windows are as large as the budget allows, so that a request is worth its round trip."""

_STRETCH: Final = 32 << 20
"""Bytes of the stream whose slices are worked out in one go and then cut into such small windows: for one of them alone that
would take a tenth of the time of reading it. What is known of them takes some hundred bytes a slice, so each throttle level
halves the stretch; the window itself is as small as one of the least size already, and stays."""


class Assembler:
    """Fills windows and writes them.

    owner_of: for each shard ordinal the rank that serves it, i8[shards]; None where this rank can open every shard itself.
    """

    def __init__(
        self,
        *,
        files: ShardFiles,
        peers: Peers,
        rank: int,
        owner_of: Index | None,
        flows: Flows,
        fillers: Executor,
        flusher: Executor,
        writer: ShardWriter,
        on_written: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._files = files
        self._peers = peers
        self._rank = rank
        self._owner_of = owner_of
        self._flows = flows
        self._fillers = fillers
        self._flusher = flusher
        self._writer = writer
        self._on_written = on_written
        self._cancelled = cancelled

    async def build(self, stream: Stream) -> None:
        """Build all shards of the stream; returns when every one is committed."""
        try:
            if self._owner_of is None:
                async with self._flows.window(_LOCAL_WINDOW) as buffer:
                    await in_thread(self._flusher, self._build_alone, stream, buffer)
            else:
                await self._build_together(stream)
            await in_thread(self._flusher, self._writer.finish)
        finally:
            self._writer.abandon()

    def _build_alone(self, stream: Stream, buffer: memoryview) -> None:
        """Read, hash and write in one thread: every rank has a core of its own, and what is in its cache stays there."""
        for stretch in stream.windows(lambda: _STRETCH >> self._flows.level):
            self._build_stretch(stretch, buffer)

    def _build_stretch(self, stretch: Window, buffer: memoryview) -> None:
        """A function of its own, so that nothing of one stretch is held while the next is worked out."""
        slices, places, parts = stretch.cut(min(_LOCAL_WINDOW, len(buffer)))
        with gathering(self._files, slices, buffer, places) as gather_part:
            for part in parts:
                if self._cancelled():
                    raise WorkCancelled
                gather_part(part.first, part.last)
                self._write(part, buffer)
                self._on_written(part.records, part.size)

    async def _build_together(self, stream: Stream) -> None:
        """While one window is written the next are filled; a window is cut when there is room for it."""
        previous = asyncio.Event()
        previous.set()
        windows = stream.windows(self._flows.next_size)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._flows.room()
                window = next(windows, None)
                if window is None:
                    break
                lent, written = asyncio.Event(), asyncio.Event()
                group.create_task(self._carry(window, lent=lent, turn=previous, written=written))
                previous = written
                await lent.wait()

    async def _carry(
        self, window: Window, *, lent: asyncio.Event, turn: asyncio.Event, written: asyncio.Event
    ) -> None:
        """Take one window from an empty buffer to its shards; windows are written in order."""
        async with self._flows.window(window.size) as buffer:
            lent.set()
            await self._fill(window, buffer)
            await turn.wait()
            await in_thread(self._flusher, self._write, window, buffer)
            written.set()
            self._on_written(window.records, window.size)

    async def _fill(self, window: Window, buffer: memoryview) -> None:
        """Put every byte of the window in its place: own slices in a thread, the others as their ranks send them."""
        if self._owner_of is None:
            raise RuntimeError("a rank that can open every shard needs nobody to fill its windows")
        owners = self._owner_of[window.slices.shard]
        own = np.flatnonzero(owners == self._rank)
        parts = self._parts(window, owners)
        async with asyncio.TaskGroup() as group:
            if len(own):
                group.create_task(
                    in_thread(
                        self._fillers, gather, self._files, window.slices[own], buffer, window.places[own]
                    )
                )
            for _ in range(self._flows.requests):
                group.create_task(self._fetch_each(parts, buffer))

    def _parts(self, window: Window, owners: Index) -> Iterator[tuple[int, Slices, Index]]:
        """What to ask others for: rank, slices and their places. Every rank begins with the one after itself, so that not all
        of them begin with the same.
        """
        by_owner = np.argsort(owners, kind="stable")
        ranks, starts = np.unique(owners[by_owner], return_index=True)
        ends = np.append(starts, len(owners))[1:]
        others = sorted(zip(ranks.tolist(), starts.tolist(), ends.tolist(), strict=True))
        first = sum(rank <= self._rank for rank, _, _ in others)
        for rank, start, end in others[first:] + others[:first]:
            if rank != self._rank:
                for low in range(start, end, MAX_SLICES):
                    theirs = by_owner[low : min(low + MAX_SLICES, end)]
                    yield rank, window.slices[theirs], window.places[theirs]

    async def _fetch_each(self, parts: Iterator[tuple[int, Slices, Index]], buffer: memoryview) -> None:
        """Fetch one part after the other; others do the same with the same parts."""
        for owner, slices, places in parts:
            await self._fetch(owner, slices, places, buffer)

    async def _fetch(self, owner: int, slices: Slices, places: Index, buffer: memoryview) -> None:
        await self._peers.stream(
            owner,
            "/v1/slices",
            body=encode_slices(slices),
            sink=lambda: Placer(buffer, places=places, lengths=slices.length),
            size=slices.size,
        )

    def _write(self, window: Window | Part, buffer: memoryview) -> None:
        for low, high in window.zeros:
            buffer[low:high] = _ZEROS[: high - low]
        for segment in window.segments:
            self._writer.write(segment.shard, buffer[segment.low : segment.high])
