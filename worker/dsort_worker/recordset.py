"""Compare the records of two sets of shards as multisets, whatever their order and place.

A record is known by the xxh3-128 hash of its bytes, headers included, so its key and the names, modes and
times of its members are compared with it. 16 bytes a record are kept; names are read again for those that
differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from dsort_api.reasons import DSortError, Reason
from dsort_worker.readbuffer import read_buffer
from dsort_worker.tarscan import BLOCK, Grouping, ShardIndex
from dsort_worker.verify import Difference, index_shard

_BUFFER: Final = 16 << 20
_MOST_NAMES: Final = 20

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class RecordSet:
    """Records of shards: hash u8[n, 2], and where each is (place in `shards`, ordinal in that shard), each
    u4[n].
    """

    shards: tuple[tuple[str, str], ...]
    """(folder, name) of each shard."""
    hash: U64
    shard: U32
    ordinal: U32
    members: int
    bytes: int
    grouping: Grouping
    """What is called a record here."""

    def __len__(self) -> int:
        return len(self.hash)


def collect(
    shards: Sequence[tuple[str, str]],
    *,
    skip_corrupt: Callable[[str], bool] = lambda _: False,
    grouping: Grouping = Grouping.RECORDS,
) -> tuple[RecordSet, list[Difference]]:
    """The records of the shards (folder, name), and the shards that could not be read.

    A corrupt shard whose name satisfies `skip_corrupt` is left out, as the job did.
    """
    buffer = read_buffer(_BUFFER)
    hashes: list[U64] = []
    places: list[U32] = []
    ordinals: list[U32] = []
    unreadable: list[Difference] = []
    members = size = 0
    for place, (folder, name) in enumerate(shards):
        try:
            index = index_shard(folder, name, grouping=grouping)
            found = _hash_shard(os.path.join(folder, name), index, buffer)
        except DSortError as error:
            if error.reason is not Reason.CORRUPT_SHARD or not skip_corrupt(name):
                unreadable.append(Difference(name, error.message.removeprefix(f"shard {name}: ")))
            continue
        hashes.append(found)
        places.append(np.full(len(found), place, np.uint32))
        ordinals.append(np.arange(len(found), dtype=np.uint32))
        members += int(index.members.sum())
        size += int(index.length.sum(dtype=np.int64)) * BLOCK
    empty = np.empty(0, np.uint32)
    return (
        RecordSet(
            shards=tuple(shards),
            hash=np.concatenate(hashes) if hashes else np.empty((0, 2), np.uint64),
            shard=np.concatenate(places) if places else empty,
            ordinal=np.concatenate(ordinals) if ordinals else empty,
            members=members,
            bytes=size,
            grouping=grouping,
        ),
        unreadable,
    )


def compare(inputs: RecordSet, outputs: RecordSet) -> list[Difference]:
    """Records of one set that the other has not, or not as often: up to twenty of each by name, then how many
    more.
    """
    both = np.concatenate([inputs.hash, outputs.hash])
    if not len(both):
        return []
    order = np.lexsort((both[:, 1], both[:, 0]))
    sorted_hashes = both[order]
    new = np.empty(len(both), bool)
    new[0] = True
    np.any(sorted_hashes[1:] != sorted_hashes[:-1], axis=1, out=new[1:])
    starts = np.flatnonzero(new)
    sign = np.where(order < len(inputs), 1, -1)
    balance = np.add.reduceat(sign, starts)
    ends = np.append(starts[1:], len(both))
    indexes: dict[tuple[str, str], ShardIndex] = {}
    result = []
    for records, wanted, here, there in (
        (inputs, balance > 0, "the inputs", "the output"),
        (outputs, balance < 0, "the output", "the inputs"),
    ):
        groups = np.flatnonzero(wanted)
        groups = groups[np.argsort(order[starts[groups]], kind="stable")]  # in the order of the shards
        offset = 0 if records is inputs else len(inputs)
        for group in groups[:_MOST_NAMES].tolist():
            copies = order[starts[group] : ends[group]] - offset
            mine = copies[(copies >= 0) & (copies < len(records))]
            shard, key = _name(records, int(mine[0]), indexes)
            what = f"is in {here} and not in {there}"
            if len(mine) < len(copies) or len(mine) > 1:
                what = f"is {len(mine)} times in {here} and {len(copies) - len(mine)} times in {there}"
            result.append(Difference(shard, f"record {key} {what}"))
        left = len(groups) - _MOST_NAMES
        if left > 0:
            result.append(
                Difference("*", f"{left} more records of {here} are not, or not as often, in {there}")
            )
    return result


def _name(records: RecordSet, position: int, indexes: dict[tuple[str, str], ShardIndex]) -> tuple[str, str]:
    """Shard and key (escaped) of one record; `indexes` keeps what was read for others."""
    shard, ordinal = records.shards[int(records.shard[position])], int(records.ordinal[position])
    if shard not in indexes:
        indexes[shard] = index_shard(*shard, want_keys=True, grouping=records.grouping)
    index = indexes[shard]
    end = int(index.key_length[: ordinal + 1].sum(dtype=np.int64))
    key = index.keys[end - int(index.key_length[ordinal]) : end].tobytes()
    return shard[1], key.decode("utf-8", "backslashreplace")


def _hash_shard(path: str, index: ShardIndex, buffer: memoryview) -> U64:
    """u8[n, 2]: the hash of each record's bytes."""
    digests: list[bytes] = [b""] * len(index.offset)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = np.flatnonzero(index.slices == 1)
        whole = whole[np.argsort(index.offset[whole], kind="stable")]
        low = index.offset[whole].astype(np.int64) * BLOCK
        high = low + index.length[whole].astype(np.int64) * BLOCK
        first = 0
        while first < len(whole):
            base = int(low[first])
            # Records that end within a buffer from here are read at once; `high` grows with `low`, as records
            # do not overlap.
            last = max(first + 1, int(np.searchsorted(high, base + len(buffer), side="right")))
            if int(high[first]) - base > len(buffer):
                digests[int(whole[first])] = _hash_slices(fd, [(base, int(high[first]) - base)], buffer, path)
            else:
                _read_all(fd, buffer[: int(high[last - 1]) - base], base, path)
                bounds = zip(
                    whole[first:last].tolist(),
                    (low[first:last] - base).tolist(),
                    (high[first:last] - base).tolist(),
                    strict=True,
                )
                for record, begin, end in bounds:
                    digests[record] = xxhash.xxh3_128_digest(buffer[begin:end])
            first = last
        for record in np.flatnonzero(index.slices > 1).tolist():
            row = int(index.offset[record])
            pairs = index.extra[row : row + int(index.slices[record])].astype(np.int64) * BLOCK
            digests[record] = _hash_slices(fd, [(int(o), int(n)) for o, n in pairs], buffer, path)
    finally:
        os.close(fd)
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _hash_slices(fd: int, slices: Sequence[tuple[int, int]], buffer: memoryview, path: str) -> bytes:
    """The hash of the concatenation of slices (offset, length in bytes), of any size."""
    hasher = xxhash.xxh3_128()
    for offset, length in slices:
        done = 0
        while done < length:
            part = buffer[: min(len(buffer), length - done)]
            _read_all(fd, part, offset + done, path)
            hasher.update(part)
            done += len(part)
    return hasher.digest()


def _read_all(fd: int, into: memoryview, offset: int, path: str) -> None:
    done = 0
    while done < len(into):
        try:
            count = os.preadv(fd, [into[done:]], offset + done)
        except OSError as error:
            raise DSortError(Reason.INPUT_UNREADABLE, f"{path}: {error.strerror}") from None
        if count == 0:
            raise DSortError(Reason.INPUT_CHANGED, f"{path}: it became shorter while it was read")
        done += count
