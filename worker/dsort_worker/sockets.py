"""Sockets whose buffers have a stated size.

The kernel charges what lies in a socket's buffers to the control group, and by itself lets one connection have up to tens of
MiB (tcp_rmem, tcp_wmem). Requests are few and in parallel, so this much for each fills the wires of a data centre.
"""

from __future__ import annotations

import socket
from typing import Any, Final

SOCKET_BUFFER: Final = 256 << 10
"""Bytes of payload in one direction, at the least; the kernel doubles it for its own accounts (socket(7), SO_RCVBUF)."""

LARGE_SOCKET_BUFFER: Final = 2 << 20
"""The same where there is memory for it: a sixth more throughput over the loopback, where one MiB gains nothing."""

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""An answer of getaddrinfo(3)."""


def client_socket(address: AddressInfo, *, size: int = SOCKET_BUFFER) -> socket.socket:
    """A socket to connect to `address` with. Its buffer is set before it connects, as the window's scale depends on it."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    except BaseException:
        made.close()
        raise
    return made


def listening_socket(host: str, port: int, *, size: int = SOCKET_BUFFER) -> socket.socket:
    """A socket that listens; its connections inherit the bound on what they send. Raises OSError."""
    # As text, the name would go through the interpreter's IDNA codec, which a rank has no other use for: 3 ms of its start.
    name = host.encode() if host.isascii() else host
    family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    made = socket.create_server(address[:2], family=family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return made
