"""Writing output shards: bytes in order, a running checksum, then flushed to disk and committed.

A writer is used by one thread. Closing work (flush to disk, commit record) goes to threads of its own, a bounded number
behind the writing, so that the disk's latency is not waited for shard by shard.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, NamedTuple

import xxhash

from dsort_worker.staging import Commit, Staging, unwritable

_PIECE: Final = 1 << 20
"""Bytes hashed and written at a time: what was just hashed is still in the cache when it is written."""

_FLUSH_STEP: Final = 32 << 20
"""Bytes after which the kernel is asked to begin writing to disk, so that the flush at the end finds little left."""


class OutputShard(NamedTuple):
    """An output shard as planned. size: bytes with the end of the archive."""

    number: int
    name: str
    size: int
    records: int
    members: int


class ShardWriter:
    """Writes shards one after the other; at most `behind` of them wait to be flushed."""

    def __init__(
        self, staging: Staging, *, closers: Executor, behind: int, on_commit: Callable[[OutputShard], None]
    ) -> None:
        self._staging = staging
        self._closers = closers
        self._behind = behind
        self._on_commit = on_commit
        self._closing: deque[Future[None]] = deque()
        self._shard: OutputShard | None = None
        self._path = ""
        self._fd = -1
        self._written = 0
        self._flushed = 0
        self._checksum = xxhash.xxh3_128()

    def write(self, shard: OutputShard, data: memoryview) -> None:
        """Append bytes to `shard`; the last of them close it. Raises DSortError OutputUnwritable."""
        if self._shard is not shard:
            self._begin(shard)
        with unwritable(self._path):
            for low in range(0, len(data), _PIECE):
                piece = data[low : low + _PIECE]
                self._checksum.update(piece)
                done = 0
                while done < len(piece):
                    done += os.write(self._fd, piece[done:])
            self._written += len(data)
            if self._written - self._flushed >= _FLUSH_STEP:
                self._start_flush()
        if self._written == shard.size:
            self._end(shard)

    def finish(self) -> None:
        """Wait until every shard is committed. Raises what went wrong with any."""
        while self._closing:
            self._closing.popleft().result()

    def abandon(self) -> None:
        """Close the file of a shard that will not be finished."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _begin(self, shard: OutputShard) -> None:
        self._path = self._staging.staged_path(self._staging.staged_name(shard.number))
        with unwritable(self._path):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._shard, self._written, self._flushed = shard, 0, 0
        self._checksum.reset()

    def _start_flush(self) -> None:
        # DONTNEED starts writing dirty pages of the range and does not wait; they are dropped only when they are clean.
        os.posix_fadvise(self._fd, self._flushed, self._written - self._flushed, os.POSIX_FADV_DONTNEED)
        self._flushed = self._written

    def _end(self, shard: OutputShard) -> None:
        fd, digest = self._fd, self._checksum.hexdigest()
        self._fd, self._shard = -1, None
        self._closing.append(self._closers.submit(self._close, fd, shard, digest))
        if len(self._closing) > self._behind:
            self._closing.popleft().result()

    def _close(self, fd: int, shard: OutputShard, digest: str) -> None:
        staged = self._staging.staged_name(shard.number)
        with unwritable(self._staging.staged_path(staged)):
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._staging.commit(
            Commit(
                number=shard.number,
                name=shard.name,
                staged=staged,
                bytes=shard.size,
                records=shard.records,
                members=shard.members,
                checksum=digest,
            )
        )
        self._on_commit(shard)
