"""Admission: how many responses a rank has in progress, who waits, and who is told to come back.

A fixed number of slots, each with two buffers that were set aside at start, so that serving never waits for receiving. Who
gets the next one is decided by the line (see `line`); here its answers become waiting and waking. A rank serves one job, so
the line of the job and the line of all are the same.

What waits here holds its connection and nothing else: the body of a request is read when it has a slot.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from dsort_worker.budget import Buffers
from dsort_worker.line import Answer, Go, Line, Refused, Wait
from dsort_worker.state import Flowing
from dsort_worker.wire import DEADLINE_HEADER, PROTOCOL_HEADER, SIZE_HEADER, TICKET_HEADER

MOST_WAITING: Final = 256 << 20
"""Bytes that the requests which are held may ask for: what is past that takes seconds to be served, and they may be away."""


class Busy(Exception):
    """No slot, and no place to wait for one. retry_after: seconds; ticket: keeps the place meanwhile, where there is one."""

    def __init__(self, retry_after: float, *, ticket: int | None) -> None:
        super().__init__(f"busy, come back in {retry_after:.2f} s")
        self.retry_after = retry_after
        self.ticket = ticket


class Asked(NamedTuple):
    """A request for payload, as far as its turn depends on it.

    size: bytes asked for, 0: not known. ticket: of Busy, when it was refused before. deadline: seconds that the asker is going
    to wait. takes_ticket: whether the asker can come back with one.
    """

    size: int = 0
    ticket: int | None = None
    deadline: float | None = None
    takes_ticket: bool = True


def asked_by(headers: Mapping[str, str], *, size: int | None = None) -> Asked:
    """What the headers of a request say of it. size: of the answer, where it is known here. Raises ValueError."""
    ticket, deadline = headers.get(TICKET_HEADER), headers.get(DEADLINE_HEADER)
    if deadline is not None and math.isnan(float(deadline)):
        raise ValueError(f"{DEADLINE_HEADER} is not a number of seconds")
    return Asked(
        size=max(0, int(headers.get(SIZE_HEADER, 0))) if size is None else size,
        ticket=None if ticket is None else int(ticket),
        deadline=None if deadline is None else float(deadline),
        takes_ticket=headers.get(PROTOCOL_HEADER) != "1",
    )


class Admission:
    """Slots for responses with two buffers of `piece` bytes each, and the line for them. Belongs to one event loop.

    waiting, waiting_bytes: requests that may be held, and bytes that they may ask for. flow: where the figures are shown.
    """

    def __init__(
        self, *, slots: int, piece: int, waiting: int, flow: Flowing, waiting_bytes: int = MOST_WAITING
    ) -> None:
        self._buffers = Buffers(count=2 * slots, size=piece)
        self._line = Line(slots=slots, places=waiting, size=waiting_bytes)
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, asyncio.Future[Go | Refused]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests that are held."""
        return self._line.present

    @asynccontextmanager
    async def slot(self, asked: Asked) -> AsyncIterator[tuple[memoryview, memoryview]]:
        """Two buffers for one response. Raises Busy when there is no place to wait for them."""
        mine = await self._admitted(asked)
        try:
            async with self._buffers.lend() as one, self._buffers.lend() as other:
                yield one, other
        finally:
            self._line.done(mine, now=self._loop.time())
            self._settle()

    def close(self) -> None:
        """Give the buffers back."""
        if self._timer is not None:
            self._timer.cancel()
        self._buffers.close()

    async def _admitted(self, asked: Asked) -> int:
        """Wait for a slot; the ticket that holds it."""
        now = self._loop.time()
        answer: Answer = self._line.ask(
            now=now, size=asked.size, ticket=asked.ticket, deadline=asked.deadline
        )
        if isinstance(answer, Wait):
            answer = await self._turn(answer.ticket)
        self._settle()
        if isinstance(answer, Refused):
            self._flow.refused += 1
            ticket = answer.ticket
            if ticket is not None and not asked.takes_ticket:
                self._line.leave(ticket)
                ticket = None
            raise Busy(answer.retry_after, ticket=ticket)
        return answer.ticket

    async def _turn(self, ticket: int) -> Go | Refused:
        """Wait for the line's word on a request that is held."""
        turn: asyncio.Future[Go | Refused] = self._loop.create_future()
        self._held[ticket] = turn
        self._settle()
        try:
            return await turn
        except asyncio.CancelledError:
            if self._line.serves(ticket):  # it was told to go in the same moment
                self._line.done(ticket, now=self._loop.time())
            else:
                self._line.leave(ticket)
            self._settle()
            raise
        finally:
            del self._held[ticket]

    def _settle(self) -> None:
        """Wake those whose wait is over, and look again when the line says so."""
        for answer in self._line.turns(now=self._loop.time()):
            assert answer.ticket is not None  # who was held has one
            turn = self._held[answer.ticket]
            if not turn.done():  # it is cancelled: what waited for it gives the slot back
                turn.set_result(answer)
        self._flow.serving, self._flow.queued = self._line.serving, self._line.present
        if self._timer is not None:
            self._timer.cancel()
        due = self._line.due()
        self._timer = None if due is None else self._loop.call_at(due, self._settle)
