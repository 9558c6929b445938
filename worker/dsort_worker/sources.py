"""What a stream can be made of: parts of a scratch file, slices of input shards."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from dsort_worker.gather import Slices, gather
from dsort_worker.shardfiles import ShardFiles


class Source(Protocol):
    """Bytes of a known size, any part of which a thread can read."""

    size: int

    def read(self, low: int, high: int, out: memoryview) -> None:
        """Read [low, high) to `out`, which has just that size."""


class FilePart:
    """A header, then sections (offset, bytes) of a file."""

    def __init__(self, fd: int, header: bytes, sections: list[tuple[int, int]]) -> None:
        self._fd = fd
        self._header = header
        self._sections = sections
        self.size = len(header) + sum(size for _, size in sections)

    def read(self, low: int, high: int, out: memoryview) -> None:
        """See Source. Raises OSError."""
        done = 0
        if low < len(self._header):
            part = self._header[low:high]
            out[: len(part)] = part
            done = len(part)
        start = len(self._header)
        for offset, size in self._sections:
            skip = low + done - start
            if 0 <= skip < size and done < high - low:
                take = min(size - skip, high - low - done)
                got = os.preadv(self._fd, [out[done : done + take]], offset + skip)
                if got != take:
                    raise OSError(0, "the scratch file is shorter than it was")
                done += take
            start += size


class ShardPart:
    """Slices of input shards, one after the other."""

    def __init__(self, files: ShardFiles, slices: Slices) -> None:
        self._files = files
        self._slices = slices
        self._ends = np.cumsum(slices.length)
        self.size = int(self._ends[-1]) if len(slices) else 0

    def read(self, low: int, high: int, out: memoryview) -> None:
        """See Source. Raises DSortError as `gather` does."""
        part = self._slices.within(low, high, self._ends)
        gather(self._files, part, out, np.cumsum(part.length) - part.length)
