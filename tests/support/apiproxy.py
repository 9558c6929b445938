"""A proxy in front of the API server that counts, delays, refuses and loses requests as a test wants it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web

from tests.support.apiserver import ControlPlane

MUTATING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}
)


@dataclass(frozen=True, slots=True)
class Call:
    """A request. number: from 1, of those that change something; 0 for the others."""

    method: str
    path: str
    number: int
    is_watch: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class Faults:
    """What goes wrong now. delay: seconds before each request. refuse: the status to answer with, -1 to break the connection, or None.

    answered: called with the status after the server has answered and before the client hears of it; returns whether it may.
    gone: watches are answered with 410 Gone.
    """

    delay: float = 0.0
    refuse: Callable[[Call], int | None] = lambda _: None
    answered: Callable[[Call, int], bool] = lambda _, __: True
    gone: bool = False


class ApiProxy:
    """Listens on loopback without TLS, in a thread. A context manager."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.faults = Faults()
        self.calls: list[Call] = []
        self.url = ""
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._session: aiohttp.ClientSession
        self._streams: set[asyncio.Task[object]] = set()
        self._changes = 0
        self._thread = threading.Thread(target=self._run, name="api proxy", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def cut(self) -> None:
        """Break the connection of every watch."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._streams])

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await self._serve()
            await asyncio.sleep(0.2)  # for the TLS connections to say goodbye

        asyncio.run(serve())

    async def _serve(self) -> None:
        trust = ssl.create_default_context(cafile=self.plane.authority)
        connector = aiohttp.TCPConnector(limit=0, ssl=trust)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            app = web.Application(client_max_size=1 << 26)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                self._ready.set()
                await self._stop.wait()
                for task in self._streams:
                    task.cancel()
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        changes = request.method in MUTATING
        self._changes += changes
        call = Call(
            request.method,
            request.path,
            self._changes if changes else 0,
            request.query.get("watch") == "true",
        )
        self.calls.append(call)
        faults = self.faults
        if faults.delay:
            await asyncio.sleep(faults.delay)
        refused = faults.refuse(call)
        if refused == -1 and request.transport is not None:
            request.transport.abort()
        if refused is not None:
            status = {
                "kind": "Status",
                "status": "Failure",
                "code": refused,
                "reason": "Injected",
                "message": "injected",
            }
            return web.json_response(status, status=max(refused, 429))
        if call.is_watch and faults.gone:
            gone = {
                "kind": "Status",
                "status": "Failure",
                "code": 410,
                "reason": "Expired",
                "message": "too old",
            }
            return web.Response(text=json.dumps({"type": "ERROR", "object": gone}) + "\n")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        try:
            async with self._session.request(
                request.method,
                f"{self.plane.url}{request.path_qs}",
                data=await request.read() or None,
                headers=headers,
                skip_auto_headers=("Content-Type", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer:
                return await self._pass_on(request, call, answer)
        except aiohttp.ClientError:
            if request.transport is not None:
                request.transport.abort()
            raise web.HTTPBadGateway from None

    async def _pass_on(
        self, request: web.Request, call: Call, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        if not call.is_watch:
            body = await answer.read()
            if not self.faults.answered(call, answer.status) and request.transport is not None:
                request.transport.abort()
            return web.Response(status=answer.status, body=body, headers=kept)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response
        finally:
            self._streams.discard(task)
