"""The scan: a rank indexes its share of the input shards and turns what it finds into rows.

After this step every record is a row: where its bytes lie, and the key that orders it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, assert_never

import numpy as np

from dsort_api.reasons import DSortError
from dsort_api.spec import DSortJobSpec, OrderKind, Reaction
from dsort_worker.findings import Finding, FindingsLog
from dsort_worker.order import key_words, md5_keys, shuffle_keys
from dsort_worker.rows import U8, Extent, RowBlock, RowBuilder, extra_in_row_order
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.state import Counters
from dsort_worker.tarscan import CorruptShard, ScanCounts, ShardIndex, scan_tar


class Indexer(Protocol):
    """Indexes one input shard: `ordinal` is its place in the listing."""

    def __call__(self, ordinal: int) -> ShardIndex:
        """The index. Raises DSortError CorruptShard, or what a reaction of Abort demands."""


@dataclass(slots=True, eq=False, repr=False)
class Scanned:
    """What a scan found: the last rows, in canonical order, the sums of all counts, and records by shard ordinal."""

    block: RowBlock
    counts: ScanCounts
    corrupt: int
    records: dict[int, int] = field(default_factory=dict)


def needs_keys(spec: DSortJobSpec) -> bool:
    """Whether the order compares key bytes."""
    return spec.order.kind in {OrderKind.KEY, OrderKind.MD5}


def tar_indexer(
    files: ShardFiles, spec: DSortJobSpec, *, findings: FindingsLog, cancelled: Callable[[], bool]
) -> Indexer:
    """Index tars by their headers, in place."""

    def index(ordinal: int) -> ShardIndex:
        with files.opened([ordinal]) as fds:
            return scan_tar(
                fds[ordinal],
                name=files.name(ordinal),
                size=files.size(ordinal),
                records=spec.records,
                want_keys=needs_keys(spec),
                report=findings.report,
                cancelled=cancelled,
            )

    return index


def scan_share(
    share: range,
    spec: DSortJobSpec,
    *,
    files: ShardFiles,
    index: Indexer,
    findings: FindingsLog,
    counters: Counters,
    room: int,
    spill: Callable[[RowBlock], None],
) -> Scanned:
    """Scan the shards of `share` (ordinals, ascending). Runs in a thread.

    room: bytes of memory for rows. When they are full, the rows so far go to `spill`, and those that follow begin anew. The
    index of one shard is the unit that has to fit beside them, whatever the room: while it is made it takes about 90 bytes a
    record and three times the key's, twice as much where members of one record are not adjacent. For ten thousand records
    that is a MiB or two; shards of hundreds of thousands of tiny records want a larger budget than the least.

    A corrupt shard is left out whole, or fails the job, as `records.corruptShards` says.
    """
    rows = RowBuilder()
    scanned = Scanned(RowBlock.empty(), ScanCounts(), 0)
    counters.shards_total = len(share)
    counters.bytes_total = sum(files.size(ordinal) for ordinal in share)
    for ordinal in share:
        try:
            found = index(ordinal)
        except CorruptShard as error:
            if spec.records.corrupt_shards is Reaction.ABORT:
                advice = "records.corruptShards: Warn leaves the shard out"
                raise DSortError(error.reason, f"{error.message}; {advice}") from None
            scanned.corrupt += 1
            if spec.records.corrupt_shards is Reaction.WARN:
                why = error.message.removeprefix(f"shard {files.name(ordinal)}: ")
                findings.report(
                    Finding("corruptShards", files.name(ordinal), "", error.offset, f"left out: {why}")
                )
        else:
            for part in _parts(found, room=room):
                if len(rows) and (rows.extent + part.extent).cost > room:
                    spill(rows.finish())
                _add(rows, part, ordinal, spec)
            scanned.counts += found.counts
            scanned.records[ordinal] = len(found.offset)
            counters.records_done += len(found.offset)
        counters.shards_done += 1
        counters.bytes_done += files.size(ordinal)
    scanned.block = rows.finish()
    return scanned


class _Part(NamedTuple):
    """Records [low, high) of a shard's index, with the packed keys of those alone. extent: how much they are."""

    found: ShardIndex
    low: int
    high: int
    keys: U8
    extent: Extent


def _parts(found: ShardIndex, *, room: int) -> Iterator[_Part]:
    """A shard's index in parts, each much smaller than the room, so that rows come to about what it holds."""
    count = len(found.offset)
    whole = Extent(count, len(found.extra), len(found.keys))
    if whole.cost <= room // 8:
        if count:
            yield _Part(found, 0, count, found.keys, whole)
        return
    step = max(1, count * (room // 8) // whole.cost)
    for low in range(0, count, step):
        high = min(low + step, count)
        slices = found.slices[low:high]
        before, size = (
            int(found.key_length[part].sum(dtype=np.int64)) for part in (slice(low), slice(low, high))
        )
        keys = found.keys[before : before + size]
        yield _Part(found, low, high, keys, Extent(high - low, int(slices[slices > 1].sum()), len(keys)))


def _add(rows: RowBuilder, part: _Part, ordinal: int, spec: DSortJobSpec) -> None:
    found, own = part.found, slice(part.low, part.high)
    count = part.high - part.low
    view = rows.room(count)
    view["hash"] = found.key_hash[own]
    view["shard"] = ordinal
    view["ordinal"] = np.arange(part.low, part.high, dtype=np.uint32)
    for column in ("offset", "length", "members", "slices"):
        view[column] = getattr(found, column)[own]
    rows.add_extra(view, extra_in_row_order(view, found.extra))
    keys, lengths = part.keys, found.key_length[own]
    match spec.order.kind:
        case OrderKind.NONE:
            view["key"] = 0
            return
        case OrderKind.SHUFFLE:
            view["key"] = shuffle_keys(count, seed=spec.order.seed or 0, shard=ordinal, first=part.low)
            return
        case OrderKind.KEY:
            pass
        case OrderKind.MD5:
            keys, lengths = md5_keys(keys, lengths)
        case unknown:
            assert_never(unknown)
    sizes = lengths.astype(np.int64)
    view["key"] = key_words(keys, np.cumsum(sizes) - sizes, sizes, level=0)
    rows.add_keys(keys, lengths)
