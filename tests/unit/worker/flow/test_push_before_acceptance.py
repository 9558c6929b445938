"""Senders push records to whoever builds a shard of them; a connector keeps what comes before its writer is ready.

The schedule is the same for both: the shards, the senders, the memory, and that what was wanted last comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np
import pytest

from dsort_worker.assemble import Assembler
from dsort_worker.budget import Buffers
from dsort_worker.packing import END_OF_ARCHIVE
from dsort_worker.peers import Peers
from dsort_worker.rows import BLOCK
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.shardwriter import OutputShard, ShardWriter
from dsort_worker.staging import Staging
from dsort_worker.stream import Stream
from dsort_worker.window import Placer
from dsort_worker.wire import decode_slices
from tests.support.flows import flows_of
from tests.support.rowblocks import Record, block_of
from tests.support.waiting import DEADLINE, idle, until

pytestmark = pytest.mark.asyncio

SENDERS: Final = 2
RECORDS: Final = 8
"""Records of a shard, one block each, from the one sender and the other in turn."""

SOURCES: Final = [np.random.default_rng(number).bytes(64 * BLOCK) for number in range(SENDERS)]

Arrival = tuple[int, int]
"""A record: the shard that it belongs to, and its place there."""


@dataclass(slots=True)
class Connector:
    """The naive receiver: memory for `room` records; a shard is written when all of it is there."""

    room: int
    held: dict[int, set[int]] = field(default_factory=dict)
    written: list[int] = field(default_factory=list)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    async def push(self, shard: int, place: int) -> None:
        while sum(map(len, self.held.values())) >= self.room:
            self.freed.clear()
            await self.freed.wait()
        records = self.held.setdefault(shard, set())
        records.add(place)
        if len(records) == RECORDS:
            del self.held[shard]
            self.written.append(shard)
            self.freed.set()


async def pushed(schedule: Sequence[Arrival], *, room: int) -> tuple[Connector, int]:
    """The connector when nothing moves any more, and how many records their senders are still about to push."""
    connector = Connector(room)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(connector.push(*arrival)) for arrival in schedule]
        await idle(10 * len(schedule))
        stuck = [task for task in tasks if not task.done()]
        for task in stuck:
            task.cancel()
    return connector, len(stuck)


def in_turn(shards: int) -> list[Arrival]:
    """A record of each shard, the last shard first, then the next record of each."""
    return [(shard, place) for place in range(RECORDS) for shard in reversed(range(shards))]


async def test_naively_a_shard_that_is_larger_than_memory_is_waited_for_for_ever() -> None:
    connector, stuck = await pushed(in_turn(1), room=RECORDS - 2)
    assert (connector.written, stuck) == ([], 2)


async def test_naively_records_of_shards_that_come_first_leave_no_memory_for_any() -> None:
    connector, stuck = await pushed(in_turn(4), room=2 * RECORDS)
    assert connector.written == []
    assert stuck == 2 * RECORDS


async def test_naively_all_is_well_while_memory_is_there() -> None:
    connector, stuck = await pushed(in_turn(4), room=4 * RECORDS)
    assert (sorted(connector.written), stuck) == ([0, 1, 2, 3], 0)


# ------------------------------------------------------------------------------------------- the same with the product's


@dataclass(slots=True)
class LastFirst:
    """The senders, for the product: of all that they are asked for they bring what was asked last."""

    asked: list[asyncio.Event] = field(default_factory=list)
    most_asked: int = 0
    quiet: bool = False

    async def stream(
        self, owner: int, path: str, *, body: bytes, sink: Callable[[], Placer], size: int
    ) -> Placer:
        turn = asyncio.Event()
        self.asked.append(turn)
        self.most_asked = max(self.most_asked, len(self.asked))
        await turn.wait()
        slices = decode_slices(body)
        into = sink()
        for shard, offset, length in zip(
            slices.shard.tolist(), slices.offset.tolist(), slices.length.tolist(), strict=True
        ):
            into.feed(memoryview(SOURCES[shard])[offset : offset + length])
        return into

    async def bring(self) -> None:
        """Until it is cancelled."""
        while True:
            await idle()
            if self.asked and not self.quiet:
                self.asked.pop().set()


def stream_of(shards: int) -> tuple[Stream, list[bytes]]:
    """The shards of the schedule, and what each has to be."""
    records = [
        [Record(place % SENDERS, ((shard * RECORDS + place, 1),)) for place in range(RECORDS)]
        for shard in range(shards)
    ]
    expected = [
        b"".join(
            SOURCES[one.shard][low * BLOCK : (low + 1) * BLOCK] for one in shard for low, _ in one.slices
        )
        + bytes(END_OF_ARCHIVE)
        for shard in records
    ]
    block = block_of([one for shard in records for one in shard])
    planned = [
        OutputShard(number, f"out-{number}.tar", len(content), RECORDS, RECORDS)
        for number, content in enumerate(expected)
    ]
    return Stream(block.rows, block.extra, planned), expected


@dataclass(slots=True)
class Builder:
    """A rank that builds. Everything that it builds from is another's."""

    assembler: Assembler
    buffers: Buffers
    senders: LastFirst
    staging: Staging

    def built(self) -> list[bytes]:
        commits = sorted(self.staging.commits(), key=lambda commit: commit.number)
        return [Path(self.staging.staged_path(commit.staged)).read_bytes() for commit in commits]


