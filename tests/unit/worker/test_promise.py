"""A promise is kept once, and every wait for it is bounded."""

from __future__ import annotations

import asyncio

import pytest

from dsort_worker.promise import Promise


@pytest.mark.asyncio
async def test_waiters_get_the_value_when_it_is_there() -> None:
    promise: Promise[int] = Promise()
    assert await promise.get(wait=0.01) is None
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiters = [group.create_task(promise.get(wait=60)) for _ in range(3)]
        await asyncio.sleep(0)
        promise.set(7)
    assert [waiter.result() for waiter in waiters] == [7, 7, 7]
    assert await promise.get(wait=0) == 7


@pytest.mark.asyncio
async def test_a_second_value_is_refused() -> None:
    promise: Promise[int] = Promise()
    promise.set(1)
    with pytest.raises(RuntimeError, match="kept already"):
        promise.set(2)
    assert await promise.get(wait=1) == 1
