"""Requests to the other ranks: idempotent reads, retried until they succeed, the job ends, or the peer stays away too long.

A request is addressed to a rank in an epoch. When the rank was replaced, the old epoch is refused and the asker waits for the
next peer table; one that vanished with its address refuses nothing, so the next peer table ends what it was asked. Nothing is
consumed by being read, so a request that broke is simply made again.

A peer that has no slot for a request refuses it, says when to come back, and gives a ticket that holds the place until then.
The asker does as it is told, with jitter, so that those who were refused together do not come together.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Self, TypeVar

import aiohttp

from dsort_api.messages import PROTOCOL, Peer, PeerTable
from dsort_api.protocol import other_version
from dsort_api.reasons import DSortError, Reason
from dsort_worker.flows import Flows
from dsort_worker.intake import Broken, Sink, receive_stream
from dsort_worker.line import JITTER
from dsort_worker.sockets import SOCKET_BUFFER, client_socket
from dsort_worker.wire import (
    DEADLINE_HEADER,
    EPOCH_HEADER,
    FROM_HEADER,
    PLAN_HEADER,
    PROTOCOL_HEADER,
    SIZE_HEADER,
    TICKET_HEADER,
)

T = TypeVar("T")
S = TypeVar("S", bound=Sink)

READ_SIZE: Final = 64 << 10
"""Bytes that the client buffers of a response before it stops reading. Little: what was received is still in the processor's
cache when it is placed (a tenth less processor time than with 256 KiB)."""

_FIRST_DELAY: Final = 0.05
_MOST_DELAY: Final = 2.0
_LONGEST_HINT: Final = 60.0
_FIRST_BYTE: Final = 0.8
"""Of the time without a byte after which a request is given up: the part in which the peer may begin to answer."""


class Patience(NamedTuple):
    """How long requests wait, in seconds.

    peer: a peer that cannot be reached or makes no progress fails the rank after that; whoever drives the ranks replaces a
    dead one much earlier. silence: without a byte; who takes nothing of what it asked for loses its slot after that. poll: how
    long a peer holds a question that it cannot answer yet.
    """

    connect: float = 5.0
    silence: float = 60.0
    peer: float = 600.0
    poll: float = 10.0


class NotReady(Exception):
    """The peer has not come that far (204), or is busy (503): ask again after `delay` seconds, it is alive.

    ticket: holds the asker's place with a busy peer.
    """

    def __init__(self, delay: float, *, ticket: str | None = None) -> None:
        super().__init__("not ready")
        self.delay = delay
        self.ticket = ticket


class _Patience:
    """With one peer, for one question. `delay` is the pause before the next attempt."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.heard()

    def heard(self) -> None:
        """The peer is alive: patience begins anew."""
        self._until, self.delay = time.monotonic() + self._seconds, _FIRST_DELAY

    def pass_over(self, seconds: float) -> None:
        """The peer was not asked for so long."""
        self._until += seconds

    @property
    def is_over(self) -> bool:
        """Whether the peer has been silent for too long."""
        return time.monotonic() > self._until


