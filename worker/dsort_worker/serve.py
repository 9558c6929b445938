"""The data endpoint of a rank: its peers ask for steps, rows, cells and slices; every answer can be asked for again.

    POST /v1/steps/{step}    {"rank": r, "report": {...}}   rank 0 only: the step's decision, or 204 until all have reported
    POST /v1/rows/{rank}     the rows of this rank's shards in that rank's key range
    POST /v1/cell            the rows of this rank's first cell, for the rank where that shard began
    POST /v1/slices          the bytes of slices of input shards, one after the other

Long polls are bounded; payload goes out only because its receiver asked for it and holds the memory for it. A response has
two buffers set aside for it: while one is on the wire the other is filled in a thread. Steps are no payload: rank 0 holds
them without a slot, so they never wait behind data.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final

from aiohttp import web

from dsort_api.protocol import SPOKEN, refusal
from dsort_api.reasons import DSortError, Reason
from dsort_worker.admission import Admission, Busy, asked_by
from dsort_worker.causes import unexpected
from dsort_worker.decisions import Decisions
from dsort_worker.merge import Run
from dsort_worker.promise import Promise
from dsort_worker.rowstore import RowStore
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.sockets import SOCKET_BUFFER, listening_socket
from dsort_worker.sources import FilePart, ShardPart, Source
from dsort_worker.threads import ended
from dsort_worker.wire import (
    CHECKSUM_SIZE,
    EPOCH_HEADER,
    MOST_REQUEST,
    PLAN_HEADER,
    PROTOCOL_HEADER,
    TICKET_HEADER,
    Checksum,
    checksum_bytes,
    decode_slices,
    http_url,
    is_bearer,
)

log: Final = logging.getLogger("dsort.serve")

MOST_BODY: Final = 256 << 20
"""Bytes of a request body: a report of rank 0's steps or a slices request."""

_READ_SIZE: Final = 16 << 10
"""Bytes that are taken from a connection ahead of who reads them: what waits for a slot is not read."""

_KEPT_CONNECTIONS: Final = 64
"""Connections past which one that has brought its answer is closed: what a rank holds must not grow with their number."""

_SPOKEN: Final = frozenset(map(str, SPOKEN))


class Offers:
    """What this rank has for its peers; each becomes true at some step of the job."""

    def __init__(self) -> None:
        self.files: Promise[ShardFiles] = Promise()
        self.rows: Promise[tuple[RowStore, list[int]]] = Promise()
        self.cell: Promise[Run] = Promise()


