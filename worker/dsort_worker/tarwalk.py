"""The walk from header to header: collects blocks of headers for tarbatch, reading as little or as much as pays.

Where members are small the file is read through, a megabyte at a time, and the headers are found among all its blocks by
their magic; where they are large, a few blocks are read at each place where a header must be. Nothing is decided here: the
walk follows sizes as they stand and stops where it sees something odd, and whoever takes the batch checks every row. Where
that shows that a payload was taken for a header, or where headers have no magic (V7), the walk goes from one to the next.
"""

from __future__ import annotations

import os
import threading
from typing import Final, NamedTuple

import numpy as np

from dsort_worker.readbuffer import read_buffer
from dsort_worker.rows import U8, U64, Index
from dsort_worker.tarbatch import FIELDS, take_fields, typeflags
from dsort_worker.tarheaders import BLOCK, WITHOUT_DATA

_ROWS: Final = 2047
"""Header blocks in a batch, at most: with as many data blocks, and one, they are a MiB. Twice as many are not read faster."""
_CHUNK: Final = 1 << 20
_WINDOW: Final = 4096
_HOPS: Final = _CHUNK // _WINDOW
"""Windows that are read between two looks at how far apart they lie, and into one buffer; at first a few, for the look."""
_FIRST_HOPS: Final = 32
_DENSE: Final = 32 << 10
"""Bytes from one window to the next, below which reading everything is cheaper than another system call, or another place on a
disk."""
_STUMBLES: Final = 3
"""Times that what has the magic of a header was none, after which that is not tried again."""
_AT_ONCE: Final = 512
_PAX: Final = 0x78
_TYPE: Final = 156
_NOTHING: Final = np.empty(0, dtype=np.int64)
_MAGIC: Final = np.uint64(int.from_bytes(b"ustar", "little"))
_MAGIC_MASK: Final = np.uint64((1 << 40) - 1)


class Collected(NamedTuple):
    """A batch of header blocks, valid until the thread collects the next one.

    places[n]: the block of the file where each stands. fields u64[n, 21]: what tarbatch looks at of each. sums u64[n]: the
    sums of all their bytes, those of the checksum field taken as spaces. pax_rows[k]: the rows of type x whose data block
    is in pax_data u8[k + 1, 512] (the last row is anything).
    """

    places: Index
    fields: U64
    sums: U64
    pax_rows: Index
    pax_data: U8