class Peers:
    """Knows where the other ranks are, and asks them."""

    def __init__(
        self,
        *,
        rank: int,
        job: str,
        token: str,
        flows: Flows,
        patience: Patience,
        on_received: Callable[[int], None],
        socket_buffer: int = SOCKET_BUFFER,
    ) -> None:
        self._rank = rank
        self._patience = patience
        self._on_received = on_received
        self._socket_factory = functools.partial(client_socket, size=socket_buffer)
        self._table: PeerTable | None = None
        self._newer = asyncio.Event()
        self._under_way: dict[int, set[asyncio.Timeout]] = {}
        """The attempts that have not ended yet, by the rank that they are made to."""
        self._flows = flows
        self._random = random.Random(rank)
        self._headers = {"Authorization": f"Bearer {token}", PLAN_HEADER: job, FROM_HEADER: str(rank)}
        self._spoken: dict[str, int] = {}
        """By epoch, the protocol of those that do not speak the newest."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=30.0, socket_factory=self._socket_factory
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._patience.connect, sock_read=self._patience.silence
            ),
            headers=self._headers,
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Accept"),
            read_bufsize=READ_SIZE,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def update(self, table: PeerTable) -> None:
        """A new peer table. What is asked of a rank that was replaced is asked of its successor."""
        before, self._table = self._table, table
        self._newer.set()
        for old, new in zip(before.peers if before else (), table.peers, strict=False):
            if old.epoch != new.epoch:
                for attempt in self._under_way.pop(old.rank, ()):
                    attempt.reschedule(0.0)

    async def known(self) -> PeerTable:
        """The peer table, as soon as there is one."""
        while self._table is None:
            self._newer.clear()
            await self._newer.wait()
        return self._table

    async def post_json(self, rank: int, path: str, body: bytes) -> bytes:
        """POST a JSON body until the peer answers 200; the answer's body."""

        async def attempt(peer: Peer, _: _Patience) -> bytes:
            headers = {"Content-Type": "application/json"}
            async with self._request(peer, path, body, headers) as response:
                await self._check(response, peer)
                return await response.read()

        return await self._persist(rank, path, attempt)

    async def stream(
        self, rank: int, path: str, *, body: bytes = b"", sink: Callable[[], S], size: int | None = None
    ) -> S:
        """Ask for a stream until it has come whole with the right checksum; the sink that has it.

        sink: makes a fresh sink for each attempt. size: bytes that the payload must have, where the asker knows.
        """
        headers = {
            "Content-Type": "application/octet-stream",
            DEADLINE_HEADER: f"{self._patience.silence * _FIRST_BYTE:.1f}",
        }
        if size is not None:
            headers[SIZE_HEADER] = str(size)

        epoch, place = "", dict[str, str]()

        async def attempt(peer: Peer, patience: _Patience) -> S:
            nonlocal epoch, place
            if peer.epoch != epoch:
                epoch, place = peer.epoch, {}  # the line ended with the life of the rank that it was in
            # The flow is kept while the peer keeps the place: a slot waits there for who has it, and whoever had to wait for a
            # flow to come back with could wait for one that is held behind that very place.
            began = time.monotonic()
            async with self._flows.request(rank, size=size or 0) as came:
                patience.pass_over(time.monotonic() - began)

                def arrived(piece: int) -> None:
                    patience.heard()
                    self._on_received(piece)
                    came(piece)

                while True:
                    try:
                        async with self._request(peer, path, body, headers | place) as response:
                            await self._check(response, peer)
                            into = sink()
                            await receive_stream(response, into, size=size, came=arrived)
                            return into
                    except NotReady as answer:
                        if answer.ticket is None:
                            place = {}
                            raise
                        patience.heard()
                        place = {TICKET_HEADER: answer.ticket}
                        await asyncio.sleep(self._jittered(answer.delay))

        return await self._persist(rank, path, attempt)

    def _request(
        self, peer: Peer, path: str, body: bytes, headers: dict[str, str]
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            raise RuntimeError("Peers is used outside its block")
        named = {EPOCH_HEADER: peer.epoch, PROTOCOL_HEADER: str(self._version(peer))}
        return self._session.post(peer.url + path, data=body, headers=headers | named)

    def _version(self, peer: Peer) -> int:
        return self._spoken.get(peer.epoch, PROTOCOL)

    async def _check(self, response: aiohttp.ClientResponse, peer: Peer) -> None:
        match response.status:
            case 200:
                return
            case 204:
                raise NotReady(0.0)
            case 503:
                delay = _seconds(response.headers.get("Retry-After", ""))
                raise NotReady(delay, ticket=response.headers.get(TICKET_HEADER))
            case 426:
                words, before = await response.text(), int(response.request_info.headers[PROTOCOL_HEADER])
                other = other_version(words, than=before)
                if other is None or other > before:
                    raise DSortError(
                        Reason.PROTOCOL_MISMATCH, f"rank {peer.rank} refused protocol {before}: {words}"
                    )
                self._spoken[peer.epoch] = other
                raise NotReady(0.0)
            case status:
                raise Broken(f"{status} {(await response.text())[:300]}")

    async def _persist(self, rank: int, path: str, attempt: Callable[[Peer, _Patience], Awaitable[T]]) -> T:
        """Attempt until it succeeds. An attempt says whenever the peer has said something."""
        patience = _Patience(self._patience.peer)
        while True:
            table = await self.known()
            try:
                async with asyncio.timeout(None) as under_way:
                    self._under_way.setdefault(rank, set()).add(under_way)
                    try:
                        return await attempt(table.peers[rank], patience)
                    finally:
                        self._under_way.get(rank, set()).discard(under_way)
            except NotReady as answer:
                patience.heard()
                await self._pause(self._jittered(answer.delay), table)
            except (Broken, aiohttp.ClientError, TimeoutError, OSError) as error:
                if patience.is_over:
                    raise DSortError(
                        Reason.PEER_LOST,
                        f"rank {rank} did not answer {path} for {self._patience.peer:.0f} s: "
                        f"{type(error).__name__}: {error}",
                    ) from None
                await self._pause(patience.delay * self._random.uniform(0.5, 1.5), table)
                patience.delay = min(patience.delay * 2, _MOST_DELAY)

    def _jittered(self, hint: float) -> float:
        """A peer's hint, so that those who were sent away together do not come together."""
        return hint * self._random.uniform(1.0, 1.0 + JITTER)

    async def _pause(self, seconds: float, table: PeerTable) -> None:
        """Wait, but not past a newer peer table."""
        if not seconds:
            return
        try:
            async with asyncio.timeout(seconds):
                while self._table is table:
                    self._newer.clear()
                    await self._newer.wait()
        except TimeoutError:
            return


def _seconds(retry_after: str) -> float:
    """The hint of a 503; half a second where there is none that is a number (a proxy may have written it)."""
    try:
        return min(max(float(retry_after), 0.0), _LONGEST_HINT)
    except ValueError:
        return 0.5
