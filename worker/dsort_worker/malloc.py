"""glibc's malloc, told to keep the memory that it was given back, in one place.

Pieces of 256 KiB to 1 MiB come and go at gigabytes per second. By default glibc maps and unmaps each of them, and every
page of it faults in again: 8 GB/s become 2. What is larger (the rows of a rank) comes once, and goes back to the system at
once: kept, and cut up, it would make a fifth more memory of every row.

By default glibc also gives each thread an arena to itself, up to eight for every processor, and each of them keeps what was
freed in it. A rank has a dozen threads that come and go, and most of what they allocate, they allocate one at a time: one arena
serves all, and resident memory stays where it is, job after job.
"""

from __future__ import annotations

import ctypes
from typing import Final

# mallopt(3); both or neither, as one alone is slower than none.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MMAP_BYTES: Final = 2 << 20
_TRIM_BYTES: Final = 128 << 20


def keep_freed_memory() -> None:
    """Set the thresholds for this process, before it has threads; without effect where the C library is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES):
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_ARENA_MAX, 1)
