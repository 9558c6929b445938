"""Taking a stream in: its length is what was asked for, its pieces go to their places, its checksum is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import aiohttp

from dsort_worker.wire import CHECKSUM_SIZE, Checksum, checksum_bytes


class Sink(Protocol):
    """Takes the payload of a stream, piece by piece."""

    def feed(self, piece: memoryview) -> None:
        """Copy the piece to its place."""


class Broken(Exception):
    """A request that failed and may be made again; the message says how."""


async def receive_stream(
    response: aiohttp.ClientResponse, sink: Sink, *, size: int | None, came: Callable[[int], None]
) -> None:
    """Feed the payload to `sink` as it comes, and tell `came` the bytes of each piece.

    size: bytes that the payload must have, where the asker knows. Raises Broken for what is not the stream that was asked for,
    and what aiohttp raises when the connection ends.
    """
    length = response.content_length
    if length is None or length < CHECKSUM_SIZE or (size is not None and length != size + CHECKSUM_SIZE):
        raise Broken(f"a stream of {length} bytes where {size} and a checksum were asked for")
    left = length - CHECKSUM_SIZE
    checksum = Checksum()
    tail = bytearray()
    content = response.content
    while True:
        piece, _ = await content.readchunk()
        if not piece:
            break
        view = memoryview(piece)
        if len(view) > left:
            tail += view[left:]
            view = view[:left]
        left -= len(view)
        if len(view):
            checksum.update(view)
            try:
                sink.feed(view)
            except ValueError as error:
                raise Broken(str(error)) from None
            came(len(view))
    if left or bytes(tail) != checksum_bytes(checksum):
        raise Broken(
            "the checksum of the stream is wrong" if not left else f"the stream ended {left} bytes early"
        )
