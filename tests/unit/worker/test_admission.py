"""Admission: a fixed number in progress, a bounded queue in order, and a refusal at once past that."""

from __future__ import annotations

import asyncio

import pytest

from dsort_worker.admission import Admission, Busy
from tests.support.waiting import until


@pytest.mark.asyncio
async def test_slots_are_given_in_order_and_the_queue_is_bounded() -> None:
    admission = Admission(slots=2, piece=4096, waiting=2)
    inside: list[int] = []
    release = [asyncio.Event() for _ in range(6)]
    entered = [asyncio.Event() for _ in range(6)]

    async def respond(number: int) -> None:
        async with admission.slot() as (one, other):
            assert len(one) == len(other) == 4096
            one[:1], other[:1] = b"1", b"2"
            assert bytes(one[:1]) == b"1"
            inside.append(number)
            entered[number].set()
            await release[number].wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(respond(number)) for number in range(4)]
        await asyncio.gather(entered[0].wait(), entered[1].wait())
        await until(lambda: admission.waiting == 2)
        with pytest.raises(Busy) as refusal:
            async with admission.slot():
                pytest.fail("the queue was full")
        assert 0 < refusal.value.retry_after < 5
        tasks[2].cancel()  # one who stops waiting leaves its place
        await until(lambda: admission.waiting == 1)
        tasks.append(group.create_task(respond(4)))
        await until(lambda: admission.waiting == 2)
        release[1].set()
        await entered[3].wait()
        assert inside == [0, 1, 3]
        release[0].set()
        await entered[4].wait()
        release[3].set()
        release[4].set()
    assert inside == [0, 1, 3, 4]
    assert admission.waiting == 0
    admission.close()


@pytest.mark.asyncio
async def test_a_response_that_fails_gives_its_slot_back() -> None:
    admission = Admission(slots=1, piece=4096)
    for _ in range(3):
        with pytest.raises(OSError, match="gone"):
            async with asyncio.timeout(10), admission.slot():
                raise OSError("gone")
    async with asyncio.timeout(10), admission.slot():
        pass
    admission.close()
