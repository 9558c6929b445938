"""Bodies as fresh bytes that somebody keeps, and buffers of a pool whose owner nobody knows.

The schedule is the same for both: body after body comes, and what stores them looks at each once more after its handler is done.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pytest

from dsort_api.messages import Peer, PeerTable
from dsort_worker.budget import Buffers
from dsort_worker.peers import Patience, Peers
from dsort_worker.window import Placer
from dsort_worker.wire import encode_slices
from tests.support.dataendpoint import Endpoint, answering, connected, make_shards, slices_of
from tests.support.flows import flows_of
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.asyncio

SIZE: Final = 2 << 20
BODIES: Final = 12


class Memory(NamedTuple):
    """Bytes that Python has allocated more than before the first body: at the peak of one, and after it."""

    peak: int
    after: int


async def live_memory(receive: Callable[[int], Awaitable[None]]) -> list[Memory]:
    """What each body takes, and what is left of it and of those before."""
    seen = []
    await receive(0)  # what is made once
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, BODIES):
            tracemalloc.reset_peak()
            await receive(number)
            after, peak = tracemalloc.get_traced_memory()
            seen.append(Memory(peak - before, after - before))
    finally:
        tracemalloc.stop()
    return seen


@dataclass(slots=True)
class NaiveHandler:
    """Reads a whole body, hands it to the store, and is done."""

    endpoint: Endpoint
    store: list[bytes] = field(default_factory=list)

    async def receive(self, number: int) -> None:
        async with connected(self.endpoint) as client:
            status, length = await client.ask(slices_of((0, 0, SIZE)))
            assert status == 200
            pieces = []
            while length:
                pieces.append(await client.reader.read(min(length, 1 << 16)))
                length -= len(pieces[-1])
            self.store.append(b"".join(pieces))


async def test_naively_live_memory_grows_with_every_body(tmp_path: Path) -> None:
    make_shards(tmp_path / "in", shards=1, size=SIZE)
    async with asyncio.timeout(DEADLINE), answering(tmp_path / "in", slots=1, waiting=2) as endpoint:
        seen = await live_memory(NaiveHandler(endpoint).receive)
    assert seen[0].peak > SIZE
    assert seen[-1].after > (BODIES - 2) * SIZE


async def test_a_body_that_is_placed_as_it_comes_leaves_no_memory_behind_and_takes_next_to_none(
    tmp_path: Path,
) -> None:
    make_shards(tmp_path / "in", shards=1, size=SIZE)
    expected = (tmp_path / "in" / "0.tar").read_bytes()
    slices = slices_of((0, 0, SIZE))
    buffers = Buffers(count=1, size=SIZE)
    patience = Patience(connect=DEADLINE, silence=DEADLINE, peer=DEADLINE)
    async with (
        asyncio.timeout(DEADLINE),
        answering(tmp_path / "in", slots=1, waiting=2) as endpoint,
        Peers(
            rank=1,
            job="job",
            token="secret",
            flows=flows_of(1),
            patience=patience,
            on_received=lambda _: None,
        ) as peers,
    ):
        peers.update(PeerTable(version=1, peers=[Peer(rank=0, url=endpoint.url, epoch="e1")]))

        async def receive(number: int) -> None:
            async with buffers.lend() as buffer:
                await peers.stream(
                    0,
                    "/v1/slices",
                    body=encode_slices(slices),
                    sink=lambda: Placer(buffer, places=np.array([0]), lengths=slices.length),
                    size=SIZE,
                )
                if number == 0:
                    assert buffer == expected

        seen = await live_memory(receive)
    buffers.close()
    assert max(one.peak for one in seen) < 1 << 20, "asker and asked together, all of their pieces"
    assert seen[-1].after < seen[0].after + (128 << 10)


# ------------------------------------------------------------------------------------------------------- who owns a buffer


@dataclass(slots=True)
class NaivePool:
    """Buffers that are taken and put back by whoever thinks that he is done."""

    free: list[bytearray]

    def take(self) -> bytearray:
        return self.free.pop()

    def put(self, buffer: bytearray) -> None:
        self.free.append(buffer)


async def test_naively_the_store_sees_the_next_body_in_the_last_ones_buffer() -> None:
    pool, store = NaivePool([bytearray(4)]), []
    for body in (b"1111", b"2222"):
        buffer = pool.take()
        buffer[:] = body
        store.append(memoryview(buffer))
        pool.put(buffer)
    assert [bytes(kept) for kept in store] == [b"2222", b"2222"]


async def test_naively_a_buffer_that_is_put_back_twice_has_two_owners() -> None:
    pool = NaivePool([bytearray(4)])
    buffer = pool.take()
    pool.put(buffer)
    pool.put(buffer)
    one, other = pool.take(), pool.take()
    one[:], other[:] = b"1111", b"2222"
    assert one == b"2222"


async def test_what_the_store_keeps_of_a_lent_buffer_is_dead_and_says_so() -> None:
    buffers, store = Buffers(count=1, size=4096), []
    for body in (b"1111", b"2222"):
        async with buffers.lend() as buffer:
            buffer[:4] = body
            store.append(buffer)
    for kept in store:
        with pytest.raises(ValueError, match="released"):
            bytes(kept)
    buffers.close()


async def test_a_lent_buffer_has_one_owner_until_its_block_ends_however_it_ends() -> None:
    buffers = Buffers(count=2, size=4096)
    for ending in (None, OSError("gone"), asyncio.CancelledError()):
        try:
            async with buffers.lend() as one, buffers.lend() as other:
                one[:4], other[:4] = b"1111", b"2222"
                assert (bytes(one[:4]), buffers.lent) == (b"1111", 2)
                if ending is not None:
                    raise ending
        except (OSError, asyncio.CancelledError):
            pass
        assert buffers.lent == 0
    buffers.close()
