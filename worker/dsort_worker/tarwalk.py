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

from dsort_worker.rows import U8, Index
from dsort_worker.tarbatch import Bools, sizes
from dsort_worker.tarheaders import BLOCK, WITHOUT_DATA

_ROWS: Final = 4096
"""Header blocks in a batch, at most."""
_CHUNK: Final = 1 << 20
_WINDOW: Final = 4096
_HOPS: Final = 64
"""Windows that are read between two looks at how far apart they lie."""
_DENSE: Final = 20 << 10
"""Bytes from one window to the next, below which reading everything is cheaper than another system call."""
_BROKEN: Final = 3
"""Chunks whose headers could not be found by their magic, after which that is not tried again."""
_PAX: Final = 0x78
_TYPE: Final = 156
_WITHOUT_DATA: Final = np.isin(np.arange(256), list(WITHOUT_DATA))
_NOTHING: Final = np.empty(0, dtype=np.int64)
_MAGIC: Final = np.uint64(int.from_bytes(b"ustar", "little"))
_MAGIC_MASK: Final = np.uint64((1 << 40) - 1)


@dataclass(frozen=True, slots=True)
class Collected:
    """A batch of header blocks, valid until the thread collects the next one.

    places[n]: the block of the file where each stands. headers u8[n, 512]. size[n], in bytes, and octal[n]: whether the
    size field is plain octal digits (the size is right only then). pax_rows[k]: the rows of type x whose data block is in
    pax_data u8[k + 1, 512] (the last row is anything). Each row but the first follows from the one before by its size.
    """

    places: Index
    headers: U8
    size: Index
    octal: Bools
    pax_rows: Index
    pax_data: U8


class _Buffers(threading.local):
    """Per thread, made once: fresh memory costs more than the parsing."""

    def __init__(self, *, chunk: int, rows: int) -> None:
        self.view = memoryview(bytearray(chunk))
        self.chunk = np.frombuffer(self.view, dtype=np.uint8).reshape(-1, BLOCK)
        self.headers = np.empty((rows, BLOCK), dtype=np.uint8)
        self.pax_data = np.zeros((rows + 1, BLOCK), dtype=np.uint8)


_buffers = _Buffers(chunk=_CHUNK, rows=_ROWS)


