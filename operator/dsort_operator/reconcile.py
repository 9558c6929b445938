"""One reconcile of one DSortJob: gather the world, plan, carry the plan out, write the status once, tell of transitions.

Nothing is decided here. Every step may be the last one of this process, and every step may be done again.
"""

from __future__ import annotations

import logging
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, assert_never

from dsort_api.labels import FINALIZER, GROUP
from dsort_api.spec import VERSION
from dsort_api.status import load_status
from dsort_operator import actions as act
from dsort_operator import manifests
from dsort_operator.children import Body, part
from dsort_operator.gather import Gatherer, check_owner
from dsort_operator.jobcontrol import JobControl
from dsort_operator.kube import (
    BATCH,
    CORE,
    DSORTJOBS,
    EVENTS,
    NETWORKING,
    STRATEGIC,
    ApiError,
    Kube,
    path_of,
)
from dsort_operator.metrics import Metrics
from dsort_operator.naming import base_name
from dsort_operator.plan import plan
from dsort_operator.settings import Settings
from dsort_operator.sight import JobSight, has_finalizer
from dsort_operator.world import World

log = logging.getLogger(__name__)

_LONGEST_NOTE: Final = 1024
_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Rest:
    """Until when nothing is to be done, unless something happens. seconds: None means for ever. over: the job is at rest."""

    seconds: float | None
    over: bool = False


