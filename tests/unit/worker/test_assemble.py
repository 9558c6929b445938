"""Assembly: windows of any size, put together, are exactly the shards; and ranks that build from each other always get on."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.messages import Peer, PeerTable
from dsort_api.reasons import DSortError, Reason
from dsort_worker import assemble, receive
from dsort_worker import stream as stream_module
from dsort_worker.admission import Admission
from dsort_worker.assemble import Assembler
from dsort_worker.budget import Buffers
from dsort_worker.listing import pin
from dsort_worker.packing import END_OF_ARCHIVE
from dsort_worker.peers import Patience, Peers
from dsort_worker.receive import ReceiveWindow
from dsort_worker.rows import BLOCK, ROW
from dsort_worker.serve import DataServer, Offers
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.shardwriter import OutputShard, ShardWriter
from dsort_worker.staging import Staging
from dsort_worker.state import Flowing
from dsort_worker.stream import Stream, Window
from dsort_worker.throttle import Throttle
from tests.support.flows import flows_of
from tests.support.rowblocks import Record, block_of
from tests.support.waiting import DEADLINE, idle, until

BLOCKS = 64
"""Blocks in an input shard."""

SOURCES = [np.random.default_rng(number).bytes(BLOCKS * BLOCK) for number in range(4)]


def bytes_of(record: Record) -> bytes:
    return b"".join(
        SOURCES[record.shard][offset * BLOCK : (offset + length) * BLOCK] for offset, length in record.slices
    )


def stream_of(
    shards: Sequence[Sequence[Record]], *, done: Collection[int] = ()
) -> tuple[Stream, list[OutputShard], list[bytes]]:
    """The stream of the shards that are not done, and what each of them has to be."""
    block = block_of([record for records in shards for record in records])
    expected = [b"".join(map(bytes_of, records)) + bytes(END_OF_ARCHIVE) for records in shards]
    planned = [
        OutputShard(
            number, f"out-{number}.tar", len(content), len(records), sum(one.members for one in records)
        )
        for number, (records, content) in enumerate(zip(shards, expected, strict=True))
    ]
    firsts = np.cumsum([0, *map(len, shards)])[:-1]
    left = [number for number in range(len(shards)) if number not in done]
    planned, expected = [planned[number] for number in left], [expected[number] for number in left]
    if not done:
        return Stream(block.rows, block.extra, planned), planned, expected
    return Stream(block.rows, block.extra, planned, firsts=firsts[left]), planned, expected


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A record of one slice or several, anywhere in the sources; often right behind another one."""
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, BLOCKS - 9), st.integers(1, 9)),
            min_size=1,
            max_size=draw(st.sampled_from([1, 1, 4])),
        )
    )
    return Record(draw(st.integers(0, 3)), tuple(pairs))


SHARDS = st.lists(st.lists(records(), min_size=1, max_size=8), max_size=8)


@pytest.mark.parametrize("mark", [1, 2, 5, 1024])
@given(SHARDS, st.integers(1, 40), st.none() | st.integers(1, 40), st.sets(st.integers(0, 7)))
def test_windows_of_any_size_and_their_parts_put_together_are_the_shards(
    mark: int, shards: list[list[Record]], blocks: int, cut: int | None, done: set[int]
) -> None:
    """done: shards that are there already, whose rows stand between the others."""
    with (
        mock.patch.object(stream_module, "_MARK", mark),
        mock.patch.object(stream_module, "_CHUNK", 3 * mark),
    ):
        stream, planned, expected = stream_of(shards, done=done)
        assert_windows_are_the_shards(stream, planned, expected, blocks=blocks, cut=cut)


def parts_of(window: Window, size: int) -> Iterator[Window]:
    """Each part as a window of its own, which has as many records."""
    slices, places, parts = window.cut(size)
    low = 0
    for part in parts:
        own = slice(part.first, part.last)
        ended = window.ends[(window.ends > low) & (window.ends <= low + part.size)]
        assert part.records == len(ended)
        yield Window(slices[own], places[own], tuple(part.segments), tuple(part.zeros), ended - low)
        low += part.size
    assert low == window.size