class DataServer:
    """Serves one rank's offers."""

    def __init__(
        self,
        offers: Offers,
        *,
        job: str,
        epoch: str,
        token: str,
        admission: Admission,
        threads: Executor,
        decisions: Decisions | None,
        poll: float,
        silence: float,
        on_sent: Callable[[int], None],
        on_error: Callable[[DSortError], None],
        socket_buffer: int = SOCKET_BUFFER,
    ) -> None:
        self._offers = offers
        self._job = job
        self._epoch = epoch
        self._token = token
        self._admission = admission
        self._threads = threads
        self._decisions = decisions
        self._poll = poll
        self._silence = silence
        self._on_sent = on_sent
        self._on_error = on_error
        self._socket_buffer = socket_buffer
        self._runner: web.AppRunner | None = None

    async def start(self, *, host: str, port: int) -> str:
        """Listen; returns the url."""
        app = web.Application(client_max_size=MOST_BODY)
        for path, handler in (
            ("/v1/steps/{step}", self._step),
            ("/v1/rows/{rank}", self._rows),
            ("/v1/cell", self._cell),
            ("/v1/slices", self._slices),
        ):
            # No middleware: aiohttp keeps those of a thousand applications, with all that they hold.
            app.router.add_post(path, functools.partial(self._guard, handler=handler))
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=0.5,
            # Who hangs up gives up its place in the line, and its slot, at once.
            handler_cancellation=True,
            read_bufsize=_READ_SIZE,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listening_socket(host, port, size=self._socket_buffer)).start()
        return http_url(host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and end what is in progress."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        headers = request.headers
        if not is_bearer(headers, self._token):
            return web.Response(status=401, text="this rank wants its job's bearer token")
        if headers.get(PROTOCOL_HEADER) not in _SPOKEN:
            return web.Response(status=426, text=refusal(headers.get(PROTOCOL_HEADER)))
        if headers.get(PLAN_HEADER) != self._job or headers.get(EPOCH_HEADER) != self._epoch:
            return web.Response(status=409, text=f"this rank works on job {self._job} in epoch {self._epoch}")
        try:
            return await handler(request)
        except Busy as busy:
            answer = web.Response(
                status=503, headers={"Retry-After": f"{busy.retry_after:.2f}"}, text=str(busy)
            )
            if busy.ticket is not None:
                answer.headers[TICKET_HEADER] = str(busy.ticket)
            return answer
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        except DSortError as error:
            self._on_error(error)
            return web.Response(status=500, text=error.message)
        except (ConnectionError, TimeoutError, web.RequestPayloadError):
            # The receiver went away, or took nothing for too long: its own affair, and no news.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)
        except OSError as error:
            self._on_error(DSortError(Reason.OUTPUT_UNWRITABLE, f"scratch file: {error.strerror or error}"))
            return web.Response(status=500, text=str(error))
        except web.HTTPException:
            raise
        except Exception as error:  # asking again would not help: the rank ends, and says of what
            log.error("the answer to %s failed", request.path, exc_info=error)
            failure = unexpected(error, where=request.path)
            self._on_error(failure)
            return web.Response(status=500, text=failure.message)

    async def _step(self, request: web.Request) -> web.StreamResponse:
        if self._decisions is None:
            return web.Response(status=404, text="only rank 0 decides")
        match json.loads(await request.read()):
            case {"rank": int(rank), "report": dict(report)}:
                pass
            case _:
                raise ValueError("not a report of a rank")
        decision = await self._decisions.decide(
            request.match_info["step"], rank=rank, report=report, wait=self._poll
        )
        if decision is None:
            return web.Response(status=204)
        return web.Response(body=decision, content_type="application/json")

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        rank = int(request.match_info["rank"])
        offer = await self._offers.rows.get(wait=self._poll)
        if offer is None:
            return web.Response(status=204)
        store, cuts = offer
        if not 0 <= rank < len(cuts) - 1:
            raise ValueError(f"no rank {rank} has a key range")
        header, sections = store.sections(cuts[rank], cuts[rank + 1])
        return await self._respond(request, FilePart(store.fd, header, sections))

    async def _cell(self, request: web.Request) -> web.StreamResponse:
        head = await self._offers.cell.get(wait=self._poll)
        if head is None:
            return web.Response(status=204)
        header, sections = head.store.sections(head.low, head.high)
        return await self._respond(request, FilePart(head.store.fd, header, sections))

    async def _slices(self, request: web.Request) -> web.StreamResponse:
        files = await self._offers.files.get(wait=self._poll)
        if files is None:
            return web.Response(status=204)
        if not 0 < (request.content_length or 0) <= MOST_REQUEST:
            raise ValueError(f"a slices request of {request.content_length} bytes")
        async with self._admission.slot(asked_by(request.headers)) as buffers:
            async with asyncio.timeout(self._silence):
                slices = decode_slices(await request.read())
            if len(slices) and int(slices.shard.max()) >= len(files):
                raise ValueError(f"shard {int(slices.shard.max())} is not in the listing")
            return await self._stream(request, ShardPart(files, slices), buffers)

    async def _respond(self, request: web.Request, source: Source) -> web.StreamResponse:
        """Send a source, with a slot of admission for as long as it takes."""
        async with self._admission.slot(asked_by(request.headers, size=source.size)) as buffers:
            return await self._stream(request, source, buffers)

    async def _stream(
        self, request: web.Request, source: Source, buffers: tuple[memoryview, memoryview]
    ) -> web.StreamResponse:
        """Send a source and its checksum."""
        response = web.StreamResponse()
        response.content_length = source.size + CHECKSUM_SIZE
        if self._connections() > _KEPT_CONNECTIONS:
            response.force_close()
        if request.transport is not None:
            # A buffer is filled again once it was sent: it must have left the transport by then.
            request.transport.set_write_buffer_limits(high=0)
        try:
            await self._send_source(request, response, source, buffers)
        except BaseException:
            if response.prepared and request.transport is not None:
                # The receiver must not take an answer about the error for payload; and what the transport has not
                # sent lies in a buffer that is somebody else's from now on.
                request.transport.abort()
            raise
        return response

    def _connections(self) -> int:
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    async def _send_source(
        self,
        request: web.Request,
        response: web.StreamResponse,
        source: Source,
        buffers: tuple[memoryview, memoryview],
    ) -> None:
        """Fill one buffer while the other is on the wire."""
        loop = asyncio.get_running_loop()
        checksum = Checksum()
        size, step = source.size, len(buffers[0])

        def fill(buffer: memoryview, low: int) -> memoryview:
            view = buffer[: min(step, size - low)]
            source.read(low, low + len(view), view)
            checksum.update(view)
            return view

        filling: asyncio.Future[memoryview] | None = None
        try:
            for index, low in enumerate(range(0, size, step)):
                if filling is None:
                    filling = loop.run_in_executor(self._threads, fill, buffers[0], low)
                view = await asyncio.shield(filling)
                if not index:
                    await response.prepare(request)
                filling = None
                if low + step < size:
                    filling = loop.run_in_executor(self._threads, fill, buffers[(index + 1) % 2], low + step)
                await self._send(request, response, view)
                self._on_sent(len(view))
            if not response.prepared:
                await response.prepare(request)
            await self._send(request, response, checksum_bytes(checksum))
            await response.write_eof()
        finally:
            if filling is not None:
                await ended(filling)  # a thread still writes to a buffer: it is ours until then

    async def _send(
        self, request: web.Request, response: web.StreamResponse, piece: memoryview | bytes
    ) -> None:
        """Write, and return when the transport has taken all of it; a receiver that takes nothing loses its slot."""
        async with asyncio.timeout(self._silence):
            await response.write(piece)
            await request.writer.drain()  # aiohttp itself waits for large pieces only
