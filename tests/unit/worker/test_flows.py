"""Flows: leave in order, room as the level allows, and memory that goes back when it rises."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dsort_worker.budget import Buffers
from dsort_worker.flows import Flows
from dsort_worker.state import Flowing
from dsort_worker.throttle import Throttle
from tests.support.flows import flows_of
from tests.support.waiting import DEADLINE, idle, until

pytestmark = pytest.mark.asyncio

MIB = 1 << 20


class Requests:
    """Requests that are made and ended as the test says."""

    def __init__(self, flows: Flows, group: asyncio.TaskGroup) -> None:
        self._flows = flows
        self._group = group
        self.made: list[str] = []
        self.end: dict[str, asyncio.Event] = {}

    def make(self, name: str, *, source: int = 0, size: int = 0) -> asyncio.Task[None]:
        self.end[name] = asyncio.Event()
        return self._group.create_task(self._make(name, source, size))

    async def _make(self, name: str, source: int, size: int) -> None:
        async with self._flows.request(source, size=size) as came:
            self.made.append(name)
            await self.end[name].wait()
            came(size // 2)


async def test_leave_is_given_in_order_and_comes_back_with_the_end() -> None:
    flow = Flowing()
    flows = flows_of(2, flow=flow)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        requests = Requests(flows, group)
        for name in "abcd":
            requests.make(name, size=100)
        await idle()
        assert requests.made == ["a", "b"]
        assert (flow.requests, flow.outstanding) == (2, 200)
        requests.end["b"].set()
        await until(lambda: requests.made == ["a", "b", "c"])
        for name in "acd":
            requests.end[name].set()
    assert requests.made == list("abcd")
    assert (flow.requests, flow.outstanding) == (0, 0)


async def test_a_slow_source_does_not_hold_up_the_requests_to_others() -> None:
    flows = flows_of(2, sources=3)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        requests = Requests(flows, group)
        for name in ("slow 1", "slow 2", "slow 3"):
            requests.make(name, source=1)
        for name in ("quick 1", "quick 2"):
            requests.make(name, source=2)
        await until(lambda: requests.made == ["slow 1", "quick 1"])
        requests.end["quick 1"].set()
        await until(lambda: requests.made == ["slow 1", "quick 1", "quick 2"])
        for end in requests.end.values():
            end.set()


async def test_who_stops_waiting_takes_no_leave_with_it() -> None:
    flow = Flowing()
    flows = flows_of(1, flow=flow)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        requests = Requests(flows, group)
        requests.make("first")
        waiting, leaving = requests.make("waiting"), requests.make("leaving")
        await idle()
        waiting.cancel()
        await idle()
        requests.end["first"].set()
        leaving_turn = flows._waiters[0].turn
        await until(leaving_turn.done)
        leaving.cancel()  # it was given leave, and has not gone yet
        requests.make("last")
        await until(lambda: requests.made == ["first", "last"])
        requests.end["last"].set()
    assert flow.requests == 0


async def test_room_is_as_large_as_the_level_allows() -> None:
    throttle, flow = Throttle(), Flowing()
    buffers = Buffers(count=3, size=4 * MIB)
    flows = flows_of(2, buffers=buffers, throttle=throttle, flow=flow)
    assert (flow.window, flows.next_size()) == (12 * MIB, 4 * MIB)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        ends = [asyncio.Event() for _ in range(3)]

        async def use(end: asyncio.Event) -> None:
            async with flows.window(flows.next_size()) as buffer:
                buffer[:5] = b"bytes"
                await end.wait()

        for end in ends:
            await flows.room()
            group.create_task(use(end))
            await idle()
        waiting = group.create_task(flows.room())
        await idle()
        assert not waiting.done()
        # Whoever says so, in whatever thread.
        teller = threading.Thread(target=throttle.feel, args=(3,))
        teller.start()
        await until(lambda: flow.window == 12 * MIB >> 3)
        teller.join()
        ends[0].set()
        ends[1].set()
        await until(lambda: buffers.lent == 1)
        await idle()
        assert not waiting.done()
        ends[2].set()
        await waiting
        assert flows.next_size() == MIB
    buffers.close()


async def test_a_level_gives_the_pages_of_free_windows_back_at_once() -> None:
    throttle = Throttle()
    buffers = Buffers(count=2, size=MIB)
    flows = flows_of(2, buffers=buffers, throttle=throttle)
    async with asyncio.timeout(DEADLINE):
        async with flows.window(MIB) as one, flows.window(MIB) as other:
            one[:], other[:] = b"1" * MIB, b"2" * MIB
        async with flows.window(MIB) as held:
            before = bytes(held[:1])
            throttle.tell(1)
            await until(
                lambda: all(not any(free[:]) for free in buffers._all if id(free) not in buffers._lent)
            )
            assert bytes(held[:1]) == before != b"\0"  # what is in use is left alone
        assert not any(any(free[:]) for free in buffers._all)  # and goes back when it is done with
        throttle.tell(0)
        await idle()
        async with flows.window(MIB) as again:
            again[:1] = b"3"
        assert any(free[0] for free in buffers._all)
    buffers.close()


async def test_a_level_after_the_end_is_told_to_nobody() -> None:
    throttle = Throttle()

    async def begin() -> None:
        flows_of(1, throttle=throttle)

    await asyncio.to_thread(asyncio.run, begin())
    throttle.tell(2)
    assert throttle.level == 2
