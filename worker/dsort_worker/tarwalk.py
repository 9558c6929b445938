"""The walk from header to header: collects blocks of headers for tarbatch, reading as little or as much as pays.

Where members are small the file is read through, a megabyte at a time, and the headers are found among all its blocks by
their magic; where they are large, a few blocks are read at each place where a header must be. Nothing is decided here: the
walk follows sizes as they stand and stops where it sees something odd, and whoever takes the batch checks every row.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from dsort_worker.rows import U8, Index
from dsort_worker.tarbatch import sizes
from dsort_worker.tarheaders import BLOCK, WITHOUT_DATA

_ROWS: Final = 4096
"""Header blocks in a batch, at most."""
_CHUNK: Final = 1 << 20
_WINDOW: Final = 4096
_STRIDES: Final = 64
"""Windows that are read between two looks at how far apart they lie."""
_DENSE: Final = 24 << 10
"""Bytes from one window to the next, below which reading everything is cheaper than another system call."""
_PAX: Final = 0x78
_TYPE: Final = 156
_WITHOUT_DATA: Final = np.isin(np.arange(256), list(WITHOUT_DATA))
_NOTHING: Final = np.empty(0, dtype=np.int64)
_MAGIC: Final = np.uint64(int.from_bytes(b"ustar", "little"))
_MAGIC_MASK: Final = np.uint64((1 << 40) - 1)


class Reader(Protocol):
    """Reads of one file; both return less than asked only at its end."""

    def pread(self, offset: int, length: int) -> bytes:
        """Bytes of the file from `offset` on."""

    def preadinto(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from `offset` on; the number of bytes."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A batch of header blocks, valid until the thread collects the next one.

    places[n]: the block of the file where each stands. headers u8[n, 512]. pax_rows[k]: the rows of type x whose data
    block is in pax_data u8[k, 512]. Each row but the first follows from the one before by its size field.
    """

    places: Index
    headers: U8
    pax_rows: Index
    pax_data: U8


class _Buffers(threading.local):
    """Per thread, made once: fresh memory costs more than the parsing."""

    def __init__(self, *, chunk: int, rows: int) -> None:
        self.view = memoryview(bytearray(chunk))
        self.chunk = np.frombuffer(self.view, dtype=np.uint8)
        self.headers = np.empty((rows, BLOCK), dtype=np.uint8)
        self.pax_data = np.empty((rows, BLOCK), dtype=np.uint8)


_buffers = _Buffers(chunk=_CHUNK, rows=_ROWS)


