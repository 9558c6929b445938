"""The walk from header to header: collects blocks of headers for tarbatch, reading as little or as much as pays.

Where members are small the file is read through, a megabyte at a time, and the headers are found among all its blocks by
their magic; where they are large, a few blocks are read at each place where a header must be. Nothing is decided here: the
walk follows sizes as they stand and stops where it sees something odd, and whoever takes the batch checks every row.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Final

import numpy as np

from dsort_worker.rows import U8, U64, Index
from dsort_worker.tarbatch import FIELDS, take_fields, typeflags
from dsort_worker.tarheaders import BLOCK, WITHOUT_DATA

_ROWS: Final = 4096
"""Header blocks in a batch, at most."""
_CHUNK: Final = 1 << 20
_WINDOW: Final = 4096
_HOPS: Final = 64
"""Windows that are read between two looks at how far apart they lie."""
_DENSE: Final = 20 << 10
"""Bytes from one window to the next, below which reading everything is cheaper than another system call."""
_STUMBLES: Final = 3
"""Times that what has the magic of a header was none, after which that is not tried again."""
_AT_ONCE: Final = 512
_PAX: Final = 0x78
_TYPE: Final = 156
_NOTHING: Final = np.empty(0, dtype=np.int64)
_MAGIC: Final = np.uint64(int.from_bytes(b"ustar", "little"))
_MAGIC_MASK: Final = np.uint64((1 << 40) - 1)


@dataclass(frozen=True, slots=True)
class Collected:
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
        self.view = memoryview(bytearray(chunk))
        self.chunk = np.frombuffer(self.view, dtype=np.uint8).reshape(-1, BLOCK)
        self.windows = memoryview(bytearray(_HOPS * _WINDOW))
        self.windowed = np.frombuffer(self.windows, dtype=np.uint8).reshape(-1, BLOCK)
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
        self._stumbles = 0

    def collect(self, place: int) -> Collected:
        """Headers from the one at block `place` on; none where the file ends there. Raises OSError."""
        self._count = self._pax = 0
        self._places.clear()
        self._pax_rows.clear()
        following: int | None = place
        while following is not None and self._count < self._room:
            following = self._read_through(following) if self._dense else self._hop(following)
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
        self._stumbles += 1

    def _hop(self, place: int) -> int | None:
        """Read windows where headers must be. The place that follows, None where the walk stops.

        The outer loop runs for a few headers, the inner one for each: what stands in them is written to be cheap.
        """
        fd, pread = self._fd, os.pread
        windows = self._buffers.windows
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
        self._dense = self._stumbles < _STUMBLES and (place - begin) * BLOCK < _DENSE * len(shifts)
        found = np.array(places, dtype=np.int64)
        blocks = self._buffers.windowed[: collected // BLOCK]
        rows = (found + np.repeat(shifts, counts))[: self._room - self._count]
        self._keep(blocks, rows, found[: len(rows)])
        if len(rows) < len(places):
            return places[len(rows)]
        return place if going else None

    def _read_through(self, place: int) -> int | None:
        """Read a chunk and take what has the magic of a header. The place that follows, None where the walk stops."""
        count = os.preadv(self._fd, [self._buffers.view], place * BLOCK) // BLOCK
        blocks = self._buffers.chunk[:count]
        magic = blocks.view("<u8")[:, 32] >> np.uint64(8)
        found = np.flatnonzero((magic & _MAGIC_MASK) == _MAGIC)
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
            end = _end(blocks[last].tobytes())
            following = None if end is None else place + last + end
            # What has no magic is the end of the archive, or a header that a look at each place will find.
            self._dense = end is not None and last + end >= count and _still_pays(rows)
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


def _end(block: bytes) -> int | None:
    """The number of blocks from a header to the next one, None where it does not say."""
    if block[_TYPE] in WITHOUT_DATA:
        return 1
    try:
        size = int(block[124:135], 8)
    except ValueError:
        return None
    return 1 + (size + BLOCK - 1) // BLOCK if size >= 0 else None


def _still_pays(rows: Index) -> bool:
    """Whether headers lie so close together that reading everything between them is cheap. rows: block numbers."""
    steps = np.diff(rows)
    window = _WINDOW // BLOCK
    near = steps < window
    windows = np.count_nonzero(~near) + int(steps[near].sum()) // window + 1
    return bool(int(rows[-1] - rows[0]) * BLOCK < 2 * _DENSE * windows)