@asynccontextmanager
async def building(folder: Path, *, windows: int, window: int) -> AsyncIterator[Builder]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(DEADLINE))
        fill, flush, close = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(3))
        buffers = Buffers(count=windows, size=window)
        stack.callback(buffers.close)
        files = ShardFiles([], root=str(folder))
        stack.callback(files.close)
        staging = Staging(str(folder), job="job", epoch="e")
        staging.create()
        senders = LastFirst()
        assembler = Assembler(
            files=files,
            peers=cast("Peers", senders),
            rank=SENDERS,
            owner_of=np.arange(SENDERS),
            flows=flows_of(4, buffers=buffers, sources=SENDERS),
            fillers=fill,
            flusher=flush,
            writer=ShardWriter(staging, closers=close, behind=2, on_commit=lambda _: None),
            on_written=lambda *_: None,
            cancelled=lambda: False,
        )
        yield Builder(assembler, buffers, senders, staging)


@pytest.mark.parametrize(
    ("shards", "windows", "room"),
    [(1, 1, RECORDS - 2), (4, 1, 2 * RECORDS), (4, 2, 1), (4, 3, 2), (4, 1, 1)],
    ids=[
        "less than a shard",
        "less than all shards",
        "two windows of a record",
        "three of two",
        "one record",
    ],
)
async def test_any_memory_is_enough_for_any_shard(
    tmp_path: Path, shards: int, windows: int, room: int
) -> None:
    stream, expected = stream_of(shards)
    async with building(tmp_path, windows=windows, window=room * BLOCK) as builder:
        async with asyncio.TaskGroup() as group:
            bringing = group.create_task(builder.senders.bring())
            await builder.assembler.build(stream)
            bringing.cancel()
        assert builder.built() == expected
        assert builder.buffers.lent == 0
        assert builder.senders.most_asked <= windows * SENDERS, "nobody sends what there is no buffer for"


async def test_an_abort_ends_a_build_whose_senders_are_dead_and_gives_its_memory_back(tmp_path: Path) -> None:
    stream, _ = stream_of(2)
    async with building(tmp_path, windows=2, window=2 * BLOCK) as builder:
        builder.senders.quiet = True
        async with asyncio.TaskGroup() as group:
            bringing = group.create_task(builder.senders.bring())
            build = group.create_task(builder.assembler.build(stream))
            await until(lambda: builder.buffers.lent == 2)
            await idle(100)
            assert not build.done()
            build.cancel()
            bringing.cancel()
        assert build.cancelled()
        assert builder.buffers.lent == 0
        assert builder.built() == []