def assert_windows_are_the_shards(
    stream: Stream, planned: list[OutputShard], expected: list[bytes], *, blocks: int, cut: int | None
) -> None:
    assert stream.size == sum(map(len, expected))
    size = blocks * BLOCK
    windows = list(stream.windows(lambda: size))
    if cut is not None:
        windows = [part for window in windows for part in parts_of(window, cut * BLOCK)]
        size = min(size, cut * BLOCK)
    built: dict[str, bytearray] = {shard.name: bytearray() for shard in planned}
    finished = total = 0
    for window in windows:
        length = window.segments[-1].high
        assert length == window.size <= size
        out = bytearray(b"?") * length
        touched = bytearray(length)
        columns = (window.slices.shard, window.slices.offset, window.slices.length, window.places)
        for shard, offset, part, place in zip(*(column.tolist() for column in columns), strict=True):
            assert part > 0
            assert 0 <= place <= place + part <= length
            out[place : place + part] = SOURCES[shard][offset : offset + part]
            touched[place : place + part] = b"\1" * part
        for low, high in window.zeros:
            out[low:high] = bytes(high - low)
            touched[low:high] = b"\1" * (high - low)
        assert touched == b"\1" * length  # every byte has its place before it is asked for
        assert window.segments[0].low == 0
        for before, after in itertools.pairwise(window.segments):
            assert before.high == after.low
        for segment in window.segments:
            built[segment.shard.name] += out[segment.low : segment.high]
        finished += window.records
        total += length
    assert [bytes(content) for content in built.values()] == expected
    assert finished == stream.records == sum(shard.records for shard in planned)
    assert total == stream.size


def test_neighbours_in_the_source_are_asked_for_at_once() -> None:
    shards = [[Record(0, ((number, 1),)) for number in range(10)] + [Record(1, ((10, 1),))]]
    stream, _, _ = stream_of(shards)
    (window,) = stream.windows(lambda: 1 << 20)
    assert window.slices.length.tolist() == [10 * BLOCK, BLOCK]


def test_nothing_to_build_has_no_windows() -> None:
    stream, _, _ = stream_of([])
    assert (stream.size, list(stream.windows(lambda: 512))) == (0, [])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, content in enumerate(SOURCES):
        (folder / f"{number}.tar").write_bytes(content)
    return folder


class Slow(ShardFiles):
    """Shards whose reads wait until they are let go."""

    reading: threading.Semaphore
    go_on: threading.Event

    def opened(self, ordinals: Sequence[int]) -> Any:
        self.reading.release()
        assert self.go_on.wait(DEADLINE)
        return super().opened(ordinals)


NEVER = threading.Event()
ALONE, TOGETHER = None, (0, 0, 0, 0)
"""Who serves the four shards: nobody has to, as this rank can open them; or rank 0."""


@dataclass
class Rank:
    """A rank that serves its shards and builds its own."""

    staging: Staging
    files: ShardFiles
    buffers: Buffers
    admission: Admission
    assembler: Assembler
    peers: Peers
    url: str
    throttle: Throttle
    written: list[tuple[int, int]] = field(default_factory=list)
    errors: list[DSortError] = field(default_factory=list)

    def built(self) -> dict[int, bytes]:
        return {
            commit.number: Path(self.staging.staged_path(commit.staged)).read_bytes()
            for commit in self.staging.commits()
        }


