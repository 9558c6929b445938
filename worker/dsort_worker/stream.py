"""A rank's output shards as one stream of bytes, cut into windows.

The shards that a rank has to build stand one behind the other in a **stream**: records without a gap, then the 1,024 zero
bytes that end each archive. A window is a fixed part of that stream (many small shards, or a part of a large one, or of a
large record), so no shard and no record has to fit into memory. Every byte of a window has its place before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from dsort_worker.gather import Slices
from dsort_worker.packing import END_OF_ARCHIVE
from dsort_worker.rows import BLOCK, U32, Index, Rows, slice_pairs
from dsort_worker.shardwriter import OutputShard

_MARK: Final = 1 << 10
"""Rows from one mark to the next."""

_CHUNK: Final = _MARK << 6
"""Rows at a time."""


class Segment(NamedTuple):
    """A part of a window that belongs to one shard: bytes [low, high) of the window."""

    shard: OutputShard
    low: int
    high: int


class Part(NamedTuple):
    """A small window as a part of a large one.

    first, last: which slices of the cut, [first, last). segments and zeros as those of a window. records: how many end in it.
    """

    first: int
    last: int
    segments: list[Segment]
    zeros: list[tuple[int, int]]
    records: int

    @property
    def size(self) -> int:
        """Bytes of the part."""
        return self.segments[-1].high


class Cut(NamedTuple):
    """A window in parts: slices that do not cross from one part to the next, and their places within their part."""

    slices: Slices
    places: Index
    parts: list[Part]


class Window(NamedTuple):
    """A part of the stream.

    slices and their places in the window (bytes, i8[n], ascending); segments in order; zeros: where archives end, as
    [low, high); ends: where records end (bytes, i8[records]).
    """

    slices: Slices
    places: Index
    segments: tuple[Segment, ...]
    zeros: tuple[tuple[int, int], ...]
    ends: Index

    @property
    def size(self) -> int:
        """Bytes of the window."""
        return self.segments[-1].high

    @property
    def records(self) -> int:
        """How many records end in the window."""
        return len(self.ends)

    def cut(self, size: int) -> Cut:
        """This window in parts of `size` bytes, the last with the rest."""
        slices, places, part = _cut(self.slices, self.places, size)
        lows = np.arange(0, self.size, size)
        firsts = [*np.searchsorted(part, lows // size).tolist(), len(part)]
        ended = [*np.searchsorted(self.ends, lows, side="right").tolist(), len(self.ends)]
        parts = [
            Part(firsts[number], firsts[number + 1], [], [], ended[number + 1] - ended[number])
            for number in range(len(lows))
        ]
        for shard, begin, end in self.segments:
            for number, low, high in _pieces(begin, end, size):
                parts[number].segments.append(Segment(shard, low, high))
        for begin, end in self.zeros:
            for number, low, high in _pieces(begin, end, size):
                parts[number].zeros.append((low, high))
        return Cut(slices, places, parts)


class Stream:
    """The shards to build, as a stream.

    rows: in output order; shard k has `shards[k].records` of them from row firsts[k] on, one shard behind the other where
    `firsts` is None. They may be pages of a file: beside them 8 bytes are held for every _MARK rows, and no more.
    """

    def __init__(
        self, rows: Rows, extra: U32, shards: Sequence[OutputShard], *, firsts: Index | None = None
    ) -> None:
        self._rows = rows
        self._extra = extra
        self._shards = shards
        counts = np.array([shard.records for shard in shards], dtype=np.int64)
        sizes = np.array([shard.size for shard in shards], dtype=np.int64)
        self._shard_ends = np.cumsum(sizes)
        # Rows are numbered here as they stand in the stream; what `rows` has between two shards is not counted.
        self._record_ends = np.cumsum(counts)
        starts = self._record_ends - counts
        self._skipped = np.zeros(len(shards), dtype=np.int64) if firsts is None else firsts - starts
        self.records = int(counts.sum())
        self.size = int(sizes.sum())
        self._marks = self._count_marks()

    def _count_marks(self) -> Index:
        """Where every _MARK-th row begins in the stream: i8[marks]."""
        marks: list[Index] = [np.empty(0, dtype=np.int64)]
        begin = 0
        for low in range(0, self.records, _CHUNK):
            rows, shard = self._part(low, min(low + _CHUNK, self.records))
            ends = np.cumsum(rows["length"], dtype=np.int64) * BLOCK + begin
            marks.append((ends - rows["length"].astype(np.int64) * BLOCK + shard * END_OF_ARCHIVE)[::_MARK])
            begin = int(ends[-1])
        return np.concatenate(marks)

    def _part(self, low: int, high: int) -> tuple[Rows, Index]:
        """Rows [low, high) of the stream, and the shard of each, as its place among the shards."""
        first, last = (int(np.searchsorted(self._record_ends, row, side="right")) for row in (low, high - 1))
        edges = np.clip(self._record_ends[first : last + 1], low, high)
        shard = np.repeat(np.arange(first, last + 1), np.diff(edges, prepend=low))
        skipped = self._skipped[first : last + 1]
        if not len(skipped) or int(skipped[0]) == int(skipped[-1]):  # ascending, so all are the same
            skip = int(skipped[0]) if len(skipped) else 0
            return self._rows[low + skip : high + skip], shard
        return self._rows[np.arange(low, high) + self._skipped[shard]], shard

    def windows(self, size: Callable[[], int]) -> Iterator[Window]:
        """Cut the stream into windows; `size` is asked for the bytes of each (a multiple of 512) when it is cut."""
        low = 0
        while low < self.size:
            high = min(low + size(), self.size)
            yield self._window(low, high)
            low = high

    def _window(self, low: int, high: int) -> Window:
        # From the last mark at or before the window to the first one behind it.
        mark = max(0, int(np.searchsorted(self._marks, low, side="right")) - 1)
        upto = min(self.records, int(np.searchsorted(self._marks, high, side="left")) * _MARK)
        rows, shard = self._part(mark * _MARK, max(mark * _MARK, upto))
        ends = np.cumsum(rows["length"], dtype=np.int64) * BLOCK
        if len(rows):
            ends += int(self._marks[mark]) + (shard - shard[0]) * END_OF_ARCHIVE
        finished = int(np.searchsorted(ends, high, side="right"))
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1
        done = ends[first:finished] - low
        rows, ends = rows[first:last], ends[first:last]
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
        source = rows["shard"].astype(np.int64)[index]
        slices, place = _join_adjacent(Slices(source, offset, length), place)
        slices, place = _clip(slices, place, high - low)
        segments, zeros = self._segments(low, high)
        return Window(slices, place, segments, zeros, done)

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


def _pieces(low: int, high: int, size: int) -> Iterator[tuple[int, int, int]]:
    """[low, high) cut at every multiple of `size`: the number of each part that it has bytes of, and which of it they are."""
    for number in range(low // size, (high - 1) // size + 1):
        base = number * size
        yield number, max(low - base, 0), min(high - base, size)


def _cut(slices: Slices, places: Index, size: int) -> tuple[Slices, Index, Index]:
    """Cut slices at every multiple of `size`: the pieces, their places within that part, and the number of the part."""
    first = places // size
    spans = (places + slices.length - 1) // size - first + 1
    if len(spans) == int(spans.sum()):
        return slices, places - first * size, first
    index = np.repeat(np.arange(len(spans)), spans)
    part = first[index] + np.arange(len(index)) - (np.cumsum(spans) - spans)[index]
    whole = places[index]
    low = np.maximum(whole, part * size)
    high = np.minimum(whole + slices.length[index], (part + 1) * size)
    return (
        Slices(slices.shard[index], slices.offset[index] + low - whole, high - low),
        low - part * size,
        part,
    )
