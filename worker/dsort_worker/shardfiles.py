"""Input shards as open files: pinned identity checked, a bounded number open at once.

Every read of an input goes through here. Reads come from several threads (scan, serve, fill), so an open file is pinned
while a batch of slices is read and closed only when nobody uses it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dsort_api.manifest import PinnedInput
from dsort_api.reasons import DSortError, Reason


class ShardFiles:
    """Opens input shards by ordinal. `capacity` is the number of files kept open (a batch may need that many)."""

    def __init__(self, shards: Sequence[PinnedInput], *, root: str, capacity: int = 256) -> None:
        self._shards = shards
        self._root = root
        self.capacity = capacity
        self._lock = threading.Lock()
        self._open: OrderedDict[int, int] = OrderedDict()  # ordinal -> fd, the least recently used first
        self._users: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._shards)

    def name(self, ordinal: int) -> str:
        """The shard's name, relative to the input."""
        return self._shards[ordinal].name

    def size(self, ordinal: int) -> int:
        """The shard's pinned size in bytes."""
        return self._shards[ordinal].size

    @contextmanager
    def opened(self, ordinals: Sequence[int]) -> Iterator[dict[int, int]]:
        """File descriptors of these shards (at most `capacity` of them), valid inside the block.

        Raises DSortError InputChanged when a shard is not as pinned, InputUnreadable when it cannot be opened.
        """
        taken: dict[int, int] = {}
        try:
            with self._lock:
                for ordinal in ordinals:
                    taken[ordinal] = self._take(ordinal)
            yield taken
        finally:
            with self._lock:
                for ordinal in taken:
                    self._users[ordinal] -= 1

    def check_unchanged(self, ordinals: Sequence[int]) -> None:
        """Raise InputChanged unless these shards still are as pinned, under their names."""
        for ordinal in ordinals:
            pinned = self._shards[ordinal]
            try:
                status = os.stat(os.path.join(self._root, pinned.name))
            except OSError as error:
                raise self._changed(ordinal, error.strerror or str(error)) from None
            self._compare(ordinal, status)

    def close(self) -> None:
        """Close all files; nobody may be reading."""
        with self._lock:
            for fd in self._open.values():
                os.close(fd)
            self._open.clear()
            self._users.clear()

    def _take(self, ordinal: int) -> int:
        fd = self._open.get(ordinal)
        if fd is not None:
            self._open.move_to_end(ordinal)
            self._users[ordinal] += 1
            return fd
        fd = self._open_file(ordinal)
        self._open[ordinal] = fd
        self._users[ordinal] = 1
        self._evict()
        return fd

    def _evict(self) -> None:
        if len(self._open) <= self.capacity:
            return
        idle = [ordinal for ordinal in self._open if not self._users[ordinal]]
        for ordinal in idle[: len(self._open) - self.capacity]:
            os.close(self._open.pop(ordinal))
            del self._users[ordinal]

    def _open_file(self, ordinal: int) -> int:
        try:
            fd = os.open(os.path.join(self._root, self._shards[ordinal].name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._changed(ordinal, "it is gone") from None
        except OSError as error:
            raise DSortError(
                Reason.INPUT_UNREADABLE, f"shard {self.name(ordinal)}: {error.strerror}"
            ) from None
        try:
            self._compare(ordinal, os.fstat(fd))
        except DSortError:
            os.close(fd)
            raise
        return fd

    def _compare(self, ordinal: int, status: os.stat_result) -> None:
        pinned = self._shards[ordinal]
        if status.st_size != pinned.size:
            raise self._changed(ordinal, f"{pinned.size} bytes when listed, {status.st_size} now")
        if status.st_mtime_ns != pinned.mtime_ns:
            raise self._changed(ordinal, "its modification time is another")

    def _changed(self, ordinal: int, what: str) -> DSortError:
        return DSortError(
            Reason.INPUT_CHANGED,
            f"shard {self.name(ordinal)} changed while the job ran: {what}; run the job again",
        )