@asynccontextmanager
async def ranks(
    root: Path,
    output: Path,
    *,
    count: int,
    windows: int = 3,
    window: int = 16 * BLOCK,
    slots: int = 2,
    flows: int = 2,
    owner_of: Sequence[int] | None = None,
    make: type[ShardFiles] = ShardFiles,
    cancelled: threading.Event = NEVER,
) -> AsyncIterator[list[Rank]]:
    async with AsyncExitStack() as stack:
        result: list[Rank] = []
        await stack.enter_async_context(asyncio.timeout(DEADLINE))
        for rank in range(count):
            fill, flush, close, serve = (
                stack.enter_context(ThreadPoolExecutor(size)) for size in (windows, 1, 2, 2)
            )
            staging = Staging(str(output), job="job", epoch=f"e{rank}")
            staging.create()
            files = make([pin(str(root), name) for name in sorted(os.listdir(root))], root=str(root))
            stack.callback(files.close)
            buffers = Buffers(count=windows, size=window)
            stack.callback(buffers.close)
            throttle = Throttle()
            flowing = flows_of(flows, buffers=buffers, sources=count - 1, throttle=throttle)
            admission = Admission(slots=slots, piece=4 * BLOCK, waiting=16, flow=Flowing())
            stack.callback(admission.close)
            patience = Patience(connect=DEADLINE, silence=DEADLINE, peer=DEADLINE)
            peers = await stack.enter_async_context(
                Peers(
                    rank=rank,
                    job="job",
                    token="t",
                    flows=flowing,
                    patience=patience,
                    on_received=lambda _: None,
                )
            )
            written: list[tuple[int, int]] = []
            errors: list[DSortError] = []
            offers = Offers()
            offers.files.set(files)
            server = DataServer(
                offers,
                job="job",
                epoch=f"e{rank}",
                token="t",
                admission=admission,
                threads=serve,
                decisions=None,
                poll=0.1,
                silence=DEADLINE,
                on_sent=lambda _: None,
                on_error=errors.append,
            )
            stack.push_async_callback(server.stop)
            url = await server.start(host="127.0.0.1", port=0)
            assembler = Assembler(
                files=files,
                peers=peers,
                rank=rank,
                owner_of=None if owner_of is None else np.array(owner_of, dtype=np.int64),
                flows=flowing,
                fillers=fill,
                flusher=flush,
                writer=ShardWriter(staging, closers=close, behind=2, on_commit=lambda _: None),
                on_written=lambda records, size, to=written: to.append((records, size)),  # type: ignore[misc]
                cancelled=cancelled.is_set,
            )
            result.append(
                Rank(staging, files, buffers, admission, assembler, peers, url, throttle, written, errors)
            )
        table = PeerTable(
            version=1,
            peers=[Peer(rank=rank, url=one.url, epoch=f"e{rank}") for rank, one in enumerate(result)],
        )
        for one in result:
            one.peers.update(table)
        yield result


def many_shards(seed: int, *, count: int = 12) -> list[list[Record]]:
    """Shards of records from everywhere, one of them larger than any window."""
    random = np.random.default_rng(seed)

    def record() -> Record:
        slices = tuple(
            (int(random.integers(0, BLOCKS - 9)), int(random.integers(1, 9)))
            for _ in range(random.integers(1, 3))
        )
        return Record(int(random.integers(0, 4)), slices)

    shards = [[record() for _ in range(random.integers(1, 12))] for _ in range(count)]
    shards[3].append(Record(2, ((0, BLOCKS), (0, BLOCKS), (5, 20))))
    return shards


@pytest.mark.asyncio
@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("owner_of", [ALONE, TOGETHER], ids=["alone", "together"])
async def test_shards_are_built_from_own_files(
    root: Path, tmp_path: Path, windows: int, owner_of: Sequence[int] | None
) -> None:
    stream, planned, expected = stream_of(many_shards(1))
    async with ranks(root, tmp_path / "out", count=1, windows=windows, owner_of=owner_of) as (rank,):
        await rank.assembler.build(stream)
        assert rank.built() == dict(enumerate(expected))
        assert sum(records for records, _ in rank.written) == sum(shard.records for shard in planned)
        assert sum(size for _, size in rank.written) == stream.size
        assert rank.buffers.lent == 0


