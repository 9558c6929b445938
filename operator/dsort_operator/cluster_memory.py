"""What the cluster itself says of memory: nodes that are short of it, and the working set of pods whose ranks do not answer.

Neither is needed: a cluster may have no metrics API, and an operator may have no right to look at nodes. What is asked for is
remembered for a while, for all jobs, and a look asks for little, so that a large job does not cost an API server much.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from dsort_api.budgets import pod_limit
from dsort_api.messages import JobDefinition
from dsort_api.quantity import parse_amount
from dsort_operator.children import Body, WorkerPod, items, part
from dsort_operator.kube import CORE, ApiError, Kube, path_of
from dsort_operator.memory_sight import memory_sight
from dsort_operator.world import World

log = logging.getLogger(__name__)

METRICS: Final = "/apis/metrics.k8s.io/v1beta1"
KEPT_SECONDS: Final = 20.0
"""An answer counts for so long; the metrics API has new figures every 15 seconds or so."""
MOST_ASKED: Final = 5
"""Of each kind in one look."""
_ANSWER_SECONDS: Final = 2.0
"""A plan does not wait longer for what it can do without."""


@dataclass(slots=True)
class _Answers:
    """Answers by name, with the time of each; None where there was none."""

    clock: Callable[[], float]
    _known: dict[str, tuple[float, Any]] = field(default_factory=dict)

    async def of(self, names: Iterable[str], ask: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
        """What is known of these, which may be less than all; what is too old, or was never asked for, is asked for."""
        now = self.clock()
        self._known = {name: kept for name, kept in self._known.items() if now - kept[0] < KEPT_SECONDS}
        wanted = list(dict.fromkeys(names))
        for name in [name for name in wanted if name not in self._known][:MOST_ASKED]:
            self._known[name] = now, await ask(name)
        return {name: self._known[name][1] for name in wanted if name in self._known}


class ClusterMemory:
    """Asks the API server, for all jobs of an operator. silence: seconds after which a rank does not answer."""

    def __init__(self, kube: Kube, *, silence: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._silence = silence
        self._nodes = _Answers(clock)
        self._pods = _Answers(clock)
        self._clock = clock
        self._refused: dict[str, float] = {}
        """When what was asked for and not answered last."""

    async def look(
        self, world: World, *, definition: JobDefinition
    ) -> tuple[dict[str, tuple[int, int]], frozenset[str]]:
        """`measured` and `short_nodes` of a world: first those of the pods that do not answer, and then of the fullest."""
        sight = memory_sight(world, lanes=definition.lanes, silence=self._silence)
        limit = int(parse_amount(pod_limit(definition.spec)))
        silent = {pod.name: pod for pod in sight.silent}
        sets = await self._pods.of(
            (f"{world.namespace}/{name}" for name in silent), lambda name: self._working_set(*name.split("/"))
        )
        measured = {
            pod.uid: (sets[key], limit)
            for pod in sight.silent
            if sets.get(key := f"{world.namespace}/{pod.name}") is not None
        }
        full = {usage.pod: usage.percent for usage in sight.usages}

        def order(pod: WorkerPod) -> tuple[bool, float]:
            return pod.name not in silent, -full.get(pod.name, 0.0)

        nodes = [pod.node for pod in sorted(world.live_pods, key=order) if pod.node]
        short = await self._nodes.of(nodes[:MOST_ASKED], self._is_short)
        return measured, frozenset(name for name, is_short in short.items() if is_short)

    async def _working_set(self, namespace: str, name: str) -> int | None:
        body = await self._get(path_of(METRICS, "pods", namespace=namespace, name=name), what=METRICS)
        if body is None:
            return None
        used = (part(container, "usage").get("memory", 0) for container in items(body, "containers"))
        return int(sum(parse_amount(amount) for amount in used))

    async def _is_short(self, name: str) -> bool:
        body = await self._get(f"{CORE}/nodes/{name}", what="nodes")
        conditions = items(part(body or {}, "status"), "conditions")
        return any(one.get("type") == "MemoryPressure" and one.get("status") == "True" for one in conditions)

    async def _get(self, path: str, *, what: str) -> Body | None:
        """What is there; None also where nobody may see it, or nobody answers in time: then the others are not asked for either."""
        refused = self._refused.get(what)
        if refused is not None and self._clock() - refused < KEPT_SECONDS:
            return None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                found = await self._kube.get(path)
        except (ApiError, TimeoutError) as error:
            if refused is None:
                log.warning("%s cannot be seen: %s", what, str(error) or "no answer in time")
            self._refused[what] = self._clock()
            return None
        self._refused.pop(what, None)
        return found
