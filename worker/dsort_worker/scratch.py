"""Scratch files: where a rank puts rows that it does not need in memory, or that do not fit into it.

A scratch file has no name, so none stays behind, however the rank ends. It is written region by region and read again at
any place, by any thread; what was written lies in the page cache, which the system takes back when memory is short.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

import numpy as np

from dsort_api.reasons import DSortError, Reason

_ALIGNED: Final = mmap.ALLOCATIONGRANULARITY
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ROOM: Final = (
    "make room in it (the scratch volume's size limit, or the disk that --scratch or the output is on), or raise the memory "
    "budget"
)
Array = np.ndarray[Any, Any]


def _uncounted(_: int) -> None:
    """Nobody counts what is written."""


class Scratch:
    """An unlinked file in `folder` (None: the system's temporary folder). on_write: told of all bytes written.

    It ends with the last that holds it, or when it is closed. Every method raises DSortError OutputUnwritable, with the folder and what to do, when the disk does not do as asked.
    """

    def __init__(self, folder: str | None, *, on_write: Callable[[int], None] = _uncounted) -> None:
        self._folder = folder or tempfile.gettempdir()
        self._on_write = on_write
        self._end = 0
        with self._explained(), tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            self.fd: Final = os.dup(file.fileno())
        self._close = weakref.finalize(self, os.close, self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the space back. What was mapped stays readable until the last array of it is gone."""
        self._close()

    def reserve(self, size: int) -> int:
        """The offset of a new region of `size` bytes; it begins where a page does, so that it can be mapped."""
        base = self._end
        self._end += -(-size // _ALIGNED) * _ALIGNED
        return base

    def write(self, offset: int, data: memoryview | Array) -> None:
        """Write bytes, or an array as it lies in memory, at `offset`."""
        view = data if isinstance(data, memoryview) else _bytes_of(np.ascontiguousarray(data))
        done = 0
        with self._explained():
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)
        self._on_write(len(view))

    def read(self, offset: int, into: Array) -> None:
        """Fill an array from `offset` on. Raises ValueError past the end of the file."""
        view = _bytes_of(into)
        done = 0
        with self._explained():
            while done < len(view):
                got = os.preadv(self.fd, [view[done:]], offset + done)
                if not got:
                    raise ValueError("the scratch file ends before what was to be read")
                done += got

    def map(self, offset: int, size: int) -> mmap.mmap:
        """A region (of more than 0 bytes) as memory that cannot be written: pages of the file, read when they are touched."""
        with self._explained():
            # Private: there are file systems that cannot share a mapping.
            return mmap.mmap(self.fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ, offset=offset)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"scratch folder {self._folder}: {error.strerror or error}; metadata that does not fit into memory goes there"
            advice = _ROOM if error.errno in _FULL else "mend that, or raise the memory budget"
            raise DSortError(Reason.OUTPUT_UNWRITABLE, f"{what}: {advice}") from None


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
