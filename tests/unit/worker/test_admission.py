"""Admission: a fixed number in progress, a bounded line in order, and a refusal at once past that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from dsort_worker.admission import Admission, Asked, Busy
from dsort_worker.line import SOONEST
from dsort_worker.state import Flowing
from tests.support.waiting import idle, until

pytestmark = pytest.mark.asyncio


@dataclass
class Desk:
    """An admission, and those who come to it."""

    admission: Admission
    flow: Flowing
    group: asyncio.TaskGroup
    inside: list[int] = field(default_factory=list)
    refused: dict[int, Busy] = field(default_factory=dict)
    release: dict[int, asyncio.Event] = field(default_factory=dict)

    def come(self, number: int, asked: Asked = Asked()) -> asyncio.Task[None]:  # noqa: B008 - it cannot be changed
        self.release[number] = asyncio.Event()
        return self.group.create_task(self._respond(number, asked))

    async def _respond(self, number: int, asked: Asked) -> None:
        try:
            async with self.admission.slot(asked) as (one, other):
                assert len(one) == len(other) == 4096
                one[:1], other[:1] = b"1", b"2"
                assert bytes(one[:1]) == b"1"
                self.inside.append(number)
                await self.release[number].wait()
        except Busy as busy:
            self.refused[number] = busy


@asynccontextmanager
async def desk(*, slots: int, waiting: int) -> AsyncIterator[Desk]:
    flow = Flowing()
    admission = Admission(slots=slots, piece=4096, waiting=waiting, flow=flow)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        yield Desk(admission, flow, group)
    assert (flow.serving, flow.queued, admission.waiting) == (0, 0, 0)
    admission.close()


async def test_slots_are_given_in_order_and_the_queue_is_bounded() -> None:
    async with desk(slots=2, waiting=2) as one:
        tasks = [one.come(number) for number in range(4)]
        await until(lambda: one.flow.queued == 2)
        assert (one.flow.serving, one.inside) == (2, [0, 1])
        with pytest.raises(Busy) as refusal:
            async with one.admission.slot(Asked(takes_ticket=False)):
                pytest.fail("the queue was full")
        assert refusal.value.retry_after == SOONEST
        assert refusal.value.ticket is None
        assert one.flow.refused == 1
        tasks[2].cancel()  # one who stops waiting leaves its place
        await until(lambda: one.admission.waiting == 1)
        tasks.append(one.come(4))
        await until(lambda: one.admission.waiting == 2)
        one.release[1].set()
        await until(lambda: one.inside == [0, 1, 3])
        one.release[0].set()
        await until(lambda: one.inside == [0, 1, 3, 4])
        one.release[3].set()
        one.release[4].set()


async def test_a_ticket_keeps_the_place_before_those_who_came_later() -> None:
    async with desk(slots=1, waiting=1) as one:
        for number in range(3):
            one.come(number)
        await until(lambda: one.refused)
        one.come(3)
        await until(lambda: len(one.refused) == 2)
        one.release[0].set()
        await until(lambda: one.inside == [0, 1])
        one.come(4, Asked(ticket=one.refused.pop(3).ticket))
        await until(lambda: 4 in one.refused)  # not before number 2
        one.come(5, Asked(ticket=one.refused.pop(2).ticket))
        await until(lambda: one.flow.queued == 1)
        one.release[1].set()
        await until(lambda: one.inside == [0, 1, 5])
        one.release[5].set()


async def test_a_place_that_nobody_comes_back_to_ends_by_itself() -> None:
    async with desk(slots=1, waiting=2) as one:
        one.admission._line._grace = 0.05
        one.come(0)
        await until(lambda: one.inside)
        one.come(1, Asked(deadline=0.0))  # refused with a ticket, at once
        await until(lambda: 1 in one.refused)
        one.come(2)
        await until(lambda: one.flow.queued == 1)
        one.release[0].set()
        await idle()
        assert one.inside == [0]
        await until(lambda: one.inside == [0, 2])
        one.release[2].set()


async def test_who_cannot_come_back_with_a_ticket_leaves_no_place() -> None:
    async with desk(slots=1, waiting=2) as one:
        one.come(0)
        await until(lambda: one.inside)
        one.come(1, Asked(deadline=0.0, takes_ticket=False))
        await until(lambda: 1 in one.refused)
        assert one.refused[1].ticket is None
        one.release[0].set()
        one.come(2)
        await until(lambda: one.inside == [0, 2])
        one.release[2].set()


async def test_a_request_is_held_no_longer_than_it_is_going_to_wait() -> None:
    async with desk(slots=1, waiting=2) as one:
        one.come(0)
        await until(lambda: one.inside)
        one.come(1, Asked(deadline=0.1))
        await until(lambda: one.flow.queued == 1)
        await until(lambda: 1 in one.refused)
        assert one.refused[1].ticket is not None
        one.release[0].set()


async def test_one_who_ends_in_the_moment_of_its_turn_gives_the_slot_to_the_next() -> None:
    async with desk(slots=1, waiting=2) as one:
        one.come(0)
        await until(lambda: one.inside)
        second = one.come(1)
        one.come(2)
        await until(lambda: one.flow.queued == 2)
        turn = one.admission._held[2]
        one.release[0].set()
        await until(turn.done)
        second.cancel()  # it was told to go, and has not gone yet
        await until(lambda: one.inside == [0, 2])
        one.release[2].set()


async def test_one_who_was_cancelled_before_its_turn_was_told_gives_the_slot_to_the_next() -> None:
    async with desk(slots=1, waiting=2) as one:
        one.come(0)
        await until(lambda: one.inside)
        second = one.come(1)
        one.come(2)
        await until(lambda: one.flow.queued == 2)
        one.release[0].set()
        second.cancel()  # the slot comes free while it is on its way out
        await until(lambda: one.inside == [0, 2])
        one.release[2].set()


async def test_a_response_that_fails_gives_its_slot_back() -> None:
    admission = Admission(slots=1, piece=4096, waiting=1, flow=Flowing())
    for _ in range(3):
        with pytest.raises(OSError, match="gone"):
            async with asyncio.timeout(10), admission.slot(Asked()):
                raise OSError("gone")
    async with asyncio.timeout(10), admission.slot(Asked()):
        pass
    admission.close()
