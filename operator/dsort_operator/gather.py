"""Gather the world of one DSortJob: what the watches saw, what its ranks say, and what is asked for when it is needed.

What is kept in memory saves requests and nothing else.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from dsort_api.labels import COMPONENT_LABEL, JOB_UID_LABEL, WORKER_COMPONENT
from dsort_api.messages import JobDefinition
from dsort_operator.children import Body, items, part, time_of
from dsort_operator.cluster_memory import ClusterMemory
from dsort_operator.jobcontrol import JobControl
from dsort_operator.kube import BATCH, CORE, EVENTS, ApiError, Kube, path_of
from dsort_operator.naming import base_name, cleanup_name
from dsort_operator.nodes import count_nodes
from dsort_operator.pods import DEFINITION_KEY, TOKEN_KEY
from dsort_operator.sight import JobSight, has_finalizer, is_terminal
from dsort_operator.volumes import claims_of
from dsort_operator.world import World

log = logging.getLogger(__name__)

_PODS_COME: Final = timedelta(seconds=5)
"""A Job's pods are there sooner than that, if they may be."""
_ASK_SECONDS: Final = 15.0
RESYNC_SECONDS: Final = 60.0
"""How often the children are listed: what a watch has missed is noticed then."""


class NotOursError(Exception):
    """Something else has the name of a child."""


