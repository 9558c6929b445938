"""The operator's process, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import kopf
from kubernetes.aio.client import Configuration

from dsort_operator.actions import PlanSettings
from dsort_operator.daemons import Daemons
from dsort_operator.handlers import job_paths, kopf_settings, registry_of, session_of, watched_paths
from dsort_operator.kube import DSORTJOBS, ApiError, Backoff, Kube, load_configuration
from dsort_operator.leader import LeadershipLostError, Lease
from dsort_operator.metrics import Metrics
from dsort_operator.probes import Probes, Watches
from dsort_operator.settings import Settings
from dsort_operator.sight import Sight

log = logging.getLogger(__name__)

EXIT_LOST: Final = 1
EXIT_FAULT: Final = 1
_BACKOFF: Final = Backoff(first=0.5, longest=10.0)


async def serve(settings: Settings) -> int:
    """Run until a signal comes (0), until another replica may lead (EXIT_LOST), or until kopf gives up (EXIT_FAULT)."""
    log.info("starting: %s", settings.as_json())
    configuration = await load_configuration()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # until kopf takes them over
        loop.add_signal_handler(number, stop.set)
    sight, watches = Sight(), Watches()
    probes = Probes(watches, Metrics(sight.states, sight.levels), waiting=settings.leader_election)
    code = 0
    async with (
        Kube(configuration) as kube,
        probes.serve(health_port=settings.health_port, metrics_port=settings.metrics_port) as ports,
    ):
        log.info("listening: probes on port %d, metrics on port %d", *ports)
        try:
            async with _leading(settings, kube, stop) as leads:
                probes.waiting = not leads
                if leads:
                    await _crd_is_there(kube, stop)
                if not stop.is_set():
                    await _operate(settings, configuration, kube, sight, probes, stop)
        except* LeadershipLostError as lost:
            log.error("ending: %s", lost.exceptions[0])
            code = EXIT_LOST
        except* Exception:
            log.exception("ending: what cannot be mended here")
            code = EXIT_FAULT
    log.info("ended")
    return code


@asynccontextmanager
async def _leading(settings: Settings, kube: Kube, stop: asyncio.Event) -> AsyncIterator[bool]:
    """Begin when this replica leads (True), or was told to stop before; be cancelled when it does not lead any more."""
    if not settings.leader_election:
        yield True
        return
    lease = Lease(kube, settings.operator_namespace, settings.lease_name, settings.identity)
    async with asyncio.TaskGroup() as group:
        holding = group.create_task(lease.hold())
        stopping = group.create_task(stop.wait())
        leading = group.create_task(lease.leading.wait())
        await asyncio.wait({stopping, leading}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield lease.leading.is_set()
        finally:
            for task in (holding, stopping, leading):
                task.cancel()
            await lease.give_back()


async def _crd_is_there(kube: Kube, stop: asyncio.Event) -> None:
    """Wait for the API of DSortJobs: kopf looks for it once, at its start."""
    failures = 0
    while not stop.is_set():
        try:
            if await kube.get(DSORTJOBS) is not None:
                return
            log.warning("the CustomResourceDefinition of DSortJobs is not installed")
        except ApiError as error:
            log.warning("%s", error)
        failures += 1
        try:
            async with asyncio.timeout(_BACKOFF.seconds(failures)):
                await stop.wait()
        except TimeoutError:
            pass


async def _operate(
    settings: Settings,
    configuration: Configuration,
    kube: Kube,
    sight: Sight,
    probes: Probes,
    stop: asyncio.Event,
) -> None:
    bounds = PlanSettings(allow_host_paths=settings.allow_host_paths, network_policy=settings.network_policy)
    daemons = Daemons(
        kube=kube,
        sight=sight,
        settings=settings,
        bounds=bounds,
        metrics=probes.metrics,
        collections=job_paths(settings),
        listed_again=probes.watches.listed_again,
    )

    def end() -> None:
        daemons.stop()
        stop.set()  # a task of kopf's waits for it, and kopf waits five seconds for the task

    registry = registry_of(
        sight=sight,
        wake=daemons.wake,
        ending=end,
        login=partial(session_of, configuration, tracing=probes.watches.tracing()),
    )
    probes.watches.expect(watched_paths(settings))
    identity: Any = settings.identity  # kopf would look for a user's name, which a container may not have
    async with asyncio.TaskGroup() as group:  # if the Lease is lost, both end at once
        group.create_task(daemons.run())
        group.create_task(
            kopf.operator(
                registry=registry,
                settings=kopf_settings(),
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
                stop_flag=stop,
                identity=identity,
            )
        )