class Walker:
    """Walks through one archive, a batch of headers at a time."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._chunk = _buffers.chunk
        self._view = _buffers.view
        self._headers = _buffers.headers
        self._pax_data = _buffers.pax_data
        self._count = 0
        self._pax = 0
        self._places: list[Index] = []
        self._pax_rows: list[Index] = []
        self._dense = False

    def collect(self, place: int) -> Collected:
        """Headers from the one at block `place` on; none where the file ends there."""
        self._count = self._pax = 0
        self._places.clear()
        self._pax_rows.clear()
        following: int | None = place
        while following is not None and self._count < len(self._headers):
            following = self._read_through(following) if self._dense else self._hop(following)
        return Collected(
            np.concatenate([_NOTHING, *self._places]),
            self._headers[: self._count],
            np.concatenate([_NOTHING, *self._pax_rows]),
            self._pax_data[: self._pax],
        )

    def _hop(self, place: int) -> int | None:
        """Read windows where headers must be. The place that follows, None where the walk stops."""
        parts: list[bytes] = []
        rows: list[int] = []
        places: list[int] = []
        read = 0
        following: int | None = place
        while following is not None and len(parts) < _STRIDES:
            data = self._reader.pread(following * BLOCK, _WINDOW)
            data = data[: len(data) // BLOCK * BLOCK]
            parts.append(data)
            following = _follow(data, following, rows, places, base=read)
            read += len(data) // BLOCK
        if following is not None:
            self._dense = (following - place) * BLOCK < _DENSE * len(parts)
        blocks = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, BLOCK)
        taken = self._gather(blocks, np.array(rows, dtype=np.int64), np.array(places, dtype=np.int64))
        return places[taken] if taken < len(places) else following

    def _read_through(self, place: int) -> int | None:
        """Read a chunk and find its headers by their magic; where that is not the whole story, follow them one by one."""
        size = self._reader.preadinto(place * BLOCK, self._view)
        count = size // BLOCK
        if not count:
            return None
        blocks = self._chunk[: count * BLOCK].reshape(-1, BLOCK)
        rows, at = _chain(blocks)
        following: int | None = None if at is None else place + at
        if at is not None and at < count:
            more: list[int] = []
            following = _follow(blocks[at:].tobytes(), place + at, more, [], base=at)
            rows = np.concatenate([rows, np.array(more, dtype=np.int64)])
        last = int(rows[-1])
        if last == count - 1 and last and blocks[last, _TYPE] == _PAX:
            rows, following = rows[:-1], place + last  # its data is in the next chunk
        taken = self._gather(blocks, rows, rows + place)
        if taken < len(rows):
            return place + int(rows[taken])
        steps = np.diff(rows)
        far = steps >= _WINDOW // BLOCK
        windows = int(far.sum()) + int(steps[~far].sum()) // (_WINDOW // BLOCK) + 1
        self._dense = size < 2 * _DENSE * windows
        return following

    def _gather(self, blocks: U8, rows: Index, places: Index) -> int:
        """Add the headers that stand at `rows` of `blocks`, as many as there is room for; how many that are."""
        low = self._count
        taken = min(len(rows), len(self._headers) - low)
        rows = rows[:taken]
        headers = self._headers[low : low + taken]
        np.take(blocks, rows, axis=0, out=headers, mode="clip")
        self._count += taken
        self._places.append(places[:taken])
        pax = np.flatnonzero(headers[:, _TYPE] == _PAX)
        pax = pax[rows[pax] + 1 < len(blocks)]
        if len(pax):
            end = self._pax + len(pax)
            np.take(blocks, rows[pax] + 1, axis=0, out=self._pax_data[self._pax : end], mode="clip")
            self._pax_rows.append(pax + low)
            self._pax = end
        return taken


def _chain(blocks: U8) -> tuple[Index, int | None]:
    """The headers of a chunk that begins with one, found by their magic, as far as each follows from the one before.

    The place in the chunk, or behind it, where the next one must be; None after a header whose size is not plain octal.
    """
    words = blocks.view("<u8")
    found = np.flatnonzero(((words[:, 32] >> np.uint64(8)) & _MAGIC_MASK) == _MAGIC)
    if not len(found) or found[0]:
        return found[:0], 0
    size, plain = sizes(words[found])
    size[_WITHOUT_DATA[blocks[found, _TYPE]]] = 0
    following = found + 1 + (size + (BLOCK - 1)) // BLOCK
    broken = np.flatnonzero(following[:-1] != found[1:])
    last = int(broken[0]) if len(broken) else len(found) - 1
    return found[: last + 1], int(following[last]) if plain[last] else None


def _follow(data: bytes, place: int, rows: list[int], places: list[int], *, base: int) -> int | None:
    """Go from header to header within a window of whole blocks that was read at block `place`.

    Adds to `rows` the headers' blocks in the window, plus base, and to `places` those in the file. The place behind the
    window where the next header must be, or None after a header that does not say.
    """
    at = 0
    end = len(data)
    while at < end:
        kind = data[at + 156]
        if kind == _PAX and at + 2 * BLOCK > end and at:
            break  # its data is read together with it, from its own place
        rows.append(base + at // BLOCK)
        places.append(place + at // BLOCK)
        at += BLOCK
        if kind not in WITHOUT_DATA:
            try:
                size = int(data[at - 388 : at - 377], 8)
            except ValueError:
                return None
            if size < 0:
                return None
            at += (size + BLOCK - 1) // BLOCK * BLOCK
    return place + at // BLOCK if end else None