@pytest.mark.asyncio
async def test_what_is_known_of_a_stretch_of_the_smallest_records_stays_small(tmp_path: Path) -> None:
    """65,536 records of one block are in a stretch: a rank with the least budget has no room for Python's numbers of all."""
    count, blocks = 160_000, 1 << 16
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").touch()
    os.truncate(tmp_path / "in" / "0.tar", blocks * BLOCK)
    rows = np.zeros(count, dtype=ROW)
    rows["offset"] = np.random.default_rng(1).integers(0, blocks, count)
    rows["length"] = rows["slices"] = rows["members"] = 1
    shard = OutputShard(0, "out-0.tar", count * BLOCK + END_OF_ARCHIVE, count, count)
    stream = Stream(rows, np.empty((0, 2), dtype=np.uint32), [shard])
    async with ranks(tmp_path / "in", tmp_path / "out", count=1, window=1 << 20) as (rank,):
        tracemalloc.start()
        try:
            await rank.assembler.build(stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert os.stat(rank.staging.staged_path(rank.staging.staged_name(0))).st_size == shard.size
    assert peak < 200 * blocks


@pytest.mark.asyncio
@pytest.mark.parametrize(("slots", "flows"), [(1, 1), (2, 4)])
@pytest.mark.parametrize("windows", [1, 3])
async def test_ranks_that_build_from_each_other_with_one_of_everything(
    root: Path, tmp_path: Path, windows: int, slots: int, flows: int
) -> None:
    # Each of three ranks builds from all others at once, with a single window, slot and flow: serving never waits
    # for receiving, so everybody gets on.
    streams = [stream_of(many_shards(seed)) for seed in range(3)]
    outputs = [tmp_path / f"out-{number}" for number in range(3)]
    async with ranks(
        root, tmp_path / "unused", count=3, windows=windows, slots=slots, flows=flows, owner_of=[0, 1, 2, 1]
    ) as every:
        for one, output in zip(every, outputs, strict=True):
            staging = Staging(str(output), job="job", epoch="e")
            staging.create()
            one.staging = one.assembler._writer._staging = staging
        async with asyncio.TaskGroup() as group:
            for one, (stream, _, _) in zip(every, streams, strict=True):
                group.create_task(one.assembler.build(stream))
        for one, (_, _, expected) in zip(every, streams, strict=True):
            assert one.built() == dict(enumerate(expected))
            assert one.errors == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "owner_of", [ALONE, TOGETHER, (0, 1, 2, 3)], ids=["alone", "together", "from others"]
)
async def test_a_level_that_rises_and_falls_makes_windows_smaller_and_changes_no_byte(
    root: Path, tmp_path: Path, owner_of: Sequence[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "LEAST_WINDOW", BLOCK)
    monkeypatch.setattr(assemble, "_STRETCH", 64 * BLOCK)
    monkeypatch.setattr(assemble, "_LOCAL_WINDOW", 8 * BLOCK)
    stream, _, expected = stream_of(many_shards(5))
    levels = itertools.cycle([0, 4, 4, 4, 4, 1, 3, 0])
    async with ranks(root, tmp_path / "out", count=4, owner_of=owner_of) as (rank, *_):

        def written(records: int, size: int) -> None:
            rank.written.append((records, size))
            rank.throttle.feel(next(levels))

        rank.assembler._on_written = written
        await rank.assembler.build(stream)
        assert rank.built() == dict(enumerate(expected))
        assert rank.buffers.lent == 0
        sizes = {size for _, size in rank.written}
        assert len(sizes) > 1
        if owner_of is not None:
            assert BLOCK in sizes
            assert max(sizes) == 16 * BLOCK


@pytest.mark.asyncio
async def test_many_sources_are_asked_a_few_at_a_time(root: Path, tmp_path: Path) -> None:
    stream, _, expected = stream_of(many_shards(9))
    async with ranks(root, tmp_path / "out", count=5, flows=2, owner_of=(1, 2, 3, 4)) as (rank, *_):
        outstanding: list[int] = []
        ask = ReceiveWindow.ask

        def asked(self: ReceiveWindow, source: int, size: int, *, now: float) -> None:
            ask(self, source, size, now=now)
            outstanding.append(self.requests)

        with mock.patch.object(ReceiveWindow, "ask", asked):
            await rank.assembler.build(stream)
        assert rank.built() == dict(enumerate(expected))
        assert max(outstanding) == 2


@pytest.mark.asyncio
async def test_many_slices_of_one_peer_are_several_requests(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "MAX_SLICES", 3)
    stream, _, expected = stream_of(many_shards(7))
    async with ranks(root, tmp_path / "out", count=2, owner_of=[1, 1, 1, 1]) as (rank, _):
        await rank.assembler.build(stream)
        assert rank.built() == dict(enumerate(expected))


@pytest.mark.asyncio
async def test_serving_answers_while_receiving_is_blocked(root: Path, tmp_path: Path) -> None:
    # Rank 0 has its only window filled by a peer that does not answer; rank 1 builds from rank 0 all the same.
    Slow.reading, Slow.go_on = threading.Semaphore(0), threading.Event()
    mine, theirs = stream_of(many_shards(1)), stream_of(many_shards(2))
    async with (
        ranks(root, tmp_path / "slow", count=2, make=Slow, owner_of=[1] * 4, windows=1) as (stuck, _),
        ranks(root, tmp_path / "quick", count=2, owner_of=[0] * 4, windows=1) as (zero, one),
        asyncio.TaskGroup() as group,
    ):
        # The stuck rank's receiving side stands in for that of rank 0: the same assembler, its own server.
        zero.assembler._peers = stuck.peers
        zero.assembler._owner_of = np.array([1] * 4)
        blocked = group.create_task(zero.assembler.build(mine[0]))
        await asyncio.to_thread(Slow.reading.acquire, timeout=DEADLINE)
        assert zero.buffers.lent == 1
        other = Staging(str(tmp_path / "other"), job="job", epoch="e")
        other.create()
        one.staging = one.assembler._writer._staging = other
        await one.assembler.build(theirs[0])
        assert one.built() == dict(enumerate(theirs[2]))
        assert not blocked.done()
        Slow.go_on.set()
        await blocked
        assert zero.built() == dict(enumerate(mine[2]))


@pytest.mark.asyncio
@pytest.mark.parametrize(("owner_of", "reads"), [(ALONE, 1), (TOGETHER, 3)], ids=["alone", "together"])
async def test_an_ended_build_waits_for_its_threads_and_commits_nothing_in_part(
    root: Path, tmp_path: Path, owner_of: Sequence[int] | None, reads: int
) -> None:
    Slow.reading, Slow.go_on = threading.Semaphore(0), threading.Event()
    cancelled = threading.Event()
    stream, _, _ = stream_of(many_shards(1))
    async with (
        ranks(root, tmp_path / "out", count=1, make=Slow, owner_of=owner_of, cancelled=cancelled) as (rank,),
        asyncio.TaskGroup() as group,
    ):
        building = group.create_task(rank.assembler.build(stream))
        for _ in range(reads):
            await asyncio.to_thread(Slow.reading.acquire, timeout=DEADLINE)
        cancelled.set()
        building.cancel()
        await idle()
        assert not building.done()
        assert rank.buffers.lent == reads
        Slow.go_on.set()
        await until(building.done)
        assert building.cancelled()
        assert rank.buffers.lent == 0
        assert rank.built() == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("owner_of", [ALONE, TOGETHER], ids=["alone", "together"])
async def test_a_failure_ends_the_build_with_its_reason(
    root: Path, tmp_path: Path, owner_of: Sequence[int] | None
) -> None:
    stream, _, _ = stream_of(many_shards(1))
    async with ranks(root, tmp_path / "out", count=1, owner_of=owner_of) as (rank,):
        with rank.files.opened([2]):
            pass
        os.truncate(root / "2.tar", BLOCK)
        with pytest.raises((DSortError, ExceptionGroup)) as caught:
            await rank.assembler.build(stream)
        failure: BaseException = caught.value
        while isinstance(failure, ExceptionGroup):
            failure = failure.exceptions[0]
        assert isinstance(failure, DSortError)
        assert failure.reason is Reason.INPUT_CHANGED
        assert rank.buffers.lent == 0
