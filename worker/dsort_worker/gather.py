"""Gather: read many slices of input shards into one buffer, each to its place.

This is the inner loop of the product. It runs in a thread, with one `preadv` a slice and nothing else a record: no await,
no object, no log line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np

from dsort_api.reasons import DSortError, Reason
from dsort_worker.rows import Index
from dsort_worker.shardfiles import ShardFiles


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Slices:
    """Slices of input shards: shard ordinals, and offsets and lengths in bytes, each i8[n]."""

    shard: Index
    offset: Index
    length: Index

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def size(self) -> int:
        """Bytes of all slices."""
        return int(self.length.sum())

    def __getitem__(self, part: slice | Index | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Slices:
        return Slices(self.shard[part], self.offset[part], self.length[part])

    def within(self, low: int, high: int, ends: Index) -> Slices:
        """The part [low, high) of the slices' concatenation; `ends` is the cumulated length."""
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1
        part = Slices(self.shard[first:last], self.offset[first:last].copy(), self.length[first:last].copy())
        if len(part):
            cut = low - int(ends[first] - self.length[first])
            part.offset[0] += cut
            part.length[0] -= cut
            part.length[-1] -= max(0, int(ends[min(last, len(ends)) - 1]) - high)
        return part


def gather(files: ShardFiles, slices: Slices, out: memoryview, places: Index) -> None:
    """Read each slice to out[place : place + length].

    Raises DSortError InputChanged when a shard ends early, InputUnreadable when it cannot be read.
    """
    for low, high in _batches(slices.shard, files.capacity):
        part = slices[low:high]
        with _opened(files, _distinct(part.shard), part, out, places[low:high]) as read:
            read(0, high - low)


@contextmanager
def gathering(
    files: ShardFiles, slices: Slices, out: memoryview, places: Index
) -> Iterator[Callable[[int, int], None]]:
    """A function that gathers slices [first, last) only, for one part of them after the other.

    Files are opened once for all parts, where so many may be open. It raises what `gather` raises.
    """
    shards = _distinct(slices.shard)
    if len(shards) <= files.capacity:
        with _opened(files, shards, slices, out, places) as read:
            yield read
    else:
        yield lambda first, last: gather(files, slices[first:last], out, places[first:last])


def _batches(shards: Index, capacity: int) -> list[tuple[int, int]]:
    """Cut so that no batch needs more files than may be open."""
    if len(shards) <= capacity:
        return [(0, len(shards))]
    batches: list[tuple[int, int]] = []
    low = 0
    seen: set[int] = set()
    for index, shard in enumerate(shards.tolist()):
        if shard not in seen and len(seen) == capacity:
            batches.append((low, index))
            low = index
            seen.clear()
        seen.add(shard)
    batches.append((low, len(shards)))
    return batches


@contextmanager
def _opened(
    files: ShardFiles, shards: list[int], slices: Slices, out: memoryview, places: Index
) -> Iterator[Callable[[int, int], None]]:
    """The inner loop over slices [first, last) of these, with the files of their `shards` open."""
    preadv = os.preadv
    shard_of, offset_of, length_of = slices.shard, slices.offset, slices.length
    with files.opened(shards) as fds:

        def read(first: int, last: int) -> None:
            # Python's own numbers, without a call into numpy for each; of one part at a time, as they take 30 bytes each.
            for shard, offset, length, place in zip(
                shard_of[first:last].tolist(),
                offset_of[first:last].tolist(),
                length_of[first:last].tolist(),
                places[first:last].tolist(),
                strict=True,
            ):
                try:
                    got = preadv(fds[shard], (out[place : place + length],), offset)
                    while got < length:
                        more = preadv(fds[shard], (out[place + got : place + length],), offset + got)
                        if not more:
                            raise _ends_early(files, shard, offset + got)
                        got += more
                except OSError as error:
                    raise DSortError(
                        Reason.INPUT_UNREADABLE,
                        f"shard {files.name(shard)}: at offset {offset}: {error.strerror or error}",
                    ) from None

        yield read


def _distinct(shards: Index) -> list[int]:
    """Each shard once, ascending. (`np.unique` keeps almost a MiB from its first call on.)"""
    ascending = np.sort(shards)
    return cast("list[int]", ascending[np.diff(ascending, prepend=-1) > 0].tolist())


def _ends_early(files: ShardFiles, shard: int, end: int) -> DSortError:
    return DSortError(
        Reason.INPUT_CHANGED,
        f"shard {files.name(shard)} changed while the job ran: it ends at {end}; run the job again",
    )
