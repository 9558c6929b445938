"""A rank's data endpoint by itself: the product's server, admission and buffers, with input shards of random bytes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from dsort_api.messages import PROTOCOL
from dsort_api.reasons import DSortError
from dsort_worker.admission import Admission
from dsort_worker.decisions import Decisions
from dsort_worker.gather import Slices
from dsort_worker.listing import pin
from dsort_worker.serve import DataServer, Offers
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.state import Flowing
from dsort_worker.wire import SIZE_HEADER, TICKET_HEADER, encode_slices
from tests.support.waiting import DEADLINE

PIECE: Final = 128 << 10

HEADERS: Final = {
    "Host": "x",
    "Authorization": "Bearer secret",
    "X-Dsort-Job": "job",
    "X-Dsort-Epoch": "e1",
    "X-Dsort-Protocol": str(PROTOCOL),
}


@dataclass(slots=True)
class Endpoint:
    """A rank that answers. sent: the payload that left it, piece by piece."""

    admission: Admission
    flow: Flowing
    url: str = ""
    sent: list[int] = field(default_factory=list)
    errors: list[DSortError] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


def make_shards(folder: Path, *, shards: int, size: int) -> None:
    """Shards of random bytes; no archives, as nobody here looks into them."""
    folder.mkdir()
    for number in range(shards):
        (folder / f"{number}.tar").write_bytes(np.random.default_rng(number).bytes(size))


def slices_of(*entries: tuple[int, int, int]) -> Slices:
    """Slices: shard, offset, length."""
    columns = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    return Slices(columns[0], columns[1], columns[2])


@asynccontextmanager
async def answering(
    folder: Path,
    *,
    slots: int,
    waiting: int,
    silence: float = DEADLINE,
    decisions: Decisions | None = None,
) -> AsyncIterator[Endpoint]:
    """Serve the shards of a folder over loopback."""
    files = ShardFiles([pin(str(folder), name) for name in sorted(os.listdir(folder))], root=str(folder))
    flow = Flowing()
    endpoint = Endpoint(Admission(slots=slots, piece=PIECE, waiting=waiting, flow=flow), flow)
    offers = Offers()
    offers.files.set(files)
    with ThreadPoolExecutor(2) as threads:
        server = DataServer(
            offers,
            job="job",
            epoch="e1",
            token="secret",
            admission=endpoint.admission,
            threads=threads,
            decisions=decisions,
            poll=0.05,
            silence=silence,
            on_sent=endpoint.sent.append,
            on_error=endpoint.errors.append,
        )
        endpoint.url = await server.start(host="127.0.0.1", port=0)
        try:
            yield endpoint
        finally:
            await server.stop()
            endpoint.admission.close()
            files.close()


@dataclass(slots=True)
class Client:
    """One connection to an endpoint, by hand: it takes nothing unless it is told to.

    ticket: of the last refusal; retry_after: what came with it.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ticket: str | None = None
    retry_after: float = 0.0

    async def post(self, path: str, body: bytes, *, size: int | None = None) -> tuple[int, int]:
        """Ask; the status and the length of the answer. The answer of a refusal is read."""
        headers = {**HEADERS, "Content-Length": str(len(body))}
        if self.ticket is not None:
            headers[TICKET_HEADER] = self.ticket
        if size is not None:
            headers[SIZE_HEADER] = str(size)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        head, *lines_back = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        answer = dict(line.lower().split(": ", 1) for line in lines_back)
        status, length = int(head.split()[1]), int(answer.get("content-length", 0))
        if status == 503:
            await self.reader.readexactly(length)
            self.ticket = answer.get(TICKET_HEADER.lower())
            self.retry_after = float(answer["retry-after"])
        return status, length

    async def ask(self, slices: Slices) -> tuple[int, int]:
        """Ask for slices, see `post`."""
        return await self.post("/v1/slices", encode_slices(slices), size=slices.size)


@asynccontextmanager
async def connected(endpoint: Endpoint, *, receive: int | None = None) -> AsyncIterator[Client]:
    """A connection; receive: bytes of the socket's buffer."""
    one = socket.socket()
    if receive is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", endpoint.port))
    reader, writer = await asyncio.open_connection(sock=one, limit=1024)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
