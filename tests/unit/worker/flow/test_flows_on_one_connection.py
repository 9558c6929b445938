"""Two flows on one connection: the data of one that its receiver may not take yet stand before all that would help.

The schedule is the same for both: a client asks for two bodies, takes nothing of the first before it has the second, and then
asks a question, the answer of which has to come whatever becomes of the bodies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from dsort_worker.decisions import Decisions, Report
from tests.support.dataendpoint import Endpoint, answering, connected, make_shards, slices_of
from tests.support.waiting import DEADLINE, idle

pytestmark = pytest.mark.asyncio

PIECES: Final = 100
SIZE: Final = 6 << 20


@dataclass(slots=True)
class Connection:
    """Carries frames of any flow in the order in which they were sent, a few at a time: a socket with its buffers."""

    frames: asyncio.Queue[tuple[str, int]] = field(default_factory=lambda: asyncio.Queue(8))


async def push(connection: Connection, flow: str) -> None:
    """The naive sender: it sends a flow as soon as it has the data."""
    for piece in range(PIECES):
        await connection.frames.put((flow, piece))


@dataclass(slots=True)
class NaiveReceiver:
    """Takes frames off the connection, of the flows that were started. What is of another one it may not take."""

    connection: Connection
    started: set[str] = field(default_factory=set)
    came: dict[str, int] = field(default_factory=dict)
    ahead: deque[tuple[str, int]] = field(default_factory=deque)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, flow: str) -> None:
        self.started.add(flow)
        while self.came.get(flow, 0) < PIECES:
            if not self.ahead:
                self.ahead.append(await self.connection.frames.get())
            whose, _ = self.ahead[0]
            if whose not in self.started:
                await (
                    asyncio.Event().wait()
                )  # there is no buffer for it: it stays where it is, before all others
            self.ahead.popleft()
            self.came[whose] = self.came.get(whose, 0) + 1


async def test_naively_two_flows_and_a_question_on_one_connection_stand_still() -> None:
    connection = Connection()
    receiver = NaiveReceiver(connection)

    async def client() -> None:
        await receiver.take("second")
        await receiver.take("first")

    async def ask() -> None:
        await connection.frames.put(("question", 0))
        await receiver.answered.wait()

    async with asyncio.TaskGroup() as group:
        work = push(connection, "first"), push(connection, "second"), client(), ask()
        tasks = [group.create_task(one) for one in work]
        await idle(10 * PIECES)
        assert not any(task.done() for task in tasks)
        assert connection.frames.full()
        assert receiver.came.get("second", 0) == 0
        for task in tasks:
            task.cancel()


async def test_the_same_connection_carries_one_flow_after_the_other() -> None:
    # So it is the schedule that the naive one does not stand, not its connection.
    connection = Connection()
    receiver = NaiveReceiver(connection)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(push(connection, "first"))
        await receiver.take("first")
        group.create_task(push(connection, "second"))
        await receiver.take("second")
    assert receiver.came == {"first": PIECES, "second": PIECES}


async def question(endpoint: Endpoint) -> int:
    async with connected(endpoint) as client:
        return (await client.post("/v1/steps/sum", b'{"rank": 0, "report": {"value": 1}}'))[0]


async def test_each_flow_has_a_connection_and_questions_wait_for_none(tmp_path: Path) -> None:
    make_shards(tmp_path / "in", shards=2, size=SIZE)

    def decide(reports: Sequence[Report]) -> Report:
        return {"sum": sum(report["value"] for report in reports)}

    with ThreadPoolExecutor(1) as threads:
        decisions = Decisions({"sum": decide}, ranks=1, folder=None, epoch="e", threads=threads)
        async with (
            asyncio.timeout(DEADLINE),
            answering(tmp_path / "in", slots=2, waiting=2, decisions=decisions) as endpoint,
            connected(endpoint, receive=4096) as first,
            connected(endpoint) as second,
        ):
            status, length = await first.ask(slices_of((0, 0, SIZE)))
            assert status == 200
            assert await question(endpoint) == 200
            assert (await second.ask(slices_of((1, 0, SIZE))))[0] == 200
            body = await second.reader.readexactly(length)
            assert body[:SIZE] == (tmp_path / "in" / "1.tar").read_bytes()
            body = await first.reader.readexactly(length)
            assert body[:SIZE] == (tmp_path / "in" / "0.tar").read_bytes()


async def test_with_every_slot_held_by_those_who_take_nothing_questions_are_answered(tmp_path: Path) -> None:
    make_shards(tmp_path / "in", shards=1, size=SIZE)

    def decide(reports: Sequence[Report]) -> Report:
        return {"sum": sum(report["value"] for report in reports)}

    with ThreadPoolExecutor(1) as threads:
        decisions = Decisions({"sum": decide}, ranks=1, folder=None, epoch="e", threads=threads)
        async with (
            asyncio.timeout(DEADLINE),
            answering(tmp_path / "in", slots=2, waiting=2, decisions=decisions) as endpoint,
            connected(endpoint, receive=4096) as one,
            connected(endpoint, receive=4096) as other,
        ):
            for stuck in (one, other):
                assert (await stuck.ask(slices_of((0, 0, SIZE))))[0] == 200
            assert endpoint.flow.serving == 2
            assert await question(endpoint) == 200


async def test_one_who_takes_nothing_holds_one_slot_while_hundreds_are_served_by_the_other(
    tmp_path: Path,
) -> None:
    make_shards(tmp_path / "in", shards=1, size=SIZE)
    async with (
        asyncio.timeout(DEADLINE),
        answering(tmp_path / "in", slots=2, waiting=16) as endpoint,
        connected(endpoint, receive=4096) as stuck,
        connected(endpoint) as client,
    ):
        status, length = await stuck.ask(slices_of((0, 0, SIZE)))
        assert status == 200
        for _ in range(300):
            status, small = await client.ask(slices_of((0, 512, 512)))
            assert status == 200
            await client.reader.readexactly(small)
        assert len(await stuck.reader.readexactly(length)) == length
