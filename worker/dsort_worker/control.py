"""The control endpoint of a rank: `PUT /v1/control` and `GET /healthz`, on a thread and a loop of their own.

Control and health are answered at once whatever the data loop does: a scan, a sort or a full socket never stalls them.
The one request is idempotent: the body is the desired state, the answer the observed state. It is held until something
changed that the driver has not seen, or until its own wait is over. What nobody has to act on, a phase, waits a moment for
more: the phases of a small job follow each other in milliseconds, and every answer costs both sides two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from aiohttp import web
from pydantic import ValidationError

from dsort_api.messages import Desired
from dsort_api.protocol import SPOKEN, observed_text, refusal, version_of
from dsort_worker.state import FINAL, RankState
from dsort_worker.wire import http_url, is_bearer

MOST_WAIT: Final = 30.0
"""Seconds a control request is held at the most."""

_LULL: Final = 0.1
"""Seconds that a change waits for others when nobody has to act on it."""

_START_TIMEOUT: Final = 30.0


class Exposition(NamedTuple):
    """Metrics: the port that they have for themselves, and how `text` is called that gives the values of the moment."""

    port: int
    content_type: str
    text: Callable[[], bytes]


class ControlServer:
    """Runs the control endpoint from `start` to `stop`, in a thread; there is time for metrics there, too, and for a `watch`,
    which runs until it is cancelled.
    """

    def __init__(
        self,
        state: RankState,
        *,
        host: str,
        port: int,
        token: str,
        metrics: Exposition | None = None,
        watch: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._state = state
        self._host = host
        self._port = port
        self._token = token
        self._metrics = metrics
        self._watch = watch
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._changed: asyncio.Event | None = None
        self._announced = 0
        """The version that requests are held up to."""
        self._announcement: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        """Called in the thread when the endpoint ends by itself, after it had started: nobody can reach the rank any more."""
        self.metrics_port = 0
        """Where metrics are served, once it has started."""
        self.final_answered = threading.Event()
        """Set when the driver was told a final state."""

    def start(self) -> str:
        """Listen; returns the url. Raises OSError when the address cannot be had."""
        self._state.on_change = self._wake
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT):
            raise TimeoutError("the control endpoint did not start")
        if self._error is not None:
            raise self._error
        return http_url(self._host, self._port)

    def terminate(self, *, within: float, code: int) -> None:
        """Wait for the driver no more, and end the process with `code` after `within` seconds. Takes no lock, so it may be
        called in a handler of a signal.
        """
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended, and the process is about to
                self._loop.call_soon_threadsafe(self._end_within, within, code)

    def _end_within(self, seconds: float, code: int) -> None:
        self.final_answered.set()
        asyncio.get_running_loop().call_later(seconds, os._exit, code)

    def stop(self) -> None:
        """Stop listening and end the thread; answers under way are finished."""
        self._call(self._stop)
        self._call(self._changed)  # requests that are held are answered now
        self._thread.join(_START_TIMEOUT)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to start(), or to whoever looks after the rank
            if self._ready.is_set():
                self.on_failure(error)
            self._error = error
            self._ready.set()
        finally:
            self.final_answered.set()  # nobody will be answered any more

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._announce()
        app = web.Application()
        app.router.add_put("/v1/control", self._control)
        app.router.add_get("/healthz", self._health)
        async with contextlib.AsyncExitStack() as stack:
            self._port = await self._listen(app, self._port, stack)
            if self._metrics is not None:
                metrics = web.Application()
                metrics.router.add_get("/metrics", self._scrape)
                self.metrics_port = await self._listen(metrics, self._metrics.port, stack)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            if self._watch is not None:
                watching = group.create_task(self._watch(), name="watch")
                stack.callback(watching.cancel)
            self._ready.set()
            await self._stop.wait()

    async def _listen(self, app: web.Application, port: int, stack: contextlib.AsyncExitStack) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._host, port).start()
        chosen: int = runner.addresses[0][1]
        return chosen

    async def _scrape(self, _: web.Request) -> web.Response:
        assert self._metrics is not None
        return web.Response(body=self._metrics.text(), headers={"Content-Type": self._metrics.content_type})

    def _wake(self, urgent: bool) -> None:  # noqa: FBT001 - the callback's one argument
        """The state has changed; called in any thread, without effect when the loop has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._announce if urgent else self._announce_soon)

    def _announce_soon(self) -> None:
        if self._announcement is None:
            self._announcement = asyncio.get_running_loop().call_later(_LULL, self._announce)

    def _announce(self) -> None:
        if self._announcement is not None:
            self._announcement.cancel()
            self._announcement = None
        self._announced = self._state.version
        if self._changed is not None:
            self._changed.set()

    def _call(self, event: asyncio.Event | None) -> None:
        """Set an event of the loop, from any thread; without effect when the loop has ended."""
        if self._loop is not None and event is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(event.set)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"phase": self._state.phase, "rank": self._state.rank})

    async def _control(self, request: web.Request) -> web.Response:
        if not is_bearer(request.headers, self._token):
            return web.Response(status=401, text="this rank wants its job's bearer token")
        body = await request.read()
        try:
            version = version_of(body)
            if version not in SPOKEN:
                return web.Response(status=426, text=refusal(version))
            desired = Desired.model_validate_json(body)
        except ValidationError as error:
            return web.Response(status=400, text=f"not a desired state: {error}")
        if desired.epoch and desired.epoch != self._state.epoch:
            return web.Response(status=409, text=f"this rank lives in epoch {self._state.epoch}")
        self._state.tell(desired)
        await self._hold(desired.seen, min(max(desired.wait_seconds, 0.0), MOST_WAIT))
        observed = self._state.observed()
        response = web.Response(
            text=observed_text(observed, version=version), content_type="application/json"
        )
        if observed.phase in FINAL:
            with contextlib.suppress(
                ConnectionError
            ):  # the driver did not wait for the answer; it asks again
                await response.prepare(request)
                await response.write_eof()
                self.final_answered.set()
        return response

    async def _hold(self, seen: int, wait: float) -> None:
        changed, stop = self._changed, self._stop
        if changed is None or stop is None:
            return
        try:
            async with asyncio.timeout(wait):
                while self._announced <= seen and not stop.is_set():
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            return
