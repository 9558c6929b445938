"""The budget: never more than was given, and buffers with one owner at a time."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import resource
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsort_worker.budget import INTERPRETER, LEAST_BUDGET, LEAST_ROWS, MIB, Buffers, divide


@given(st.integers(0, 1 << 40))
@example(LEAST_BUDGET)
@example(LEAST_BUDGET + 1)
def test_buffers_stay_within_the_budget(budget: int) -> None:
    division = divide(budget)
    assert division.reserved + division.rows <= max(budget, LEAST_BUDGET) - INTERPRETER
    assert division.rows >= LEAST_ROWS
    assert division.serve_slots >= 2
    assert division.windows >= 2
    assert division.flows >= 3  # a slow source has one of them, and the others have to have more than one
    assert division.waiting >= 16
    assert division.window >= MIB
    assert division.window % 512 == 0
    assert division.piece >= 128 << 10
    assert division.piece % 512 == 0


def test_more_budget_is_never_less_of_anything() -> None:
    divisions = [divide(budget << 20) for budget in range(64, 1024, 8)]
    for less, more in itertools.pairwise(divisions):
        assert more.window >= less.window or more.flows > less.flows or more.serve_slots > less.serve_slots
        assert more.rows + more.reserved > less.rows + less.reserved
    assert divide(1 << 40).reserved == divide(1 << 30).reserved


@pytest.mark.asyncio
async def test_a_buffer_is_dead_after_its_block() -> None:
    buffers = Buffers(count=1, size=4096)
    async with buffers.lend() as buffer:
        assert len(buffer) == 4096
        buffer[:4] = b"data"
    with pytest.raises(ValueError, match="released"):
        buffer[0] = 1
    with pytest.raises(ValueError, match="released"):
        bytes(buffer)
    assert buffers.lent == 0
    buffers.close()


@pytest.mark.asyncio
async def test_a_view_in_a_traceback_does_not_hide_what_ended_the_job() -> None:
    buffers = Buffers(count=2, size=4096)
    async with buffers.lend() as buffer:
        kept = buffer[:10]
    buffers.close()
    assert bytes(kept) == bytes(10)


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.asyncio
async def test_what_is_free_is_given_back_to_the_system() -> None:
    buffers = Buffers(count=2, size=64 * MIB)
    async with buffers.lend() as one:
        one[:] = bytes(64 * MIB)
        touched = resident()
        async with buffers.lend() as other:
            other[:] = bytes(64 * MIB)
        buffers.give_back()
        assert resident() < touched + 16 * MIB  # the free one at once
    assert resident() < touched - 32 * MIB  # the other one when it came back
    buffers.keep()
    async with buffers.lend() as one:
        one[:] = b"1" * (64 * MIB)
    assert resident() > touched - 32 * MIB
    buffers.close()


@pytest.mark.asyncio
async def test_waiters_are_served_in_order_and_a_cancelled_one_takes_nothing() -> None:
    buffers = Buffers(count=1, size=4096)
    order: list[int] = []
    release = [asyncio.Event() for _ in range(4)]
    inside = [asyncio.Event() for _ in range(4)]

    async def use(number: int) -> None:
        async with buffers.lend():
            assert buffers.lent == 1
            order.append(number)
            inside[number].set()
            await release[number].wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(use(number)) for number in range(4)]
        await inside[0].wait()
        tasks[1].cancel()
        release[0].set()
        await inside[2].wait()
        assert order == [0, 2]
        tasks[2].cancel()  # a cancelled owner gives it back as well
        await inside[3].wait()
        release[3].set()
    assert order == [0, 2, 3]
    assert buffers.lent == 0
    buffers.close()


@pytest.mark.skipif(
    "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(), reason="no large pages here"
)
def test_large_buffers_fault_in_by_large_pages() -> None:
    buffers = Buffers(count=1, size=16 * MIB)

    async def fill() -> int:
        async with buffers.lend() as view:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for low in range(0, len(view), mmap.PAGESIZE):
                view[low] = 1
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults = asyncio.run(fill())
    buffers.close()
    assert faults < 16 * MIB // mmap.PAGESIZE // 2


@pytest.mark.parametrize(
    ("budget", "socket"), [(64, 256 << 10), (200, 256 << 10), (256, 2 << 20), (1024, 2 << 20)]
)
def test_connections_buffer_more_where_rows_have_room_as_well(budget: int, socket: int) -> None:
    division = divide(budget * MIB)
    assert division.socket == socket
    assert INTERPRETER + division.reserved + division.rows <= budget * MIB
    assert division.rows >= 2 * MIB