@dataclass(slots=True)
class Reconciler:
    """Reconciles one DSortJob.

    Raises ApiError when the API server does not do what is asked, and NotOursError.
    """

    kube: Kube
    sight: JobSight
    control: JobControl
    gatherer: Gatherer
    settings: Settings
    bounds: act.PlanSettings
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def once(self) -> Rest:
        """One reconcile."""
        began = self.clock()
        try:
            return await self._once()
        finally:
            self.metrics.reconcile_seconds.observe(self.clock() - began)

    async def _once(self) -> Rest:
        job = self.sight.job
        if job is None:
            return Rest(None, over=True)
        world = await self.gatherer.gather(job)
        wanted = plan(world, now=self.now(), settings=self.bounds)
        await self._steer(world, wanted)
        if wanted.active and not world.deleting and not has_finalizer(job):
            await self._set_finalizers(job, [FINALIZER])
        denied = False
        for action in wanted.actions:
            if denied := not await self._carry_out(action, world):
                break  # what follows may need it: no workers without their Secret
        if not denied and [type(action) for action in wanted.actions] == [act.CreateDefinition]:
            return Rest(0.0)  # a step on the way: the next one is made at once, and says more
        await self._write_status(world, wanted)
        for event in wanted.events:
            await self._tell(job, event)
        if not wanted.active and has_finalizer(job):
            await self._set_finalizers(job, [])
        if self.sight.job is None:
            return Rest(None, over=True)
        if wanted.actions and not denied:
            return Rest(0.0)  # the world is another one now
        return Rest(wanted.wake_after, over=not wanted.active and wanted.wake_after is None)

    # What is to be

    async def _steer(self, world: World, wanted: act.Plan) -> None:
        definition = self.gatherer.definition
        if definition is None or not (world.pods or self.control.has_ranks):
            return
        token = await self.gatherer.read_token(world)
        if token is None:
            log.warning("the Secret with the job's token is gone: its ranks cannot be reached")
            return
        await self.control.steer(
            world.pods,
            definition=definition,
            token=token,
            stop=wanted.stop,
            throttle_level=wanted.throttle_level,
            memory_budget=wanted.memory_budget,
        )

    async def _carry_out(self, action: act.Action, world: World) -> bool:
        """Whether it is done; False when the API server denies it for good."""
        name = type(action).__name__
        try:
            await self._do(action, world)
        except ApiError as error:
            if error.is_namespace_ending:
                self.sight.namespace_ending = True
            elif error.is_lasting:
                self.gatherer.denied[name] = error.message
            else:
                raise
            log.warning("%s: %s", name, error)
            return False
        self.gatherer.denied.pop(name, None)
        log.info("%s", name)
        return True

    async def _do(self, action: act.Action, world: World) -> None:
        namespace, base = world.namespace, base_name(world.name, uid=world.uid)
        job_path = path_of(BATCH, "jobs", namespace=namespace, name=base)
        match action:
            case act.CreateDefinition(definition=definition):
                body = manifests.definition_config_map(definition, namespace=namespace)
                self.gatherer.absorb(await self._create(CORE, "configmaps", body, world))
            case act.CreateSecret():
                token = secrets.token_urlsafe(_TOKEN_BYTES)
                body = manifests.token_secret(world.name, uid=world.uid, namespace=namespace, token=token)
                self.gatherer.absorb(await self._create(CORE, "secrets", body, world))
            case act.CreateNetworkPolicy(definition=definition):
                body = manifests.network_policy(definition, namespace=namespace, settings=self.settings)
                await self._create(NETWORKING, "networkpolicies", body, world)
            case act.CreateWorkers(definition=definition, suspended=suspended, queue=queue):
                body = manifests.workers_job(
                    definition, namespace=namespace, suspended=suspended, queue=queue, settings=self.settings
                )
                self.sight.note(await self._create(BATCH, "jobs", body, world))
            case act.SuspendWorkers(uid=uid, suspended=suspended):
                self._note(uid, await self.kube.merge(job_path, {"spec": {"suspend": suspended}}))
            case act.DeleteWorkers(uid=uid):
                await self.kube.delete(job_path, uid=uid, propagation="Foreground")
                self._note(uid, await self.kube.get(job_path))
            case act.CreateCleanup(definition=definition, owned=owned):
                body = manifests.cleanup_job(
                    definition, namespace=namespace, owned=owned, settings=self.settings
                )
                self.sight.note(await self._create(BATCH, "jobs", body, world, owned=owned))
            case act.DeleteJob():
                path = path_of(DSORTJOBS, "dsortjobs", namespace=namespace, name=world.name)
                await self.kube.delete(path, uid=world.uid, propagation="Background")
                self.sight.vanished()
            case act.MarkPodFailed(name=name, uid=uid):
                path = path_of(CORE, "pods", namespace=namespace, name=name, subresource="status")
                # A disruption, as an eviction is one: it costs no try of spec.backoffLimit.
                condition = {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "NodeLost",
                    "message": "the pod was told to end, and its node does not answer",
                    "lastTransitionTime": self.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                status = {"phase": "Failed", "conditions": [condition]}
                change = {"metadata": {"uid": uid}, "status": status}
                self._note(uid, await self.kube.merge(path, change, kind=STRATEGIC))
            case _:
                assert_never(action)

    def _note(self, uid: str, answer: Body | None) -> None:
        """What became of a child. Without it the next plan would ask for the same again, and at once."""
        if answer is None or part(answer, "metadata").get("uid") != uid:
            self.sight.note_gone(uid)
        if answer is not None:
            self.sight.note(answer)

    async def _create(
        self, prefix: str, plural: str, body: dict[str, Any], world: World, *, owned: bool = True
    ) -> Body:
        """Create a child; one that this or another operator has made is as good. The child as it is."""
        created = await self.kube.create(path_of(prefix, plural, namespace=world.namespace), body)
        if created is None:
            name = body["metadata"]["name"]
            created = await self.kube.get(path_of(prefix, plural, namespace=world.namespace, name=name))
            if created is None:
                raise ApiError(f"GET {plural} {name}", status=404, reason="NotFound", message="gone again")
            if owned:
                check_owner(created, world.uid)
        return created

    # What is said of it

    async def _set_finalizers(self, job: Body, finalizers: list[str]) -> None:
        """By server-side apply: finalizers of others are not ours to change."""
        body = _about(job)
        body["metadata"]["finalizers"] = finalizers
        await self._apply(body)

    async def _write_status(self, world: World, wanted: act.Plan) -> None:
        """The status, if it is not as it was."""
        job = self.sight.job
        if job is None or wanted.status == load_status(job.get("status")):
            return
        status = wanted.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        await self._apply({**_about(job), "status": status}, subresource="status")
        self.metrics.count(world.status, wanted.status)

    async def _apply(self, body: dict[str, Any], *, subresource: str = "") -> None:
        metadata = body["metadata"]
        path = path_of(
            DSORTJOBS,
            "dsortjobs",
            namespace=metadata["namespace"],
            name=metadata["name"],
            subresource=subresource,
        )
        try:
            self.sight.note(await self.kube.apply(path, body))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            there = await self.kube.get(path.removesuffix("/status"))
            if there is not None and part(there, "metadata").get("uid") == metadata["uid"]:
                raise
            log.info("the DSortJob is gone: %s", error)
            self.sight.vanished()

    async def _tell(self, job: Body, event: act.Event) -> None:
        metadata = part(job, "metadata")
        reference = {name: metadata[name] for name in ("name", "namespace", "uid")}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "regarding": {"apiVersion": f"{GROUP}/{VERSION}", "kind": "DSortJob", **reference},
            "eventTime": self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": event.message[:_LONGEST_NOTE],
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": self.settings.identity[:128],
        }
        log.log(
            logging.WARNING if event.type == "Warning" else logging.INFO,
            "%s: %s",
            event.reason,
            event.message,
        )
        try:
            await self.kube.create(path_of(EVENTS, "events", namespace=metadata["namespace"]), body)
        except ApiError as error:  # the status says the same, and stays
            log.warning("an event was lost: %s", error)


def _about(job: Body) -> dict[str, Any]:
    """The frame of a server-side apply that cannot make an object anew: the uid must be there already."""
    metadata = part(job, "metadata")
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "DSortJob",
        "metadata": {name: metadata[name] for name in ("name", "namespace", "uid")},
    }
