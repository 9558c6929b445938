"""Reads of one open shard while it is indexed: by offset, whole, or an error that names the shard."""

from __future__ import annotations

import os
from typing import Final

from dsort_api.reasons import DSortError, Reason

_WINDOW: Final = 4096


class ShardReader:
    """Reads a shard of `size` bytes that is open as `fd`; one thread at a time. name: for messages."""

    def __init__(self, fd: int, *, name: str, size: int) -> None:
        self.size = size
        self.fd = fd
        self._name = name
        self._low = 0
        self._window = b""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length) of the file, all of them. Small reads near each other are one system call.

        Raises DSortError InputChanged where the file has less than its size, InputUnreadable where reading fails.
        """
        begin = offset - self._low
        if begin < 0 or begin + length > len(self._window):
            try:
                self._window = os.pread(self.fd, max(length, _WINDOW), offset)
            except OSError as error:
                raise self.unreadable(offset, error) from error
            self._low = offset
            begin = 0
            if len(self._window) < length:
                raise DSortError(
                    Reason.INPUT_CHANGED,
                    f"shard {self._name}: it ends at offset {offset + len(self._window)}, but had {self.size} bytes "
                    "when the input was listed; run the job again when nothing writes to it",
                )
        return self._window[begin : begin + length]

    def unreadable(self, offset: int, error: OSError) -> DSortError:
        """The error for a read at `offset` that failed."""
        message = f"shard {self._name}: reading at offset {offset} failed: {error.strerror}"
        return DSortError(Reason.INPUT_UNREADABLE, message)
