"""The links between ranks, as slow, still or broken as a test wants them: TCP proxies in front of the ranks' data endpoints.

Each rank is reached through one listener, whatever process it is in. Who asks is read from the first request of a connection
(ranks keep connections to themselves), so a rank can be slow in both directions: when it answers and when it asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

PIECE: Final = 64 << 10
"""Bytes that a proxy holds of a connection at the most, twice."""

_ASKER: Final = re.compile(rb"\r\nX-Dsort-Rank: (\d+)\r\n")


@dataclass(slots=True)
class Pace:
    """A line that carries no more than `rate` bytes a second."""

    rate: float
    carried: int = 0
    _free: float = 0.0

    async def take(self, size: int) -> None:
        """Return when the line has carried `size` more bytes."""
        self.carried += size
        self._free = max(self._free, time.monotonic()) + size / self.rate
        await asyncio.sleep(self._free - time.monotonic())


@dataclass(slots=True)
class Incident:
    """Happens once, when `rank` has answered with so many bytes, in the middle of a body.

    action: called then. seconds: the rank's line carries nothing for so long after it.
    """

    rank: int
    after: int
    seconds: float = 0.0
    action: Callable[[], None] = lambda: None
    happened: bool = False
    held: int = 0
    """Connections that stood still."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Links:
    """Proxies of `ranks` ranks, in a thread. A context manager.

    paces: of slow ranks. answered: bytes that each rank has answered with, by rank.
    """

    def __init__(self, *, ranks: int, paces: dict[int, Pace], incidents: list[Incident]) -> None:
        self.paces = paces
        self.incidents = incidents
        self.answered = dict.fromkeys(range(ranks), 0)
        self.errors: list[BaseException] = []
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(ranks)]
        self._urls = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in self._listeners]
        self._behind: dict[int, str] = {}
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._group: asyncio.TaskGroup

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert self.errors == []

    def front(self, rank: int, url: str) -> str:
        """The url through which `rank`, which is at `url` now, is to be reached."""
        self._behind[rank] = url
        return self._urls[rank]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.errors.append(error)
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for rank, listener in enumerate(self._listeners):
                await stack.enter_async_context(
                    await asyncio.start_server(partial(self._connected, rank), sock=listener, limit=PIECE)
                )
            self._ready.set()
            await self._stop.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    async def _connected(
        self, asked: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection until either side ends it; then it breaks for the other."""
        behind = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asker = _ASKER.search(head)
            assert asker is not None, head
            ranks = (asked, int(asker[1]))
            address = urlsplit(self._behind[asked])
            behind_reader, behind = await asyncio.open_connection(address.hostname, address.port, limit=PIECE)
            behind.write(head)
            pumps = {
                asyncio.ensure_future(self._pump(reader, behind, ranks=ranks)),
                asyncio.ensure_future(self._pump(behind_reader, writer, ranks=ranks, answers=asked)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the rank behind is gone, or the asker is
        finally:
            for end in (writer, behind):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        ranks: tuple[int, int],
        answers: int | None = None,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                for rank in ranks:
                    if rank in self.paces:
                        await self.paces[rank].take(len(piece))
                if answers is not None:
                    self.answered[answers] += len(piece)
                half = len(piece) // 2
                writer.write(piece[:half])
                for incident in self.incidents:
                    if incident.rank in ranks:
                        await self._meet(incident)
                writer.write(piece[half:])
                await writer.drain()

    async def _meet(self, incident: Incident) -> None:
        """Half of a piece is on its way, so this is the middle of something."""
        if not incident.happened:
            if self.answered[incident.rank] < incident.after:
                return
            incident.happened = True
            incident.action()
            self._loop.call_later(incident.seconds, incident.over.set)
        if not incident.over.is_set():
            incident.held += 1
            await incident.over.wait()