class _Buffers(threading.local):
    """Per thread, made once: fresh memory costs more than the parsing."""

    def __init__(self, *, chunk: int, rows: int) -> None:
        self.memory = read_buffer(max(chunk, _HOPS * _WINDOW))
        self.chunk = self.memory[:chunk]
        self.blocks = np.frombuffer(self.memory, dtype=np.uint8).reshape(-1, BLOCK)
        self.headers = np.empty((_AT_ONCE, BLOCK), dtype=np.uint8)
        self.scratch = np.empty((2, _AT_ONCE, BLOCK // 8), dtype=np.uint64)
        self.fields = np.empty((rows, FIELDS), dtype=np.uint64)
        self.sums = np.empty(rows, dtype=np.uint64)
        self.pax_data = np.zeros((rows + 1, BLOCK), dtype=np.uint8)


_buffers = _Buffers(chunk=_CHUNK, rows=_ROWS)


class Walker:
    """Walks through the archive that is open as `fd`, a batch of headers at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffers = _buffers
        self._room = len(_buffers.fields)
        self._count = 0
        self._pax = 0
        self._places: list[Index] = []
        self._pax_rows: list[Index] = []
        self._dense = False
        self._careful = False
        self._stumbles = 0
        self._hops = min(_FIRST_HOPS, _HOPS)

    def collect(self, place: int) -> Collected:
        """Headers from the one at block `place` on; none where the file ends there. Raises OSError."""
        self._count = self._pax = 0
        self._places.clear()
        self._pax_rows.clear()
        following: int | None = place
        while following is not None and self._count < self._room:
            if self._dense:
                following = self._read_through(following)
            elif self._careful:
                following = self._follow(following)
            else:
                following = self._hop(following)
        return Collected(
            np.concatenate([_NOTHING, *self._places]),
            self._buffers.fields[: self._count],
            self._buffers.sums[: self._count],
            np.concatenate([_NOTHING, *self._pax_rows]),
            self._buffers.pax_data[: self._pax + 1],
        )

    def stumbled(self) -> None:
        """What was collected last were not the headers of the archive: trust their magic less."""
        self._dense = False
        self._careful = True
        self._stumbles += 1

    def _hop(self, place: int) -> int:
        """Read windows where headers must be; take what has their magic. The place that follows.

        Each window is followed by the one that the last header in it leads to. The first thing that is no such header is
        left to `_follow`. The loop runs for a few headers each time: what stands in it is written to be cheap.
        """
        fd, pread = self._fd, os.pread
        windows = self._buffers.memory
        shifts: list[int] = []  # from a block's number in `windows` to its place in the file, for each window
        counts: list[int] = []
        begin, filled = place, 0
        while len(shifts) < self._hops:
            data = pread(fd, _WINDOW, place * BLOCK)
            at = (len(data) & -BLOCK) - BLOCK
            if at < 0 or data[257:262] != b"ustar":
                self._careful = True
                break
            while data[at + 257 : at + 262] != b"ustar":
                at -= BLOCK
            if data[at + _TYPE] == _PAX and at and at + 2 * BLOCK > len(data):
                end = at  # its data is read together with it, from its own place
                following = place + (at >> 9)
            else:
                blocks = _blocks(data[at + 124 : at + 135], data[at + _TYPE])
                if not blocks:
                    self._careful = True
                    break
                end = min(at + 2 * BLOCK, len(data) & -BLOCK)
                following = place + (at >> 9) + blocks
            windows[filled : filled + end] = data[:end]
            shifts.append(place - (filled >> 9))
            counts.append(end >> 9)
            filled += end
            place = following
        if not shifts:
            return place
        self._dense = (place - begin) * BLOCK < _DENSE * len(shifts)
        self._hops = _HOPS
        window_blocks = self._buffers.blocks[: filled // BLOCK]
        rows = _with_magic(window_blocks)
        places = rows + np.repeat(shifts, counts)[rows]
        room = self._room - self._count
        self._keep(window_blocks, rows[:room], places[:room])
        return place if len(rows) <= room else int(places[room])

    def _follow(self, place: int) -> int | None:
        """Go from header to header, by their sizes alone. The place that follows, None where the walk stops."""
        fd, pread = self._fd, os.pread
        windows = self._buffers.memory
        places: list[int] = []
        shifts: list[int] = []  # from a place in the file to the block's number in `windows`, for each window
        counts: list[int] = []
        begin, collected = place, 0
        going = True
        while going and len(shifts) < _HOPS:
            data = pread(fd, _WINDOW, place * BLOCK)
            end = len(data) & -BLOCK
            going = end > 0
            before = len(places)
            at = 0
            while at < end:
                kind = data[at + _TYPE]
                if kind == _PAX and at and at + 2 * BLOCK > end:
                    break  # its data is read together with it, from its own place
                places.append(place + (at >> 9))
                at += BLOCK
                if not 0x30 < kind < 0x37:  # WITHOUT_DATA
                    try:
                        size = int(data[at - 388 : at - 377], 8)
                    except ValueError:
                        size = -1
                    if size < 0:
                        going = False
                        break
                    at += (size + 511) & -BLOCK
            windows[collected : collected + len(data)] = data
            shifts.append((collected >> 9) - place)
            counts.append(len(places) - before)
            collected += end
            place += at >> 9
        self._careful = self._stumbles >= _STUMBLES
        self._dense = not self._careful and (place - begin) * BLOCK < _DENSE * len(shifts)
        found = np.array(places, dtype=np.int64)
        blocks = self._buffers.blocks[: collected // BLOCK]
        rows = (found + np.repeat(shifts, counts))[: self._room - self._count]
        self._keep(blocks, rows, found[: len(rows)])
        if len(rows) < len(places):
            return places[len(rows)]
        return place if going else None

    def _read_through(self, place: int) -> int | None:
        """Read a chunk and take what has the magic of a header. The place that follows, None where the walk stops."""
        count = os.preadv(self._fd, [self._buffers.chunk], place * BLOCK) // BLOCK
        blocks = self._buffers.blocks[:count]
        found = _with_magic(blocks)
        if not len(found) or found[0]:
            self.stumbled()
            return place if count else None
        rows = found[: self._room - self._count]
        last = int(rows[-1])
        if last == count - 1 and last and blocks[last, _TYPE] == _PAX:
            rows = rows[:-1]  # its data is in the next chunk
            following: int | None = place + last
        elif len(rows) < len(found):
            following = place + int(found[len(rows)])
        else:
            end = last + _blocks(blocks[last, 124:135].tobytes(), int(blocks[last, _TYPE]))
            following = place + end if end > last else None
            # Before the end of the chunk, what follows has no magic: the end of the archive, or what `_follow` will find.
            self._dense = end >= count and _still_pays(rows)
        self._keep(blocks, rows, rows + place)
        return following

    def _keep(self, blocks: U8, rows: Index, places: Index) -> None:
        """Take the headers at `rows` of `blocks`, and the data of extended headers among them."""
        low = self._count
        for begin in range(0, len(rows), _AT_ONCE):  # what stays in the cache costs a third
            part = rows[begin : begin + _AT_ONCE]
            headers = self._buffers.headers[: len(part)]
            np.take(blocks, part, axis=0, out=headers, mode="clip")
            end = self._count + len(part)
            fields, scratch = self._buffers.fields[self._count : end], self._buffers.scratch[:, : len(part)]
            self._buffers.sums[self._count : end] = take_fields(headers, fields, scratch=scratch)
            self._count = end
        self._places.append(places)
        pax = np.flatnonzero(typeflags(self._buffers.fields[low : self._count]) == _PAX)
        if len(pax):
            pax = pax[rows[pax] + 1 < len(blocks)]
            end = self._pax + len(pax)
            np.take(blocks, rows[pax] + 1, axis=0, out=self._buffers.pax_data[self._pax : end], mode="clip")
            self._pax_rows.append(pax + low)
            self._pax = end


def _with_magic(blocks: U8) -> Index:
    """The blocks that have the magic of a header."""
    magic = blocks.view("<u8")[:, 32] >> np.uint64(8)
    return np.flatnonzero((magic & _MAGIC_MASK) == _MAGIC)


def _blocks(size: bytes, kind: int) -> int:
    """The number of blocks from a header to the next one, by its size field and type; 0 where it does not say."""
    if kind in WITHOUT_DATA:
        return 1
    try:
        return max(0, 1 + (int(size, 8) + BLOCK - 1) // BLOCK)
    except ValueError:
        return 0


def _still_pays(rows: Index) -> bool:
    """Whether headers lie so close together that reading everything between them is cheap. rows: block numbers."""
    steps = np.diff(rows)
    window = _WINDOW // BLOCK
    near = steps < window
    windows = np.count_nonzero(~near) + int(steps[near].sum()) // window + 1
    return bool(int(rows[-1] - rows[0]) * BLOCK < 2 * _DENSE * windows)