class Walker:
    """Walks through the archive that is open as `fd`, a batch of headers at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffers = _buffers
        self._room = len(_buffers.headers)
        self._count = 0
        self._pax = 0
        self._places: list[Index] = []
        self._sizes: list[Index] = []
        self._octal: list[Bools] = []
        self._pax_rows: list[Index] = []
        self._dense = False
        self._broken = 0

    def collect(self, place: int) -> Collected:
        """Headers from the one at block `place` on; none where the file ends there. Raises OSError."""
        self._count = self._pax = 0
        for parts in (self._places, self._sizes, self._octal, self._pax_rows):
            parts.clear()
        following: int | None = place
        while following is not None and self._count < self._room:
            following = self._read_through(following) if self._dense else self._hop(following)
        return Collected(
            np.concatenate([_NOTHING, *self._places]),
            self._buffers.headers[: self._count],
            np.concatenate([_NOTHING, *self._sizes]),
            np.concatenate([_NOTHING > 0, *self._octal]),
            np.concatenate([_NOTHING, *self._pax_rows]),
            self._buffers.pax_data[: self._pax + 1],
        )

    def _hop(self, place: int) -> int | None:
        """Read windows where headers must be. The place that follows, None where the walk stops.

        The outer loop runs for a few headers, the inner one for each: what stands in them is written to be cheap.
        """
        fd, pread = self._fd, os.pread
        parts: list[bytes] = []
        places: list[int] = []
        shifts: list[int] = []  # from a place in the file to the block's number in `parts`, for each window
        counts: list[int] = []
        begin, collected = place, 0
        going = True
        while going and len(parts) < _HOPS:
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
            parts.append(data[:end])
            shifts.append(collected - place)
            counts.append(len(places) - before)
            collected += end // BLOCK
            place += at >> 9
        self._dense = self._broken < _BROKEN and (place - begin) * BLOCK < _DENSE * len(parts)
        found = np.array(places, dtype=np.int64)
        blocks = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, BLOCK)
        rows = (found + np.repeat(shifts, counts))[: self._room - self._count]
        sizes_found, octal = self._look(blocks, rows)
        self._keep(blocks, rows, found[: len(rows)], sizes_found, octal)
        if len(rows) < len(places):
            return places[len(rows)]
        return place if going else None

    def _read_through(self, place: int) -> int | None:
        """Read a chunk and find its headers by their magic. The place that follows, None where the walk stops."""
        count = os.preadv(self._fd, [self._buffers.view], place * BLOCK) // BLOCK
        blocks = self._buffers.chunk[:count]
        magic = blocks.view("<u8")[:, 32] >> np.uint64(8)
        found = np.flatnonzero((magic & _MAGIC_MASK) == _MAGIC)
        if not len(found) or found[0]:
            self._dense = False
            self._broken += 1
            return place if count else None
        rows = found[: self._room - self._count]
        size, octal = self._look(blocks, rows)
        # As far as each header follows from the one before, these are the headers, and nothing else is.
        following = rows + 1 + (size + (BLOCK - 1)) // BLOCK
        bare = _WITHOUT_DATA[blocks[rows, _TYPE]]
        following[bare] = rows[bare] + 1
        broken = np.flatnonzero(following[:-1] != rows[1:])
        good = int(broken[0]) + 1 if len(broken) else len(rows)
        last, after = int(rows[good - 1]), int(following[good - 1])
        stopped = False
        if last == count - 1 and last and blocks[last, _TYPE] == _PAX:
            good -= 1  # its data is in the next chunk
            after = last
        elif not (octal[good - 1] or bare[good - 1]):
            stopped = True
        elif after < count and good == len(rows) < len(found):
            pass  # no more room
        elif after < count:
            self._dense = False
            self._broken += bool(blocks[after].any())
        self._keep(blocks, rows[:good], rows[:good] + place, size[:good], octal[:good])
        self._dense = self._dense and _still_pays(rows[:good])
        return None if stopped else place + after

    def _look(self, blocks: U8, rows: Index) -> tuple[Index, Bools]:
        """Copy the headers at `rows` of `blocks` behind those that are kept; their sizes, and whether these are octal."""
        headers = self._buffers.headers[self._count : self._count + len(rows)]
        np.take(blocks, rows, axis=0, out=headers, mode="clip")
        return sizes(headers.view("<u8"))

    def _keep(self, blocks: U8, rows: Index, places: Index, size: Index, octal: Bools) -> None:
        """Keep the first len(rows) of the headers that were copied last, and the data of extended headers among them."""
        low = self._count
        self._count += len(rows)
        self._places.append(places)
        self._sizes.append(size)
        self._octal.append(octal)
        pax = np.flatnonzero(self._buffers.headers[low : self._count, _TYPE] == _PAX)
        pax = pax[rows[pax] + 1 < len(blocks)]
        if len(pax):
            end = self._pax + len(pax)
            np.take(blocks, rows[pax] + 1, axis=0, out=self._buffers.pax_data[self._pax : end], mode="clip")
            self._pax_rows.append(pax + low)
            self._pax = end


def _still_pays(rows: Index) -> bool:
    """Whether headers lie so close together that reading everything between them is cheap. rows: block numbers."""
    steps = np.diff(rows)
    window = _WINDOW // BLOCK
    near = steps < window
    windows = np.count_nonzero(~near) + int(steps[near].sum()) // window + 1
    return bool(int(rows[-1] - rows[0]) * BLOCK < 2 * _DENSE * windows)
