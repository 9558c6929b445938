"""Touch memory and give it back, so that what is measured next does not pay for a virtual machine's first touch.

    python -m benchmarks.prefault GIB

A guest's page that was never touched costs the hypervisor's time, up to seconds per GiB: whoever runs first would lose.
"""

from __future__ import annotations

import mmap
import sys
from typing import Final

_MADV_POPULATE_WRITE: Final = 23
"""Linux 5.14. Older kernels refuse it, and the pages are touched one by one."""


def touch(size: int) -> None:
    """Write to `size` bytes of fresh memory and free them."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(_MADV_POPULATE_WRITE)
        except OSError:
            for page in range(0, size, mmap.PAGESIZE):
                memory[page] = 1


def available() -> int:
    """Bytes that the kernel gives without swapping."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("/proc/meminfo without MemAvailable")


if __name__ == "__main__":
    # Four fifths of what is there: the page cache that holds the input shall stay.
    touch(min(int(float(sys.argv[1]) * 2**30), available() * 4 // 5))
