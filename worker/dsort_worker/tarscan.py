"""The index of one tar: its records as slices of the file, in place, by headers alone.

A record is all members of the shard whose key is equal, in the order of the archive, with their extension headers, byte for
byte. What is left out follows spec.records: Abort raises, Warn reports, Ignore only counts. A damaged or truncated archive
raises CorruptShard whatever the reactions say; nothing is reported of such a shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from dsort_api.quantity import format_bytes
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Reaction, RecordReactions
from dsort_worker.findings import Finding
from dsort_worker.rows import U8, U32, U64
from dsort_worker.shardreader import ShardReader
from dsort_worker.tarheaders import BLOCK, shown
from dsort_worker.tarmember import CorruptTar, Source
from dsort_worker.tarmembers import Scan
from dsort_worker.tarrecords import Grouping, LeftOut, Records, assemble
from dsort_worker.threads import WorkCancelled

__all__ = ["BLOCK", "CorruptShard", "Finding", "Grouping", "ScanCounts", "ShardIndex", "scan_tar"]

SHARD_LIMIT: Final = BLOCK << 32
"""Bytes: offsets are u4 numbers of blocks."""
_TAIL: Final = 1 << 20
_WARN: Final = {
    "unsupported": "Warn leaves it out",
    "duplicates": "Warn keeps the last copy",
    "trailingData": "Warn passes over it",
}


class CorruptShard(DSortError):
    """The archive is damaged or truncated, at `offset` (bytes)."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(Reason.CORRUPT_SHARD, message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """What a scan met, whatever the reactions did about it. Directories and global headers are no members."""

    members: int = 0
    directories: int = 0
    global_headers: int = 0
    duplicates: int = 0
    unsupported: int = 0
    """Members left out as unsupported, and global headers that set more than a comment."""
    trailing_data: int = 0
    records: int = 0
    records_left_out: int = 0
    members_left_out: int = 0

    def __add__(self, other: ScanCounts) -> ScanCounts:
        return ScanCounts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class ShardIndex(NamedTuple):
    """The records of a shard in order of place, as columns; offsets and lengths in blocks.

    slices == 1: (offset, length) is the record. slices == k > 1: offset is the row in `extra` of its k (offset, length)
    pairs, and length is their sum. keys: packed record keys (bytes), key_length[n] their lengths; both empty unless wanted.
    """

    offset: U32
    length: U32
    slices: U32
    members: U32
    key_hash: U64
    extra: U32
    keys: U8
    key_length: U32
    counts: ScanCounts


def scan_tar(
    fd: int,
    *,
    name: str,
    size: int,
    records: RecordReactions,
    want_keys: bool,
    report: Callable[[Finding], None],
    cancelled: Callable[[], bool],
    grouping: Grouping = Grouping.RECORDS,
) -> ShardIndex:
    """Index the tar that is open as `fd`: its records, or what else `grouping` says.

    name and size: as listed. report takes each finding of a reaction Warn, in the order of the archive, after the whole
    archive proved sound. cancelled is asked at every batch.

    Raises DSortError: CorruptShard, InputChanged, InputUnreadable, or the reason of a reaction Abort, naming the first
    culprit. Raises WorkCancelled.
    """
    if size > SHARD_LIMIT:
        raise DSortError(
            Reason.INPUT_UNREADABLE,
            f"shard {name}: it has {size} bytes; shards of more than 2 TiB are not supported, split it",
        )
    file = ShardReader(fd, name=name, size=size)
    try:
        scan = Scan(file, want_keys=want_keys, cancelled=cancelled)
        scan.walk()
        found = assemble(
            scan.log, lost_keys=scan.lost_keys, read=scan.again, cancelled=cancelled, grouping=grouping
        )
        trailing = _trailing_data(scan.source, scan.position * BLOCK, cancelled)
    except CorruptTar as error:
        member = f"member {shown(error.member)}: " if error.member else ""
        raise CorruptShard(
            f"shard {name}: at offset {error.offset}: {member}{error.detail}", error.offset
        ) from None
    left_out = scan.left_out + found.left_out
    if trailing is not None:
        rest = format_bytes(size - trailing)
        detail = f"data follows the end of the archive (offset {trailing}, {rest} to the end of the file); it is not read"
        left_out.append(LeftOut("trailingData", trailing // BLOCK, b"", detail))
    left_out.sort(key=lambda left: left.start)
    _react(left_out, shard=name, records=records, report=report)
    return _index(scan, found, trailing_data=trailing is not None)


def _trailing_data(source: Source, begin: int, cancelled: Callable[[], bool]) -> int | None:
    """The offset of the first byte other than zero from `begin` on, or None."""
    while begin < source.size:
        if cancelled():
            raise WorkCancelled
        part = source.read(begin, min(_TAIL, source.size - begin))
        rest = part.lstrip(b"\x00")
        if rest:
            return begin + len(part) - len(rest)
        begin += len(part)
    return None


def _react(
    left_out: list[LeftOut], *, shard: str, records: RecordReactions, report: Callable[[Finding], None]
) -> None:
    """Report or refuse what was left out."""
    reactions = {
        "duplicates": (records.duplicates, Reason.DUPLICATE_RECORDS),
        "unsupported": (records.unsupported, Reason.UNSUPPORTED_MEMBER),
        "trailingData": (records.trailing_data, Reason.TRAILING_DATA),
    }
    for left in left_out:
        reaction, reason = reactions[left.kind]
        if reaction is Reaction.ABORT:
            member = f"member {shown(left.name)}: " if left.name or left.kind != "trailingData" else ""
            raise DSortError(
                reason,
                f"shard {shard}: at offset {left.start * BLOCK}: {member}{left.detail}; "
                f"records.{left.kind}: {_WARN[left.kind]}",
            )
    for left in left_out:
        if reactions[left.kind][0] is Reaction.WARN:
            report(Finding(left.kind, shard, shown(left.name), left.start * BLOCK, left.detail))


def _index(scan: Scan, found: Records, *, trailing_data: bool) -> ShardIndex:
    kept = int(found.members.sum())
    unsupported = len(scan.left_out) + sum(left.kind == "unsupported" for left in found.left_out)
    counts = ScanCounts(
        members=scan.members,
        directories=scan.directories,
        global_headers=scan.global_headers,
        duplicates=sum(left.kind == "duplicates" for left in found.left_out),
        unsupported=unsupported,
        trailing_data=int(trailing_data),
        records=len(found.offset) + found.emptied,
        records_left_out=found.emptied,
        members_left_out=scan.members - kept,
    )
    return ShardIndex(
        offset=found.offset,
        length=found.length,
        slices=found.slices,
        members=found.members,
        key_hash=found.key_hash,
        extra=found.extra,
        keys=found.keys,
        key_length=found.key_lengths,
        counts=counts,
    )
