"""What is known of the memory of a job's pods: what their ranks say of it, or else what the cluster measures. Pure."""

from __future__ import annotations

from typing import NamedTuple

from dsort_operator.children import WorkerPod
from dsort_operator.failure import newest
from dsort_operator.memory_policy import Usage
from dsort_operator.world import Report, World


class MemorySight(NamedTuple):
    """usages: of the pods of which something is known, by their index. silent: the pods that run and whose ranks do not answer; one
    of an older version, that answers without figures, is none of them. complete: whether something is known of these, too.
    """

    usages: tuple[Usage, ...]
    silent: tuple[WorkerPod, ...]
    complete: bool


def memory_sight(world: World, *, lanes: int, silence: float) -> MemorySight:
    """Of the pods that run. silence: seconds after which what a rank said is not believed any more."""
    usages, silent = [], []
    running = (pod for pod in world.live_pods if pod.exit_code is None)
    for _, pod in sorted(newest(running).items()):
        fresh = _fresh(world, pod, lanes=lanes, silence=silence)
        usage = _usage(world, pod, rank=pod.index * lanes, said=fresh)
        if usage is not None:
            usages.append(usage)
        if fresh is None and pod.phase == "Running":
            silent.append(pod)
    complete = all(pod.uid in world.measured for pod in silent)
    return MemorySight(tuple(usages), tuple(silent), complete)


def _fresh(world: World, pod: WorkerPod, *, lanes: int, silence: float) -> Report | None:
    """What was said last of a pod's memory: its lanes see the same."""
    said = (world.reports.get(rank) for rank in range(pod.index * lanes, (pod.index + 1) * lanes))
    fresh = (one for one in said if one is not None and one.pod == pod.uid and one.age < silence)
    return min(fresh, key=lambda one: one.age, default=None)


def _usage(world: World, pod: WorkerPod, *, rank: int, said: Report | None) -> Usage | None:
    short_node = pod.node if pod.node in world.short_nodes else ""
    if said is not None and said.observed.memory.limit:
        memory = said.observed.memory
        return Usage(
            rank=said.observed.rank,
            pod=pod.name,
            used=memory.unreclaimable,
            limit=memory.limit,
            pressure=memory.pressure,
            short_node=short_node,
        )
    measured = world.measured.get(pod.uid) if said is None else None
    if measured is not None:
        used, limit = measured
        return Usage(rank=rank, pod=pod.name, used=used, limit=limit, working_set=True, short_node=short_node)
    return Usage(rank=rank, pod=pod.name, short_node=short_node) if short_node else None
