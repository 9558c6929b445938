"""Assembly: output shards as one stream of bytes, cut into windows, filled from many sources and written in order.

The shards that a rank has to build stand one behind the other in a **stream**: records without a gap, then the 1,024 zero
bytes that end each archive. A window is a fixed part of that stream (many small shards, or a part of a large one, or of a
large record), so no shard and no record has to fit into memory. Every byte of a window has its place before it is asked for:
slices this rank can open itself are read straight into it, the others are fetched from their ranks, one streamed request a
source and window.

While one window is written the next are filled. Where nobody else is needed, one thread does all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import numpy as np

from dsort_worker.budget import Buffers
from dsort_worker.gather import Slices, gather
from dsort_worker.packing import END_OF_ARCHIVE
from dsort_worker.peers import Peers
from dsort_worker.rows import BLOCK, U32, Index, Rows, slice_pairs
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.shardwriter import OutputShard, ShardWriter
from dsort_worker.threads import in_thread
from dsort_worker.window import Placer
from dsort_worker.wire import MAX_SLICES, encode_slices

_ZEROS: Final = bytes(END_OF_ARCHIVE)

_LOCAL_WINDOW: Final = 1 << 20
"""Bytes of a window that needs no other rank: what was read is hashed and written while it is in the processor's own cache.
With other ranks, windows are as large as the budget allows, so that a request is worth its round trip."""


class AssemblyCancelled(Exception):
    """The assembly was told to stop."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a window that belongs to one shard: bytes [low, high) of the window."""

    shard: OutputShard
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the stream.

    slices and their places in the window (bytes, i8[n]); segments in order; zeros: where archives end, as [low, high);
    records: how many end in this window.
    """

    slices: Slices
    places: Index
    segments: tuple[Segment, ...]
    zeros: tuple[tuple[int, int], ...]
    records: int

    @property
    def size(self) -> int:
        """Bytes of the window."""
        return self.segments[-1].high


class Stream:
    """The shards to build, as a stream. Rows in output order, `counts[k]` of them for shard k.

    Holds 8 bytes a row beside the rows.
    """

    def __init__(self, rows: Rows, extra: U32, shards: Sequence[OutputShard]) -> None:
        self._rows = rows
        self._extra = extra
        self._shards = shards
        counts = np.array([shard.records for shard in shards], dtype=np.int64)
        sizes = np.array([shard.size for shard in shards], dtype=np.int64)
        self._shard_ends = np.cumsum(sizes)
        # Where each row ends in the stream: its bytes and those of all before it, and the ends of the archives before it.
        self._row_ends = np.cumsum(rows["length"], dtype=np.int64)
        self._row_ends *= BLOCK
        self._row_ends += np.repeat(np.arange(len(shards), dtype=np.int64) * END_OF_ARCHIVE, counts)
        self.size = int(self._shard_ends[-1]) if len(shards) else 0

    def windows(self, size: int) -> Iterator[Window]:
        """Cut the stream into windows of `size` bytes."""
        for low in range(0, self.size, size):
            yield self._window(low, min(low + size, self.size))

    def _window(self, low: int, high: int) -> Window:
        first = int(np.searchsorted(self._row_ends, low, side="right"))
        last = int(np.searchsorted(self._row_ends, high, side="left")) + 1
        rows, ends = self._rows[first:last], self._row_ends[first:last]
        index, offset, length = slice_pairs(rows, self._extra)
        offset *= BLOCK
        length *= BLOCK
        # A slice's place: where its row begins, and what of the row's slices stands before it.
        place = ends[index] - rows["length"].astype(np.int64)[index] * BLOCK
        if len(index) != len(rows):
            before = np.cumsum(length) - length
            starts = np.searchsorted(index, np.arange(len(rows)))
            place += before - before[starts][index]
        place -= low
        shard = rows["shard"].astype(np.int64)[index]
        slices, place = _join_adjacent(Slices(shard, offset, length), place)
        slices, place = _clip(slices, place, high - low)
        segments, zeros = self._segments(low, high)
        finished = int(np.searchsorted(self._row_ends, high, side="right")) - first
        return Window(slices, place, segments, zeros, finished)

    def _segments(self, low: int, high: int) -> tuple[tuple[Segment, ...], tuple[tuple[int, int], ...]]:
        segments: list[Segment] = []
        zeros: list[tuple[int, int]] = []
        number = int(np.searchsorted(self._shard_ends, low, side="right"))
        at = low
        while at < high:
            end = int(self._shard_ends[number])
            upto = min(end, high)
            segments.append(Segment(self._shards[number], at - low, upto - low))
            if upto > end - END_OF_ARCHIVE:
                zeros.append((max(at, end - END_OF_ARCHIVE) - low, upto - low))
            at = upto
            number += 1
        return tuple(segments), tuple(zeros)


def _join_adjacent(slices: Slices, place: Index) -> tuple[Slices, Index]:
    """Make one slice of neighbours that are neighbours in the source as well."""
    if len(slices) < 2:
        return slices, place
    end = slices.offset[:-1] + slices.length[:-1]
    breaks = slices.shard[1:] != slices.shard[:-1]
    breaks |= slices.offset[1:] != end
    breaks |= place[1:] != place[:-1] + slices.length[:-1]
    if bool(breaks.all()):
        return slices, place
    starts = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    lengths = np.add.reduceat(slices.length, starts)
    return Slices(slices.shard[starts], slices.offset[starts], lengths), place[starts]


def _clip(slices: Slices, place: Index, size: int) -> tuple[Slices, Index]:
    """Cut off what lies before or past the window [0, size)."""
    low = np.clip(-place, 0, slices.length)
    over = np.clip(place + slices.length - size, 0, slices.length)
    length = slices.length - low - over
    if not low.any() and not over.any():
        return slices, place
    kept = length > 0
    clipped = Slices(slices.shard, slices.offset + low, length)
    return clipped[kept], (place + low)[kept]


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
        buffers: Buffers,
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
        self._buffers = buffers
        self._fillers = fillers
        self._flusher = flusher
        self._writer = writer
        self._on_written = on_written
        self._cancelled = cancelled

    async def build(self, stream: Stream) -> None:
        """Build all shards of the stream; returns when every one is committed."""
        try:
            if self._owner_of is None:
                async with self._buffers.lend() as buffer:
                    await in_thread(self._flusher, self._build_alone, stream, buffer)
            else:
                await self._build_together(stream)
            await in_thread(self._flusher, self._writer.finish)
        finally:
            self._writer.abandon()

    def _build_alone(self, stream: Stream, buffer: memoryview) -> None:
        """Read, hash and write in one thread: every rank has a core of its own, and what is in its cache stays there."""
        for window in stream.windows(min(_LOCAL_WINDOW, len(buffer))):
            if self._cancelled():
                raise AssemblyCancelled
            gather(self._files, window.slices, buffer, window.places)
            self._write(window, buffer)
            self._on_written(window.records, window.size)

    async def _build_together(self, stream: Stream) -> None:
        """While one window is written the next are filled; no more are in progress than there are buffers."""
        previous = asyncio.Event()
        previous.set()
        async with asyncio.TaskGroup() as group:
            for window in stream.windows(self._buffers.size):
                lent, written = asyncio.Event(), asyncio.Event()
                group.create_task(self._carry(window, lent=lent, turn=previous, written=written))
                previous = written
                await lent.wait()

    async def _carry(
        self, window: Window, *, lent: asyncio.Event, turn: asyncio.Event, written: asyncio.Event
    ) -> None:
        """Take one window from an empty buffer to its shards; windows are written in order."""
        async with self._buffers.lend() as buffer:
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
        async with asyncio.TaskGroup() as group:
            for owner in np.unique(owners).tolist():
                theirs = np.flatnonzero(owners == owner)
                slices, places = window.slices[theirs], window.places[theirs]
                if owner == self._rank:
                    group.create_task(in_thread(self._fillers, gather, self._files, slices, buffer, places))
                    continue
                for low in range(0, len(slices), MAX_SLICES):
                    part = slice(low, low + MAX_SLICES)
                    group.create_task(self._fetch(owner, slices[part], places[part], buffer))

    async def _fetch(self, owner: int, slices: Slices, places: Index, buffer: memoryview) -> None:
        await self._peers.stream(
            owner,
            "/v1/slices",
            body=encode_slices(slices),
            sink=lambda: Placer(buffer, places=places, lengths=slices.length),
            size=slices.size,
        )

    def _write(self, window: Window, buffer: memoryview) -> None:
        for low, high in window.zeros:
            buffer[low:high] = _ZEROS[: high - low]
        for segment in window.segments:
            self._writer.write(segment.shard, buffer[segment.low : segment.high])
