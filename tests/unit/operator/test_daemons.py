"""The tasks of jobs: woken, never two for one job, and never dead for want of luck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from dsort_operator import daemons as module
from dsort_operator.actions import PlanSettings
from dsort_operator.daemons import Daemons
from dsort_operator.kube import ApiError, Backoff, Kube
from dsort_operator.metrics import Metrics
from dsort_operator.reconcile import Reconciler, Rest
from dsort_operator.settings import Settings
from dsort_operator.sight import Sight
from tests.support.waiting import until

UID = "u1"


class Nobody:
    """An API server that has no objects left."""

    async def items(self, _: str) -> list[Any]:
        return []


def sight() -> Sight:
    body = {"metadata": {"name": "job", "namespace": "ns", "uid": UID, "resourceVersion": "1"}, "spec": {}}
    return Sight(jobs={UID: [body]})


@asynccontextmanager
async def tended(
    monkeypatch: pytest.MonkeyPatch, once: Callable[[Reconciler], Any]
) -> AsyncIterator[Daemons]:
    """Daemons whose reconciles are `once`."""
    monkeypatch.setattr(module, "_BACKOFF", Backoff(first=0.001, longest=0.001))
    monkeypatch.setattr(module, "_SETTLE_SECONDS", 0)
    monkeypatch.setattr(Reconciler, "once", once)
    known = sight()
    daemons = Daemons(
        kube=cast("Kube", None),
        sight=known,
        settings=Settings(image="x"),
        bounds=PlanSettings(),
        metrics=Metrics(known.states),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(daemons.run())
        yield daemons
        daemons.stop()


def page(daemons: Daemons) -> str:
    return daemons.metrics.page().decode()


@pytest.mark.asyncio
async def test_a_job_is_looked_at_again_whatever_went_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | None] = [
        ValueError("a bug"),
        ApiError("GET /x", status=500, reason="", message="broken"),
        None,
    ]
    seen = []

    async def once(reconciler: Reconciler) -> Rest:
        seen.append(reconciler)
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return Rest(None)

    async with tended(monkeypatch, once) as daemons:
        await until(lambda: not outcomes)
    assert len(seen) == 3
    assert "dsort_reconcile_errors_total 2.0" in page(daemons)
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1
    assert "a bug" in caplog.text


@pytest.mark.asyncio
async def test_one_job_has_one_task_and_news_during_a_reconcile_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = most = times = 0
    go = asyncio.Event()

    async def once(_: Reconciler) -> Rest:
        nonlocal running, most, times
        running, times = running + 1, times + 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return Rest(None, over=True)

    async with tended(monkeypatch, once) as daemons:
        await until(lambda: times == 1)
        for _ in range(3):
            daemons.wake(UID)
        go.set()
        await until(lambda: times == 2)
        await until(lambda: not daemons._news)
        assert (most, times) == (1, 2)
        daemons.wake(UID)  # it came back from its rest
        await until(lambda: times == 3)
        daemons.wake("unknown")


@pytest.mark.asyncio
async def test_a_time_that_has_come_wakes_as_an_event_does(monkeypatch: pytest.MonkeyPatch) -> None:
    times = 0

    async def once(_: Reconciler) -> Rest:
        nonlocal times
        times += 1
        return Rest(0.001 if times < 3 else None)

    async with tended(monkeypatch, once) as daemons:
        await until(lambda: times == 3)
        daemons.wake(UID)
        await until(lambda: times == 4)


@pytest.mark.asyncio
async def test_stopping_ends_the_tasks_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def once(_: Reconciler) -> Rest:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with tended(monkeypatch, once):
        await begun.wait()


@pytest.mark.asyncio
async def test_a_job_that_went_while_nobody_watched_is_known_to_be_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    async def once(reconciler: Reconciler) -> Rest:
        seen.append(reconciler.sight.job)
        return Rest(None, over=seen[-1] is None)

    async with tended(monkeypatch, once) as daemons:
        await until(lambda: len(seen) == 1)
        assert daemons.sight.states()["Pending"] == 1
        daemons.listed_again.set()
        await until(lambda: not daemons._news)
        assert seen[-1] is None
        assert daemons.sight.states()["Pending"] == 0
