"""Sockets with buffers of a stated size: a receiver that takes nothing costs the kernel little memory."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dsort_worker.sockets import SOCKET_BUFFER, client_socket, listening_socket
from tests.support.tcpserver import serving

PATIENCE = 20.0


async def stalled(*, bounded: bool) -> int:
    """Bytes that the kernel takes for a receiver that reads nothing."""
    sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        transport.set_write_buffer_limits(high=0)
        count = 0
        try:
            while True:  # what is in the transport's own buffer is not the kernel's
                writer.write(bytes(64 << 10))
                async with asyncio.timeout(0.3):
                    await writer.drain()
                count += 64 << 10
        except TimeoutError:
            sent.set_result(count)
        transport.abort()

    made = listening_socket("127.0.0.1", 0) if bounded else socket.create_server(("127.0.0.1", 0))
    async with serving(flood, sock=made) as address:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "", address)
        client = client_socket(kind) if bounded else socket.socket(*kind[:3])
        with client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, address)
            async with asyncio.timeout(PATIENCE):
                return await sent


def test_a_receiver_that_takes_nothing_holds_four_buffers_at_the_most_in_the_kernel() -> None:
    """Two of each end's, as the kernel doubles what it is asked for."""
    assert asyncio.run(stalled(bounded=True)) <= 4 * SOCKET_BUFFER


def test_the_kernel_would_take_more() -> None:
    """The naive variant: sockets as they come."""
    assert asyncio.run(stalled(bounded=False)) > 4 * SOCKET_BUFFER


def test_it_listens_on_either_kind_of_address() -> None:
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with listening_socket(host, 0) as made:
            assert made.family == family
            assert made.getsockname()[0] == host


def test_a_socket_that_cannot_be_made_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    class Refusing(socket.socket):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            made.append(self)

        def setsockopt(self, *args: object) -> None:
            raise OSError("no")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(OSError, match="no"):
        client_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)))
    assert made[0].fileno() == -1
