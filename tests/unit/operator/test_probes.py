"""Probes: a watch that is silent for too long is dead."""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import pytest
from aiohttp import web

from dsort_operator.logs import JsonFormatter, TextFormatter, about
from dsort_operator.metrics import Metrics
from dsort_operator.probes import STALE_SECONDS, Probes, Watches


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_is_stale_when_nothing_was_heard_for_too_long() -> None:
    clock = Clock()
    probes = Probes(Watches(clock=clock), Metrics(dict))
    assert probes.health() == probes.readiness() == ""  # nothing is watched yet
    probes.watches.expect(["/a", "/b"])
    assert probes.health() == ""
    assert probes.readiness() == "the watches have not begun"
    for path in ("/a", "/b", "/not/ours"):
        probes.watches.hear(path)
    assert probes.readiness() == ""
    clock.now += STALE_SECONDS - 1
    probes.watches.hear("/a")
    clock.now += 2
    assert probes.health() == probes.readiness() == "nothing heard from the watch of /b"
    probes.waiting = True  # a replica that waits is as ready as it can be
    assert probes.readiness() == ""


@pytest.mark.asyncio
async def test_an_answer_is_heard_before_its_end_and_a_refusal_is_not() -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await go.wait()
        return response

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500, text="no")

    go, clock = asyncio.Event(), Clock()
    watches = Watches(clock=clock)
    watches.expect(["/stream", "/refused"])
    app = web.Application()
    app.router.add_get("/stream", stream)
    app.router.add_get("/refused", refuse)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(url, trace_configs=[watches.tracing()]) as session:
        clock.now += STALE_SECONDS + 1
        async with session.get("/refused") as answer:
            await answer.read()
        assert watches.stale() == ["/stream", "/refused"]
        async with session.get("/stream"):
            assert watches.stale() == ["/refused"]
            go.set()
        async with session.get("/stream?watch=true"):
            assert not watches.listed_again.is_set()
        async with session.get("/stream"):
            assert watches.listed_again.is_set()
    await runner.cleanup()


@pytest.mark.asyncio
async def test_the_pages_are_served() -> None:
    probes = Probes(Watches(), Metrics(lambda: {"Running": 2}))
    probes.watches.expect(["/a"])
    async with (
        probes.serve(health_port=0, metrics_port=0) as (health, metrics),
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"http://127.0.0.1:{health}/healthz") as answer:
            assert answer.status == 200
        async with session.get(f"http://127.0.0.1:{health}/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "the watches have not begun\n")
        async with session.get(f"http://127.0.0.1:{metrics}/metrics") as answer:
            assert 'dsort_jobs{state="Running"} 2.0' in await answer.text()
            assert answer.content_type == "text/plain"


def test_a_line_of_the_log_names_its_job() -> None:
    record = logging.LogRecord("dsort", logging.WARNING, __file__, 1, "a %s", ("word",), None)
    with about("ns/name", uid="u1"):
        line = json.loads(JsonFormatter().format(record))
        assert "[ns/name]: a word" in TextFormatter().format(record)
    assert (line["job"], line["uid"], line["level"], line["message"]) == (
        "ns/name",
        "u1",
        "warning",
        "a word",
    )
    assert "job" not in json.loads(JsonFormatter().format(record))


def test_an_exception_is_logged_with_its_trace() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
        record = logging.LogRecord("dsort", logging.ERROR, __file__, 1, "unexpected", (), info)
    assert "ValueError: why" in json.loads(JsonFormatter().format(record))["exception"]
    assert "ValueError: why" in TextFormatter().format(record)
