"""One task for each DSortJob that is not at rest: it reconciles whenever something happened or a time has come.

These are tasks of our own and not kopf's daemons. To see that one has ended while its object is being deleted, kopf touches
the object, which leaves annotations or a status of its own; and a daemon that has ended is never started again, though a
DSortJob may well come back from its rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dsort_operator.actions import PlanSettings
from dsort_operator.children import part
from dsort_operator.cluster_memory import ClusterMemory
from dsort_operator.gather import Gatherer
from dsort_operator.jobcontrol import JobControl, Load
from dsort_operator.kube import ApiError, Backoff, Kube
from dsort_operator.logs import about
from dsort_operator.metrics import Metrics
from dsort_operator.reconcile import Reconciler, Rest
from dsort_operator.settings import Settings
from dsort_operator.sight import Sight, is_at_rest

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16
"""Reconciles under way at once: of a thousand new DSortJobs the first are to start before the last are looked at."""
_SETTLE_SECONDS: Final = 0.05
"""What happens together is looked at together."""
_BACKOFF: Final = Backoff(first=0.5, longest=20.0)


@dataclass(slots=True)
class Daemons:
    """The tasks. `wake` may be called at any time; they live while `run` does."""

    kube: Kube
    sight: Sight
    settings: Settings
    bounds: PlanSettings
    metrics: Metrics
    collections: Sequence[str] = ()
    """The paths of all DSortJobs that are watched."""
    listed_again: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a watch has begun from a list again, and may have missed what went."""
    clock: Callable[[], float] = time.monotonic
    load: Load = field(default_factory=Load)
    _news: dict[str, asyncio.Event] = field(default_factory=dict)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _group: asyncio.TaskGroup | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _memory: ClusterMemory = field(init=False)

    def __post_init__(self) -> None:
        self._memory = ClusterMemory(self.kube, silence=self.bounds.silence_seconds, clock=self.clock)

    async def run(self) -> None:
        """Let the tasks live until `stop` is called."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.metrics.ranks.set_function(lambda: self.load.ranks)
            self._tasks.add(group.create_task(self._correct()))
            for uid in list(self.sight.jobs):
                self.wake(uid)
            await self._stopped.wait()
            self._group = None
            for task in self._tasks:
                task.cancel()

    def stop(self) -> None:
        """End all tasks, wherever they are: another operator goes on from there. No DSortJob is touched."""
        self._stopped.set()

    def wake(self, uid: str) -> None:
        """Something happened to this DSortJob or to what belongs to it."""
        if uid in self._news:
            self._news[uid].set()
            return
        if self._group is None or uid not in self.sight.jobs:
            return
        job = self.sight.of(uid).job
        if job is None or is_at_rest(job):
            return
        metadata = part(job, "metadata")
        name = f"{metadata.get('namespace')}/{metadata.get('name')}"
        self._news[uid] = asyncio.Event()
        with about(name, uid=uid):
            task = self._group.create_task(self._tend(uid), name=f"DSortJob {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _correct(self) -> None:
        """Look for DSortJobs that went without a watch telling of it, for ever."""
        when, paths = self.listed_again, self.collections
        while True:
            await when.wait()
            when.clear()
            known = frozenset(self.sight.jobs)
            try:
                there = {
                    part(body, "metadata")["uid"] for path in paths for body in await self.kube.items(path)
                }
            except ApiError as error:
                log.warning("%s; looking again", error)
                await asyncio.sleep(_BACKOFF.longest)
                when.set()
                continue
            for uid in known - there:
                self.sight.of(uid).vanished()
                self.wake(uid)

    async def _tend(self, uid: str) -> None:
        """Reconcile until the job is at rest, whatever goes wrong."""
        failures = 0
        try:
            while True:
                try:
                    await self._follow(uid)
                except Exception:  # a daemon that died silently would leave its job alone for ever
                    failures += 1
                    self.metrics.reconcile_errors.inc()
                    pause = _BACKOFF.seconds(failures)
                    log.exception("unexpected; looking again in %.1f s", pause)
                    await asyncio.sleep(pause)
                else:
                    return
        finally:
            if self._news.pop(uid).is_set():
                self.wake(uid)  # what came in the last moment

    async def _follow(self, uid: str) -> None:
        news = self._news[uid]
        sight = self.sight.of(uid)
        failures = 0
        async with JobControl(load=self.load, wake=news.set, moved=self.metrics.bytes_moved.inc) as control:
            reconciler = Reconciler(
                kube=self.kube,
                sight=sight,
                control=control,
                gatherer=Gatherer(
                    kube=self.kube,
                    sight=sight,
                    control=control,
                    clock=self.clock,
                    memory=self._memory,
                ),
                settings=self.settings,
                bounds=self.bounds,
                metrics=self.metrics,
                clock=self.clock,
            )
            while True:
                news.clear()
                try:
                    async with self._turns:
                        rest = await reconciler.once()
                    failures = 0
                except ApiError as error:
                    failures += 1
                    self.metrics.reconcile_errors.inc()
                    pause = _BACKOFF.seconds(failures)
                    log.warning("%s; looking again in %.1f s", error, pause)
                    await asyncio.sleep(pause)
                    continue
                if rest.over and not news.is_set():
                    return
                await _until_news(news, rest)


async def _until_news(news: asyncio.Event, rest: Rest) -> None:
    try:
        async with asyncio.timeout(rest.seconds):
            await news.wait()
    except TimeoutError:
        return
    await asyncio.sleep(_SETTLE_SECONDS)
