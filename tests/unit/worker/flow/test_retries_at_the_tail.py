"""A server that is full sends requests away. Whoever comes back stands behind all who came meanwhile, or where it stood.

The schedule is the same for both: one slot, a request every second for work of a second, and a client that comes back as told,
always a moment after somebody else has come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import pytest

from dsort_worker.line import GRACE, Go, Line, Refused, Wait
from tests.support.dataendpoint import answering, connected, make_shards, slices_of
from tests.support.waiting import DEADLINE, until

ROUNDS: Final = 200
MOMENT: Final = 1e-3


class Server(Protocol):
    """Serves one at a time, lets one wait."""

    def ask(self, who: int, *, now: float) -> float | None:
        """None: it is served or waits; else the seconds after which to come back."""

    def turn(self, *, now: float) -> int | None:
        """Whoever is served has what he wanted; who is served now."""


@dataclass(slots=True)
class Naive:
    """Who comes when there is room is served, or waits. There is no memory of those who were sent away."""

    serving: int | None = None
    waiting: deque[int] = field(default_factory=deque)

    def ask(self, who: int, *, now: float) -> float | None:
        if self.serving is None:
            self.serving = who
        elif not self.waiting:
            self.waiting.append(who)
        else:
            return 1.0
        return None

    def turn(self, *, now: float) -> int | None:
        self.serving = self.waiting.popleft() if self.waiting else None
        return self.serving


@dataclass(slots=True)
class Product:
    """The same with the product's line: who was sent away has a ticket."""

    line: Line = field(default_factory=lambda: Line(slots=1, places=1, size=1 << 30))
    tickets: dict[int, int] = field(default_factory=dict)
    serving: int | None = None

    def ask(self, who: int, *, now: float) -> float | None:
        answer = self.line.ask(now=now, size=1, ticket=self.tickets.get(who))
        assert answer.ticket is not None
        self.tickets[who] = answer.ticket
        match answer:
            case Refused(_, retry_after):
                return retry_after
            case Go():
                self.serving = who
            case Wait():
                pass
        return None

    def turn(self, *, now: float) -> int | None:
        if self.serving is not None:
            self.line.done(self.tickets[self.serving], now=now)
        self.serving = None
        for answer in self.line.turns(now=now):
            assert isinstance(answer, Go)
            self.serving = next(who for who, ticket in self.tickets.items() if ticket == answer.ticket)
        return self.serving


def overtaken(server: Server) -> tuple[int, bool]:
    """How many that came after the victim were served before it, and whether it was served at all."""
    victim = -1
    server.ask(0, now=0.0)
    server.ask(1, now=0.0)
    comes_back = server.ask(victim, now=MOMENT)
    passed = 0
    assert comes_back is not None
    for second in range(1, ROUNDS):
        # The slot is free at `second`, and in the same moment the next one is there. The others are the patient ones of
        # many: each comes once.
        served = server.turn(now=float(second))
        if served == victim:
            return passed, True
        passed += served is not None and served > 1
        server.ask(second + 1, now=second + MOMENT)
        if comes_back is not None:
            comes_back = server.ask(victim, now=second + 2 * MOMENT)
    return passed, False


def test_naively_a_client_is_overtaken_again_and_again() -> None:
    passed, served = overtaken(Naive())
    assert not served
    assert passed > ROUNDS - 5


def test_with_a_ticket_nobody_who_came_later_is_served_before() -> None:
    assert overtaken(Product()) == (0, True)


CLIENTS: Final = 16
"""Four times as many as a slot and three places in the queue admit."""
AWAY: Final = 9


@pytest.mark.asyncio
async def test_over_the_wire_a_place_is_passed_only_when_its_client_stayed_away_for_longer_than_the_grace(
    tmp_path: Path,
) -> None:
    make_shards(tmp_path / "in", shards=1, size=8 << 20)
    served: dict[int, float] = {}
    refused: dict[int, float] = {}
    back = asyncio.Event()
    now = asyncio.get_running_loop().time

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(DEADLINE))
        endpoint = await stack.enter_async_context(answering(tmp_path / "in", slots=1, waiting=3))
        clients = [await stack.enter_async_context(connected(endpoint, receive=4096)) for _ in range(CLIENTS)]

        def has_come(number: int) -> bool:
            return endpoint.flow.queued == min(number, 3) and len(refused) == max(0, number - 3)

        async def come(number: int) -> None:
            client = clients[number]
            while (answer := await client.ask(slices_of((0, 512 * number, 512))))[0] == 503:
                refused.setdefault(number, now() + client.retry_after)
                if number == AWAY:
                    await back.wait()
                else:
                    await asyncio.sleep(client.retry_after)  # as it was told
            served[number] = now()
            await client.reader.readexactly(answer[1])

        status, length = await clients[0].ask(slices_of((0, 0, 8 << 20)))
        assert status == 200  # and it takes nothing yet
        async with asyncio.TaskGroup() as group:
            for number in range(1, CLIENTS):
                group.create_task(come(number))
                await until(partial(has_come, number))
            await clients[0].reader.readexactly(length)
            await until(lambda: len(served) == CLIENTS - 2)
            back.set()
    others = [number for number in range(1, CLIENTS) if number != AWAY]
    assert list(served) == [*others, AWAY]
    assert served[AWAY + 1] > refused[AWAY] + GRACE