@dataclass(slots=True)
class Gatherer:
    """Gathers the world of one DSortJob. denied: what the API server said to actions.

    Raises ApiError when the API server does not answer, and NotOursError.
    """

    kube: Kube
    sight: JobSight
    control: JobControl
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    memory: ClusterMemory | None = None
    denied: dict[str, str] = field(default_factory=dict)
    definition: JobDefinition | None = None
    _token: str | None = None
    _claims: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    _listed: float | None = None
    _asked: float | None = None
    _said: str = ""
    _workers: set[str] = field(default_factory=set)

    async def gather(self, job: Body) -> World:
        """The world as it is now, as far as anybody knows."""
        metadata = part(job, "metadata")
        name, uid = metadata["name"], metadata["uid"]
        await self._resync(metadata["namespace"])
        await self._look_at_namespace(job)
        world = World.of(
            job,
            workers=self.sight.workload(base_name(name, uid=uid)),
            pods=[pod for pod in self.sight.pods if _is_worker(pod)],
            cleanup=self.sight.workload(cleanup_name(name, uid=uid)),
            namespace_deleting=self.sight.namespace_ending,
            reports=self.control.reports(),
            refused=self.control.refused(),
            denied=dict(self.denied),
        )
        if has_finalizer(job) or world.workers or world.pods:  # it comes before all children
            await self._read_definition(world)
        if world.workers is None:
            await self._read_claims(world)
        measured, short_nodes = await self._look_at_memory(world)
        return replace(
            world,
            measured=measured,
            short_nodes=short_nodes,
            definition=self.definition,
            claims=self._claims,
            nodes=await self._count_nodes(world),
            lost_nodes=await self._lost_nodes(world),
            pods_refused=await self._pods_refused(world),
        )

    async def _resync(self, namespace: str) -> None:
        """List the children once in a while, so that a deletion that no watch told of is seen."""
        if self._listed is not None and self.clock() - self._listed < RESYNC_SECONDS:
            return
        if self._listed is not None:  # at first the watches have just begun, with lists of their own
            known = self.sight.snapshot()
            selector = {"labelSelector": f"{JOB_UID_LABEL}={self.sight.uid}"}
            pods = await self.kube.items(path_of(CORE, "pods", namespace=namespace), **selector)
            jobs = await self.kube.items(path_of(BATCH, "jobs", namespace=namespace), **selector)
            self.sight.listed(pods=pods, workloads=jobs, known=known)
        self._listed = self.clock()
        self.denied.clear()  # rights and quotas change

    async def _look_at_namespace(self, job: Body) -> None:
        """Where somebody ends pods, or they are gone already, it may be the namespace that goes. Nothing else tells of it in time:
        what the operator may do there goes right behind the pods. An operator that comes later sees that one before it has let
        go of a job that had begun; put back, the finalizer could stay for ever.
        """
        workers = {part(pod, "metadata")["uid"]: pod for pod in self.sight.pods if _is_worker(pod)}
        ending = any(part(pod, "metadata").get("deletionTimestamp") for pod in workers.values())
        let_go = (
            bool(part(job, "status").get("startTime")) and not has_finalizer(job) and not is_terminal(job)
        )
        if not self.sight.namespace_ending and (ending or let_go or self._workers - workers.keys()):
            self.sight.namespace_ending = await self._is_ending(part(job, "metadata")["namespace"])
        self._workers = set(workers)

    async def _is_ending(self, namespace: str) -> bool:
        try:
            body = await self.kube.get(f"{CORE}/namespaces/{namespace}")
        except ApiError as error:
            if error.status != 403:
                raise
            log.warning("whether namespace %s is being deleted cannot be seen: %s", namespace, error)
            return False
        return body is None or "deletionTimestamp" in part(body, "metadata")

    def absorb(self, body: Body) -> None:
        """A ConfigMap or a Secret of the job as the API server has it; neither ever changes."""
        if body.get("kind") == "ConfigMap":
            self.definition = JobDefinition.model_validate_json(part(body, "data")[DEFINITION_KEY])
        elif body.get("kind") == "Secret":
            self._token = base64.b64decode(part(body, "data")[TOKEN_KEY]).decode()

    async def _read_definition(self, world: World) -> None:
        if self.definition is None:
            await self._read("configmaps", world)

    async def read_token(self, world: World) -> str | None:
        """The token of the job; None when there is no Secret."""
        if self._token is None:
            await self._read("secrets", world)
        return self._token

    async def _read(self, plural: str, world: World) -> None:
        name = base_name(world.name, uid=world.uid)
        body = await self.kube.get(path_of(CORE, plural, namespace=world.namespace, name=name))
        if body is not None:
            check_owner(body, world.uid)
            self.absorb(body)

    async def _read_claims(self, world: World) -> None:
        """The access modes of the claims that are named; what was found does not change."""
        for name in claims_of(world.job.spec) if world.job else ():
            if self._claims.get(name) is None:
                path = path_of(CORE, "persistentvolumeclaims", namespace=world.namespace, name=name)
                body = await self.kube.get(path)
                modes = None if body is None else tuple(part(body, "spec").get("accessModes") or ())
                self._claims[name] = modes

    async def _count_nodes(self, world: World) -> int | None:
        job = world.job
        if self.definition is not None or job is None or not job.spec.workers.one_per_node:
            return None
        try:
            return count_nodes(
                await self.kube.items(f"{CORE}/nodes", resourceVersion="0"),
                template=job.spec.workers.template,
            )
        except ApiError as error:
            if error.status != 403:
                raise
            log.warning("nodes cannot be counted: %s", error)
            return None

    async def _look_at_memory(self, world: World) -> tuple[dict[str, tuple[int, int]], frozenset[str]]:
        if self.memory is None or self.definition is None:
            return {}, frozenset()
        return await self.memory.look(world, definition=self.definition)

    async def _pods_refused(self, world: World) -> str:
        """What the API server says to the Job controller about pods that have been missing for a while: a quota, or a policy. The
        Job itself does not tell of it, only its events.
        """
        workers = world.workers
        if (
            workers is None
            or workers.started is None
            or workers.suspended
            or workers.deleting
            or workers.ended
        ):
            return ""
        there = {pod.index for pod in world.pods if pod.live or pod.succeeded}
        if len(there) >= workers.completions or self.now() - workers.started < _PODS_COME:
            return ""
        if self._asked is None or self.clock() - self._asked >= _ASK_SECONDS:
            self._asked = self.clock()
            since = max([workers.started, *(pod.created for pod in world.pods if pod.created)])
            self._said = await self._said_of_pods(world.namespace, uid=workers.uid, since=since)
        return self._said

    async def _said_of_pods(self, namespace: str, *, uid: str, since: datetime) -> str:
        """The last thing of that kind, unless a pod has been made after it."""
        path = path_of(EVENTS, "events", namespace=namespace)
        try:
            found = await self.kube.items(path, fieldSelector=f"regarding.uid={uid},reason=FailedCreate")
        except ApiError as error:
            if error.status != 403:
                raise
            log.warning("why pods are missing cannot be seen: %s", error)
            return ""
        said = [
            (when, str(event.get("note", ""))) for event in found if (when := _when(event)) and when >= since
        ]
        return max(said, default=(since, ""))[1]

    async def _lost_nodes(self, world: World) -> dict[str, datetime]:
        """Since when nodes are not Ready, of those that pods should have gone from by now."""
        now = self.now()
        names = {pod.node for pod in world.live_pods if pod.node and pod.deleted and pod.deleted < now}
        lost = {}
        for name in names:
            try:
                node = await self.kube.get(f"{CORE}/nodes/{name}")
            except ApiError as error:
                if error.status != 403:
                    raise
                log.warning("whether node %s is lost cannot be seen: %s", name, error)
                continue
            since = _not_ready_since(node)
            if since is not None:
                lost[name] = since
        return lost


def _when(event: Body) -> datetime | None:
    """When an event was last seen to happen."""
    series = part(event, "series").get("lastObservedTime")
    return time_of(series or event.get("deprecatedLastTimestamp") or event.get("eventTime"))


def check_owner(body: Body, uid: str) -> None:
    """Raise NotOursError unless the object is a child of the DSortJob."""
    metadata = part(body, "metadata")
    if uid not in {owner.get("uid") for owner in items(metadata, "ownerReferences")}:
        raise NotOursError(
            f"{body.get('kind')} {metadata.get('name')} is there and belongs to something else"
        )


def _is_worker(pod: Body) -> bool:
    return bool(part(part(pod, "metadata"), "labels").get(COMPONENT_LABEL) == WORKER_COMPONENT)


def _not_ready_since(node: Body | None) -> datetime | None:
    if node is None:
        return datetime.min.replace(tzinfo=UTC)
    for condition in items(part(node, "status"), "conditions"):
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            return time_of(condition.get("lastTransitionTime"))
    return None
