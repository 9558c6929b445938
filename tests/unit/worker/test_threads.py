"""Work in threads: its owner stays until the thread is done, however often the wait is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dsort_worker.budget import Buffers
from dsort_worker.pools import Pools
from dsort_worker.threads import in_thread
from tests.support.waiting import DEADLINE, idle


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.asyncio
async def test_results_and_failures_come_through(pool: ThreadPoolExecutor) -> None:
    assert await in_thread(pool, divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(pool, divmod, 7, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("cancels", [1, 2, 5])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_wait_keeps_the_buffer_until_the_thread_is_done(
    pool: ThreadPoolExecutor, cancels: int, fails: bool
) -> None:
    buffers = Buffers(count=1, size=4096)
    reading, go_on = threading.Event(), threading.Event()

    def read(into: memoryview) -> None:
        reading.set()
        assert go_on.wait(DEADLINE)
        into[:4] = b"mine"
        if fails:
            raise OSError("the disk is gone")

    async def use() -> None:
        async with buffers.lend() as buffer:
            await in_thread(pool, read, buffer)

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        task = group.create_task(use())
        await asyncio.to_thread(reading.wait, DEADLINE)
        for _ in range(cancels):
            task.cancel()
            await idle()
        assert not task.done()
        assert buffers.lent == 1
        other = group.create_task(first_bytes(buffers))
        go_on.set()
        assert await other == b"mine"  # what the first left: it has been done since
        await asyncio.wait([task])
    assert task.cancelled()
    buffers.close()


async def first_bytes(buffers: Buffers) -> bytes:
    async with buffers.lend() as buffer:
        return bytes(buffer[:4])


@pytest.mark.asyncio
async def test_work_that_has_not_begun_is_waited_for_too() -> None:
    with ThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        done: list[int] = []
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(in_thread(pool, go_on.wait, DEADLINE))
            second = group.create_task(in_thread(pool, done.append, 2))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.sleep(0)
            go_on.set()
        assert second.cancelled()
        assert done == [2]


@pytest.mark.asyncio
async def test_pools_end_their_threads() -> None:
    pools = Pools(windows=3)
    async with asyncio.timeout(DEADLINE):
        names = [
            await in_thread(pool, lambda: threading.current_thread().name)
            for pool in (pools.compute, pools.serve, pools.fill, pools.flush, pools.close, pools.decide)
        ]
    assert [name.split("_")[0] for name in names] == ["compute", "serve", "fill", "flush", "close", "decide"]
    pools.close_all()
    assert not [thread for thread in threading.enumerate() if thread.name in names]
