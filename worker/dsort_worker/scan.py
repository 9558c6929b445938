"""The scan: a rank indexes its share of the input shards and turns what it finds into rows.

After this step every record is a row: where its bytes lie, and the key that orders it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import numpy as np

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, OrderKind, Reaction
from dsort_worker.findings import Finding, FindingsLog
from dsort_worker.order import key_words, md5_keys, shuffle_keys
from dsort_worker.rows import RowBlock, RowBuilder
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.state import Counters
from dsort_worker.tarscan import ScanCounts, ShardIndex, scan_tar


class Indexer(Protocol):
    """Indexes one input shard: `ordinal` is its place in the listing."""

    def __call__(self, ordinal: int) -> ShardIndex:
        """The index. Raises DSortError CorruptShard, or what a reaction of Abort demands."""


@dataclass(slots=True)
class Scanned:
    """What a scan found: the rows in canonical order, the sums of all counts, and records by shard ordinal."""

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
) -> Scanned:
    """Scan the shards of `share` (ordinals, ascending). Runs in a thread.

    A corrupt shard is left out whole, or fails the job, as `records.corruptShards` says.
    """
    rows = RowBuilder()
    scanned = Scanned(RowBlock.empty(), ScanCounts(), 0)
    counters.shards_total = len(share)
    counters.bytes_total = sum(files.size(ordinal) for ordinal in share)
    for ordinal in share:
        try:
            found = index(ordinal)
        except DSortError as error:
            if error.reason is not Reason.CORRUPT_SHARD or spec.records.corrupt_shards is Reaction.ABORT:
                raise
            scanned.corrupt += 1
            if spec.records.corrupt_shards is Reaction.WARN:
                findings.report(
                    Finding("corruptShards", files.name(ordinal), "", 0, f"left out: {error.message}")
                )
        else:
            _add(rows, found, ordinal, spec)
            scanned.counts += found.counts
            scanned.records[ordinal] = len(found.offset)
            counters.records_done += len(found.offset)
        counters.shards_done += 1
        counters.bytes_done += files.size(ordinal)
    scanned.block = rows.finish()
    return scanned


def _add(rows: RowBuilder, found: ShardIndex, ordinal: int, spec: DSortJobSpec) -> None:
    count = len(found.offset)
    if not count:
        return
    view = rows.room(count)
    view["hash"] = found.key_hash
    view["shard"] = ordinal
    view["ordinal"] = np.arange(count, dtype=np.uint32)
    for column in ("offset", "length", "members", "slices"):
        view[column] = getattr(found, column)
    rows.add_extra(view, found.extra)
    keys, lengths = found.keys, found.key_length
    match spec.order.kind:
        case OrderKind.NONE:
            view["key"] = 0
            return
        case OrderKind.SHUFFLE:
            view["key"] = shuffle_keys(count, seed=spec.order.seed or 0, shard=ordinal)
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
