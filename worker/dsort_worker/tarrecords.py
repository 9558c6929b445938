"""From the members of a shard to its records: who belongs together, who is left out, and the slices of each record.

Members come in batches, in the order of the archive, in runs of neighbours with the same record key, each run with the hash
of its key. Most shards hold every record in one run, which the hashes prove (different hashes: different keys), and no name
twice in it. Whatever is not so (a key in several runs, a name that stands again, a hard link) is decided by the names
themselves, which are read again: no shard ever has all its names in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dsort_worker.rows import U8, U32, U64, Index, packed_keys
from dsort_worker.tarhash import hash_names
from dsort_worker.tarheaders import record_key, shown
from dsort_worker.tarmember import Kind, Member
from dsort_worker.threads import WorkCancelled

Bools = npt.NDArray[np.bool_]
_EVERY: Final = 1024
_NO_EXTRA: Final = np.empty((0, 2), dtype=np.uint32)


class Grouping(Enum):
    """What one row of an index is.

    RECORDS: a record. MEMBERS: a member that records have kept. WRITTEN: a member, as it stands: in an output the records of
    two shards may have the same key, and cannot be told apart.
    """

    RECORDS = auto()
    MEMBERS = auto()
    WRITTEN = auto()


class Batch(NamedTuple):
    """Members that may be carried, in the order of the archive.

    start, length: u4[n] blocks, extension headers included. same: bool[n], whether the key is, byte for byte, that of the
    member before (of the batch before, for the first). Of the r members that are not `same`: key_hash u8[r], and keys,
    key_lengths: their packed keys, both empty where nobody wants them.
    """

    start: U32
    length: U32
    same: Bools
    key_hash: U64
    keys: U8
    key_lengths: U32


class LeftOut(NamedTuple):
    """A member that is not carried: at which block it starts, its name, and why. kind: the field of spec.records."""

    kind: str
    start: int
    name: bytes
    detail: str


class Records(NamedTuple):
    """The records of a shard, in order of place: the columns of ShardIndex, and what was left out in making them."""

    offset: U32
    length: U32
    slices: U32
    members: U32
    key_hash: U64
    extra: U32
    keys: U8
    key_lengths: U32
    left_out: list[LeftOut]
    emptied: int
    """Records that lost all their members, those of `lost_keys` included."""


@dataclass(slots=True, eq=False, repr=False)
class MemberLog:
    """All members of a shard that may be carried; some ten bytes each."""

    batches: list[Batch] = field(default_factory=list)
    unsettled: list[int] = field(default_factory=list)
    """Members, by number, whose records are to be settled by their names: hard links, and names that stand again."""
    count: int = 0

    def add(self, batch: Batch, unsettled: Sequence[int] = ()) -> None:
        """Take the next members. unsettled: numbers in the batch."""
        self.unsettled.extend(self.count + number for number in unsettled)
        self.batches.append(batch)
        self.count += len(batch.start)

    def join(self) -> Batch:
        """All members as one batch; the log is empty afterwards."""
        batches, self.batches = self.batches, []
        if len(batches) == 1:
            return batches[0]
        return Batch(
            *(
                np.concatenate([np.empty(0, dtype), *(getattr(batch, name) for batch in batches)])
                for name, dtype in _COLUMNS.items()
            )
        )


_COLUMNS: Final = {
    "start": np.uint32,
    "length": np.uint32,
    "same": np.bool_,
    "key_hash": np.uint64,
    "keys": np.uint8,
    "key_lengths": np.uint32,
}


def assemble(
    log: MemberLog,
    *,
    lost_keys: set[bytes],
    read: Callable[[int], Member],
    cancelled: Callable[[], bool],
    grouping: Grouping = Grouping.RECORDS,
) -> Records:
    """Make the records of a shard, or what else `grouping` says.

    lost_keys: the keys of members that were left out already (their records may have no other). read(block): the member
    that starts there, read again. Raises WorkCancelled.
    """
    members = log.join()
    first = ~members.same
    heads = np.flatnonzero(first)
    suspects = _suspects(members.key_hash, log.unsettled, first)
    if grouping is Grouping.WRITTEN:
        suspects = suspects[:0]
    start, length = members.start, members.length
    runs = np.cumsum(first) - 1
    run: Index = np.arange(len(heads))  # of each record, the run where it begins
    left_out: list[LeftOut] = []
    lost = set(lost_keys)
    if len(suspects):
        # place[i]: the number of the first kept member of i's record, or -1 where i is left out.
        place = heads[runs]
        for step, group in enumerate(_groups(members.key_hash[runs], suspects)):
            if step % _EVERY == 0 and cancelled():
                raise WorkCancelled
            _decide(group, [read(block) for block in start[group].tolist()], place, left_out, lost)
        order = np.argsort(place, kind="stable")
        order = order[np.searchsorted(place[order], 0) :]
        start, length, place = start[order], length[order], place[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = place[1:] != place[:-1]
        heads = np.flatnonzero(first)
        run = runs[order[heads]]
        runs = runs[order]
    if grouping is not Grouping.RECORDS:
        first = np.ones(len(start), dtype=bool)
        heads, run = np.arange(len(start)), runs
    offset, sizes, slices, extra = _slices(start.astype(np.int64), length.astype(np.int64), first, heads)
    keys, key_lengths = members.keys, members.key_lengths
    if (len(suspects) or grouping is not Grouping.RECORDS) and len(key_lengths):
        starts = np.concatenate([[0], np.cumsum(key_lengths, dtype=np.int64)])
        keys, key_lengths = packed_keys(keys, starts, run), key_lengths[run]
    key_hash = members.key_hash[run]
    return Records(
        offset=offset,
        length=sizes,
        slices=slices,
        members=np.diff(heads, append=len(start)).astype(np.uint32),
        key_hash=key_hash,
        extra=extra,
        keys=keys,
        key_lengths=key_lengths,
        left_out=left_out,
        emptied=_emptied(lost, key_hash, start[heads], read),
    )


def _suspects(key_hash: U64, unsettled: list[int], first: Bools) -> U64:
    """The key hashes, ascending, of all records that their runs alone do not settle. key_hash: that of each run."""
    ascending = np.sort(key_hash)
    again: U64 = ascending[1:][ascending[1:] == ascending[:-1]]
    if not unsettled:
        return np.unique(again) if len(again) else again
    runs = np.cumsum(first)[unsettled] - 1
    return np.unique(np.concatenate([again, key_hash[runs]]))


def _groups(key_hash: U64, suspects: U64) -> Iterator[Index]:
    """The numbers of the members of each suspect hash, ascending within a group."""
    numbers = np.flatnonzero(np.isin(key_hash, suspects))
    numbers = numbers[np.argsort(key_hash[numbers], kind="stable")]
    hashes = key_hash[numbers]
    borders = np.flatnonzero(hashes[1:] != hashes[:-1]) + 1
    return iter(np.split(numbers, borders))


def _decide(
    group: Index, found: Sequence[Member], place: Index, left_out: list[LeftOut], lost: set[bytes]
) -> None:
    """Settle the members `group` (of one key hash), which were read again as `found`."""
    records: dict[bytes, list[int]] = {}
    for index, member in enumerate(found):
        records.setdefault(record_key(member.name), []).append(index)
    for key, record in records.items():
        members = [found[index] for index in record]
        kept, unsupported = settle(members)
        head = int(group[record[min(kept)]]) if kept else -1
        for index, member in enumerate(members):
            number = int(group[record[index]])
            if index in kept:
                place[number] = head
                continue
            place[number] = -1
            if index in unsupported:
                detail = f"a hard link whose target {shown(member.link)} is not kept before it in its record"
                left_out.append(LeftOut("unsupported", member.start, member.name, detail))
            else:
                detail = "the same path stands in the shard again"
                left_out.append(LeftOut("duplicates", member.start, member.name, detail))
        if not kept:
            lost.add(key)


def settle(members: Sequence[Member]) -> tuple[set[int], set[int]]:
    """Which members of one record are kept, and which hard links are unsupported (the others are duplicates): numbers.

    Of equal names the last one stays. A hard link needs a kept target before it, or it is left out as if it had not been
    there: then it takes no earlier copy's place either.
    """
    linked = [index for index, member in enumerate(members) if member.kind is Kind.LINK]
    alive = list(range(len(members)))
    unsupported: set[int] = set()
    if linked:
        # First the links that no choice of copies could satisfy, so that they displace nothing.
        alive = _satisfied(members, alive, unsupported)
    while True:
        last = {members[index].name: index for index in alive}
        kept = sorted(last.values())
        satisfied = _satisfied(members, kept, unsupported) if linked else kept
        if len(satisfied) == len(kept):
            return set(kept), unsupported
        alive = [index for index in alive if index not in unsupported]


def _satisfied(members: Sequence[Member], chosen: list[int], unsupported: set[int]) -> list[int]:
    """Those of `chosen` that are no hard links or have their target before them; the others join `unsupported`."""
    names: set[bytes] = set()
    result: list[int] = []
    for index in chosen:
        member = members[index]
        if member.kind is Kind.LINK and (member.link not in names or member.link == member.name):
            unsupported.add(index)
        else:
            names.add(member.name)
            result.append(index)
    return result


def _slices(start: Index, length: Index, first: Bools, heads: Index) -> tuple[U32, U32, U32, U32]:
    """Offset, length and slices of each record, and the extra pairs. Neighbours in the file make one slice."""
    if not len(heads):
        none = np.empty(0, dtype=np.uint32)
        return none, none, none, _NO_EXTRA
    gap = start[1:] != start[:-1] + length[:-1]
    sizes = np.add.reduceat(length, heads).astype(np.uint32)
    if not (gap & ~first[1:]).any():
        return start[heads].astype(np.uint32), sizes, np.ones(len(heads), dtype=np.uint32), _NO_EXTRA
    piece = first.copy()
    piece[1:] |= gap
    pieces = np.flatnonzero(piece)
    ends = start + length
    last = np.append(pieces[1:], len(start)) - 1
    pairs = np.stack([start[pieces], ends[last] - start[pieces]], axis=1).astype(np.uint32)
    record = np.cumsum(first)[pieces] - 1
    slices = np.bincount(record, minlength=len(heads))
    head_pieces = np.searchsorted(pieces, heads)
    offset = pairs[head_pieces, 0].copy()
    several = slices > 1
    extra = pairs[several[record]]
    ahead = np.cumsum(slices[several])
    offset[several] = ahead - slices[several]
    return offset, sizes, slices.astype(np.uint32), extra


def _emptied(lost: set[bytes], key_hash: U64, starts: U32, read: Callable[[int], Member]) -> int:
    """How many of the keys `lost` belong to none of the kept records."""
    if not lost:
        return 0
    keys = sorted(lost)
    order = np.argsort(key_hash, kind="stable")
    hashes = hash_names(keys)
    low = np.searchsorted(key_hash, hashes, side="left", sorter=order)
    high = np.searchsorted(key_hash, hashes, side="right", sorter=order)
    empty = 0
    for key, begin, end in zip(keys, low.tolist(), high.tolist(), strict=True):
        names = (read(int(starts[number])).name for number in order[begin:end])
        empty += not any(record_key(name) == key for name in names)
    return empty
