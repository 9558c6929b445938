"""/healthz and /readyz for the kubelet, and /metrics for Prometheus.

They are answered on the operator's own event loop: when that is stuck there is no answer, and the probe fails by its
timeout. Every watch is begun anew about once a minute; one that was not for too long is dead, whatever its connection looks
like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp import web

from dsort_operator.metrics import CONTENT_TYPE, Metrics

WATCH_SECONDS: Final = 60
"""How long a watch lasts; the server ends it then, and the next one goes on where it was."""
STALE_SECONDS: Final = 180.0
"""Three times as long as a watch lasts."""


@dataclass(slots=True)
class Watches:
    """When each watch was heard last, by the path of its collection. Fed by the session that kopf watches with.

    Until `expect` was called nothing is watched, and nothing is stale.
    """

    stale_seconds: float = STALE_SECONDS
    clock: Callable[[], float] = time.monotonic
    listed_again: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a watch had to begin from a list once more: what went since it broke off is in no event."""
    _heard: dict[str, float] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)

    def expect(self, paths: Iterable[str]) -> None:
        """These are watched from now on."""
        self._heard = dict.fromkeys(paths, self.clock())

    def hear(self, path: str) -> None:
        """Something came from the server for this collection."""
        if path in self._heard:
            self._heard[path] = self.clock()
            self._begun.add(path)

    def stale(self) -> list[str]:
        """The watches that are dead, or were never alive for so long."""
        now = self.clock()
        return [path for path, heard in self._heard.items() if now - heard > self.stale_seconds]

    @property
    def complete(self) -> bool:
        """Whether every watch was heard at least once."""
        return self._heard.keys() <= self._begun

    def tracing(self) -> aiohttp.TraceConfig:
        """What tells each answer of the session that is a success to `hear`.

        Pieces of a stream are not traced by aiohttp; so a watch must be begun anew every minute or so.
        """
        tracing = aiohttp.TraceConfig()

        async def answered(_: object, __: object, params: aiohttp.TraceRequestEndParams) -> None:
            if params.response.status == 200:
                if "watch" not in params.url.query and params.url.path in self._begun:
                    self.listed_again.set()
                self.hear(params.url.path)

        tracing.on_request_end.append(answered)
        return tracing


@dataclass(slots=True)
class Probes:
    """What the probes answer. waiting: this replica does not lead, and is as ready as it can be."""

    watches: Watches
    metrics: Metrics
    waiting: bool = False

    def health(self) -> str:
        """What is wrong; "" when nothing is."""
        stale = self.watches.stale()
        return f"nothing heard from the watch of {', '.join(stale)}" if stale else ""

    def readiness(self) -> str:
        """Why not all is ready; "" when it is."""
        if self.waiting:
            return ""
        return self.health() or ("" if self.watches.complete else "the watches have not begun")

    @asynccontextmanager
    async def serve(self, *, health_port: int, metrics_port: int) -> AsyncIterator[tuple[int, int]]:
        """Listen on all addresses; the ports as they are."""
        health, metrics = web.Application(), web.Application()
        health.router.add_get("/healthz", self._healthz)
        health.router.add_get("/readyz", self._readyz)
        metrics.router.add_get("/metrics", self._metrics)
        async with _listening(health, health_port) as one, _listening(metrics, metrics_port) as other:
            yield one, other

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self.health())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self.readiness())

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.page(), headers={"Content-Type": CONTENT_TYPE})


def _answer(problem: str) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")


@asynccontextmanager
async def _listening(app: web.Application, port: int) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield min(runner.addresses, key=len)[1]  # of port 0, IPv4 and IPv6 get one each
    finally:
        await runner.cleanup()
