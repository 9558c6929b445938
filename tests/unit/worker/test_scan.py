"""The scan of a share: every record becomes a row, and a corrupt shard is left out whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, OrderKind
from dsort_worker.findings import FindingsLog
from dsort_worker.listing import pin
from dsort_worker.order import shuffle_keys
from dsort_worker.rows import BLOCK, ROW_COST, RowBlock
from dsort_worker.scan import Scanned, needs_keys, scan_share, tar_indexer
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.state import Counters, RankState
from tests.support.datasets import Item, member, write_tar
from tests.support.rowblocks import records_of

# Two records of two members each, the second one's interleaved with the first one's; then a record alone.
ITEMS = [
    Item("a/one.txt", b"1"),
    Item("a/two.txt", b"2" * 600),
    Item("a/one.json", b"{}"),
    Item("a/two.json", b"[]"),
    Item("three.txt", b""),
]


def members_of(*names: str) -> bytes:
    return b"".join(member(item, dialect="ustar") for name in names for item in ITEMS if item.name == name)


RECORDS = {
    b"a/one": members_of("a/one.txt", "a/one.json"),
    b"a/two": members_of("a/two.txt", "a/two.json"),
    b"three": members_of("three.txt"),
}


class House:
    """Shards in a folder and what a scan of them says."""

    def __init__(self, root: Path, output: Path) -> None:
        self.state = RankState(rank=0, epoch="e")
        self.findings = FindingsLog(self.state, staging=None)
        self.files = ShardFiles([pin(str(root), name) for name in sorted(os.listdir(root))], root=str(root))
        self.counters = Counters()
        self.output = output
        self.room = 1 << 20
        self.spilled: list[RowBlock] = []

    def scan(self, share: range, **parts: Any) -> Scanned:
        spec = DSortJobSpec.model_validate(
            {
                "input": {"url": "file:///in"},
                "output": {"url": "file:///out", "name": "o-%06d", "shard_count": 1},
                **parts,
            }
        )
        indexer = tar_indexer(self.files, spec, findings=self.findings, cancelled=lambda: False)
        return scan_share(
            share,
            spec,
            files=self.files,
            index=indexer,
            findings=self.findings,
            counters=self.counters,
            room=self.room,
            spill=self.spilled.append,
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a.tar", "c.tar"):
        write_tar(root / name, ITEMS)
    write_tar(root / "b.tar", [])
    (root / "d.tar").write_bytes((root / "a.tar").read_bytes()[: -3 * BLOCK])
    return House(root, tmp_path)


def record_bytes(house: House, scanned: Scanned) -> list[bytes]:
    result = []
    for record in records_of(scanned.block):
        with house.files.opened([record.shard]) as fds:
            result.append(
                b"".join(
                    os.pread(fds[record.shard], length * BLOCK, offset * BLOCK)
                    for offset, length in record.slices
                )
            )
    return result


@pytest.mark.parametrize("kind", list(OrderKind))
def test_every_record_is_a_row_with_its_bytes_and_its_key(house: House, kind: OrderKind) -> None:
    scanned = house.scan(range(3), order={"kind": kind, **({"seed": 5} if kind is OrderKind.SHUFFLE else {})})
    rows = scanned.block.rows
    assert rows["shard"].tolist() == [0] * 3 + [2] * 3
    assert rows["ordinal"].tolist() == [0, 1, 2] * 2
    assert rows["members"].tolist() == [2, 2, 1] * 2
    assert record_bytes(house, scanned) == [*RECORDS.values()] * 2
    assert rows["hash"][:3].tolist() == rows["hash"][3:].tolist()
    assert len(set(rows["hash"].tolist())) == 3
    keys = [record.key for record in records_of(scanned.block)]
    match kind:
        case OrderKind.KEY:
            assert keys == [*RECORDS] * 2
        case OrderKind.MD5:
            assert keys == [hashlib.md5(key).digest() for key in RECORDS] * 2
        case OrderKind.SHUFFLE:
            expected = [shuffle_keys(3, seed=5, shard=shard) for shard in (0, 2)]
            assert rows["key"].tolist() == np.concatenate(expected).tolist()
        case OrderKind.NONE:
            assert rows["key"].tolist() == [0] * 6
    assert scanned.block.has_keys == needs_keys(
        DSortJobSpec.model_validate(
            {
                "input": {"url": "file:///i"},
                "output": {"url": "file:///o", "name": "x"},
                "order": {"kind": kind},
            }
        )
    )


@pytest.mark.parametrize("room", [0, 1, ROW_COST, 2 * ROW_COST, 5 * ROW_COST, 40 * ROW_COST])
@pytest.mark.parametrize("kind", list(OrderKind))
def test_what_the_room_does_not_hold_is_spilled_in_order(house: House, kind: OrderKind, room: int) -> None:
    whole = house.scan(range(3), order={"kind": kind})
    house.room = room
    last = house.scan(range(3), order={"kind": kind})
    blocks = [*house.spilled, last.block]
    assert [record for block in blocks for record in records_of(block)] == records_of(whole.block)
    rows = np.concatenate([block.rows for block in blocks])
    for column in ("key", "ordinal", "hash"):
        assert rows[column].tolist() == whole.block.rows[column].tolist()
    assert (len(blocks) > 1) == (room < whole.block.extent.cost)
    assert all(len(block) == 1 or block.extent.cost <= room for block in blocks)
    assert last.records == whole.records


def test_counts_are_those_of_the_share(house: House) -> None:
    scanned = house.scan(range(2))
    assert scanned.records == {0: 3, 1: 0}
    assert (scanned.counts.records, scanned.counts.members, scanned.corrupt) == (3, 5, 0)
    counters = house.counters
    assert (counters.shards_done, counters.shards_total, counters.records_done) == (2, 2, 3)
    assert counters.bytes_done == counters.bytes_total == house.files.size(0) + house.files.size(1)


def test_an_empty_share_has_no_rows(house: House) -> None:
    scanned = house.scan(range(1, 1), order={"kind": "Key"})
    assert (len(scanned.block), scanned.records) == (0, {})


def test_a_corrupt_shard_fails_the_job_by_default(house: House) -> None:
    with pytest.raises(
        DSortError, match=r"d\.tar.*; records\.corruptShards: Warn leaves the shard out$"
    ) as caught:
        house.scan(range(4))
    assert caught.value.reason is Reason.CORRUPT_SHARD


@pytest.mark.parametrize(("reaction", "named"), [("Warn", 1), ("Ignore", 0)])
def test_a_corrupt_shard_is_left_out_whole(house: House, reaction: str, named: int) -> None:
    scanned = house.scan(range(4), records={"corruptShards": reaction})
    assert scanned.corrupt == 1
    assert scanned.records == {0: 3, 1: 0, 2: 3}
    assert set(scanned.block.rows["shard"].tolist()) == {0, 2}
    assert scanned.counts.records == 6
    assert house.counters.shards_done == 4
    assert house.findings.count == named
    for notice in house.state.observed().warnings:
        assert notice.kind == "corruptShards"
        assert "shard d.tar: left out: " in notice.message


def test_another_failure_is_no_corrupt_shard(house: House) -> None:
    house.files.close()
    with pytest.raises(DSortError, match="changed") as caught:
        os.utime(Path(house.output) / "in" / "a.tar", ns=(1, 1))
        house.scan(range(4), records={"corruptShards": "Ignore"})
    assert caught.value.reason is Reason.INPUT_CHANGED
