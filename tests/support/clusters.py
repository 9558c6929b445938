"""A cluster in memory: one DSortJob, its children, and the parts of Kubernetes that act on them, each one step at a time.

The Job controller, the kubelets and the ranks do what the real ones do as far as an operator can see it; they take their turn when
a test says so, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from dsort_api.messages import JobDefinition, Phase
from dsort_api.reasons import EXIT_CODES
from dsort_api.status import ConditionType, DSortJobStatus, load_status
from dsort_operator.actions import (
    Action,
    CreateCleanup,
    CreateDefinition,
    CreateNetworkPolicy,
    CreateSecret,
    CreateWorkers,
    DeleteJob,
    DeleteWorkers,
    MarkPodFailed,
    Plan,
    PlanSettings,
    SuspendWorkers,
)
from dsort_operator.children import CleanupJob, WorkerPod, WorkersJob
from dsort_operator.failure import ANOTHER_TRY
from dsort_operator.plan import plan
from dsort_operator.world import Report, World
from tests.support.worlds import SHARED, T0, filled, job_body, planned, report, stored

LASTING: Final = frozenset(code for reason, code in EXIT_CODES.items() if reason not in ANOTHER_TRY)
SETTINGS: Final = PlanSettings()


@dataclass
class Cluster:
    """What there is. `published` is the truth on the volume: the manifest stands."""

    body: dict[str, Any] = field(default_factory=job_body)
    now: datetime = T0
    claims: dict[str, tuple[str, ...] | None] = field(default_factory=lambda: dict(SHARED))
    nodes: int = 2
    gone: bool = False
    finalizer: bool = False
    namespace_deleting: bool = False
    definition: JobDefinition | None = None
    secrets: int = 0
    workers: WorkersJob | None = None
    pods: list[WorkerPod] = field(default_factory=list)
    cleanup: CleanupJob | None = None
    cleanups: int = 0
    lost_nodes: dict[str, datetime] = field(default_factory=dict)
    full: bool = False
    reports: dict[int, Report] = field(default_factory=dict)
    denies: set[str] = field(default_factory=set)
    denied: dict[str, str] = field(default_factory=dict)
    published: bool = False
    status: DSortJobStatus = field(default_factory=DSortJobStatus)
    history: list[DSortJobStatus] = field(default_factory=list)
    """Every status that was written."""
    written: datetime | None = None
    _read: tuple[object, World] | None = None
    _owned: bool = True
    _counted: set[str] = field(default_factory=set)
    _tries: dict[int, int] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    # What the operator does

    def world(self) -> World:
        """What an operator sees now."""
        metadata = self.body["metadata"]
        version = (metadata["generation"], metadata.get("deletionTimestamp"))
        if self._read is None or self._read[0] != version:
            self._read = version, World.of(self.body)
        return replace(
            self._read[1],
            held=self.finalizer,
            status=self.status,
            written=self.written,
            definition=self.definition,
            workers=self.workers,
            pods=tuple(self.pods),
            cleanup=self.cleanup,
            nodes=self.nodes,
            claims=self.claims,
            lost_nodes=self.lost_nodes,
            namespace_deleting=self.namespace_deleting,
            reports=self.reports,
            denied=self.denied,
        )

    def plan(self, *, world: World | None = None) -> Plan:
        """What the operator would do now."""
        return plan(world or self.world(), now=self.now, settings=SETTINGS)

    def reconcile(self, *, crash_after: int | None = None, world: World | None = None) -> Plan | None:
        """One look of the operator: actions, then the status, once. Killed after so many calls, it returns None."""
        if self.gone:
            return None
        todo = self.plan(world=world)
        calls = 0
        if todo.active and not self.finalizer and "deletionTimestamp" not in self.body["metadata"]:
            self.finalizer = True
        for action in todo.actions:
            if calls == crash_after:
                self.reports.clear()
                return None
            calls += 1
            if not self.apply(action):
                break
        if self.is_gone():
            return todo
        if calls == crash_after:
            self.reports.clear()
            return None
        if todo.status != self.status:
            self.status = load_status(stored(todo.status))
            assert self.status == todo.status, "it is not what was written"
            self.written = self.now
            self.history.append(self.status)
        if not todo.active:
            self.finalizer = False
            self._collect()
        return todo

    def settle(self, *, most: int = 12) -> Plan | None:
        """Look again as long as the plan says so; fails when that has no end."""
        looks: list[Plan] = []
        while len(looks) < most:
            before = self.status
            todo = self.reconcile()
            if todo is None or self.gone:
                return todo
            if self.has_nothing_left(todo) and self.status == before:
                return todo
            looks.append(todo)
        raise AssertionError(f"no end of it: {looks[-2:]}")

    def has_nothing_left(self, todo: Plan) -> bool:
        """Whether a plan has nothing to do now, or nothing that it is allowed to."""
        names = {type(action).__name__ for action in todo.actions}
        return todo.wake_after != 0 and (not names or bool(names & set(self.denied)))

    def is_gone(self) -> bool:
        """Whether the DSortJob is there no more."""
        return self.gone

    def apply(self, action: Action) -> bool:
        """What the API server does with a call; a child that is there already stays as it is. False when it refuses."""
        name = type(action).__name__
        if name in self.denies or (self.namespace_deleting and name.startswith("Create")):
            self.denied[name] = "forbidden"
            return False
        self.denied.pop(name, None)
        match action:
            case CreateDefinition():
                self.definition = self.definition or action.definition
            case CreateSecret():
                self.secrets = 1
            case CreateNetworkPolicy():
                pass
            case CreateWorkers():
                self._create_workers(action)
            case SuspendWorkers():
                if self.workers is not None:
                    self.workers = replace(self.workers, suspended=action.suspended)
            case DeleteWorkers():
                self.delete_workers()
            case CreateCleanup():
                if self.cleanup is None:
                    assert not any(pod.live for pod in self.pods), "cleaned up under live pods"
                    assert self.status_is_open(), "cleaned up after the end"
                    assert not any(pod.succeeded for pod in self.pods), "took a result back"
                    self.cleanup = CleanupJob(created=self.now)
                    self._owned = action.owned
                    self.cleanups += 1
            case DeleteJob():
                self.delete()
            case MarkPodFailed():
                self.pods = [
                    replace(pod, phase="Failed", ready=False) if pod.uid == action.uid else pod
                    for pod in self.pods
                ]
        return True

    def status_is_open(self) -> bool:
        """Whether the job has not ended."""
        ends = (ConditionType.COMPLETE, ConditionType.FAILED)
        return not any(one.type in ends and one.status == "True" for one in self.status.conditions)

    def _create_workers(self, action: CreateWorkers) -> None:
        if self.workers is not None:
            return
        assert self.definition is not None
        assert self.secrets == 1
        self._tries.clear()
        self.workers = WorkersJob(
            name="shuffle-1",
            uid=f"job-{next(self._numbers)}",
            suspended=action.suspended,
            completions=action.definition.ranks // action.definition.lanes,
            created=self.now,
            started=None if action.suspended else self.now,
        )

    # What users do

    def edit(self, **spec: Any) -> None:
        """Change the spec; abort is one way."""
        if self.gone or spec == {name: self.body["spec"].get(name) for name in spec}:
            return
        self.body["spec"] = {**self.body["spec"], **spec}
        self.body["metadata"]["generation"] += 1

    def delete(self, *, foreground: bool = False) -> None:
        """Delete the DSortJob."""
        metadata = self.body["metadata"]
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = self.now.isoformat()
            if foreground:
                metadata["finalizers"] = ["foregroundDeletion"]
                self.definition = None
                self.delete_workers()
        self._collect()

    def delete_workers(self) -> None:
        """Somebody deletes the Job; its pods are ended first."""
        if self.workers is not None:
            self.workers = replace(self.workers, deleting=True)

    def delete_workers_first(self) -> None:
        """Somebody deletes the Job in the background; its pods are told to end when it is gone."""
        self.workers = None
        self.pods = [replace(pod, deleted=pod.deleted or self.now) for pod in self.pods if pod.live]

    def _collect(self) -> None:
        """The DSortJob goes when nothing holds it, and its children with it."""
        if "deletionTimestamp" in self.body["metadata"] and not self.finalizer:
            self.gone = True

    # What Kubernetes does

    def control_jobs(self) -> None:
        """The Job controller and the collector of garbage have their turn."""
        if self._owned and self.body["metadata"].get("finalizers"):
            self.cleanup = None  # deleted in the foreground: what is owned goes first
        job = self.workers
        if job is None:
            return
        self._count_ends(job)
        job = self.workers
        assert job is not None
        live = [pod for pod in self.pods if pod.live]
        if job.deleting or job.ended or job.suspended:
            self.pods = [
                replace(pod, deleted=self.now) if pod.live and pod.deleted is None else pod
                for pod in self.pods
            ]
            if job.suspended and not job.ended and job.suspended_since is None:
                self.workers = replace(job, suspended_since=self.now, started=None)
            if job.deleting and not live:
                self.workers, self.pods = None, []
            return
        done = {pod.index for pod in self.pods if pod.succeeded}
        if len(done) == job.completions:
            self.workers = replace(job, complete=True)
            return
        if job.suspended_since is not None or job.started is None:
            self.workers = replace(job, suspended_since=None, started=self.now)
        own = {pod.index for pod in live if pod.name.startswith(f"{job.uid}-")}
        for index in sorted(set(range(job.completions)) - done - own):
            number = next(self._numbers)
            self.pods.append(
                WorkerPod(
                    name=f"{job.uid}-{index}-{number}", uid=f"pod-{number}", index=index, created=self.now
                )
            )

    def _count_ends(self, job: WorkersJob) -> None:
        """The pod failure policy, applied to pods that ended since the last turn."""
        for pod in self.pods:
            if pod.phase != "Failed" or pod.uid in self._counted:
                continue
            self._counted.add(pod.uid)
            if pod.exit_code in {None, 143}:
                continue  # a disruption, or an orderly end
            if pod.exit_code in LASTING:
                job = replace(
                    job,
                    failed_reason="PodFailurePolicy",
                    failed_message=f"Container worker for pod team/{pod.name} failed with exit code {pod.exit_code} "
                    "matching FailJob rule at index 2",
                )
                continue
            self._tries[pod.index] = self._tries.get(pod.index, 0) + 1
            if self._tries[pod.index] > self.body["spec"].get("backoffLimit", 6) and not job.failed_reason:
                job = replace(job, failed_reason="MaxFailedIndexesExceeded", failed_message="too many")
        self.workers = job

    def run_pods(self) -> None:
        """Scheduler and kubelets have their turn: pods start, and those told to end are gone."""
        kept = []
        for pod in self.pods:
            if pod.live and pod.deleted is not None and pod.node not in self.lost_nodes:
                self.reports = {rank: one for rank, one in self.reports.items() if one.pod != pod.uid}
                continue
            if pod.phase == "Pending" and pod.deleted is None:
                pod = self._schedule(pod)  # noqa: PLW2901 - the pod as it is now
            kept.append(pod)
        self.pods = kept

    def _schedule(self, pod: WorkerPod) -> WorkerPod:
        free = [name for name in map("node-{}".format, range(self.nodes)) if name not in self.lost_nodes]
        if self.full or not free:
            return replace(pod, unschedulable_message="0/2 nodes are available")
        return replace(
            pod,
            phase="Running",
            ready=True,
            scheduled=True,
            unschedulable_message="",
            node=free[pod.index % len(free)],
        )

    def run_cleanup(self, *, fails: bool = False) -> None:
        """The cleanup Job ends."""
        if self.cleanup is not None and not (self.cleanup.complete or self.cleanup.failed):
            self.cleanup = replace(self.cleanup, complete=not fails, failed=fails)

    def lose(self, node: str) -> None:
        """A node is not Ready from now on; its pods are told to end."""
        self.lost_nodes.setdefault(node, self.now)
        self.pods = [
            replace(pod, deleted=pod.deleted or self.now, ready=False)
            if pod.live and pod.node == node
            else pod
            for pod in self.pods
        ]

    def admit(self, *, admitted: bool) -> None:
        """Kueue lets a Job start, or takes it back."""
        if self.workers is not None and not self.workers.ended and not self.workers.deleting:
            self.workers = replace(self.workers, suspended=not admitted)

    # What the ranks do

    def running(self) -> list[WorkerPod]:
        """The pods whose ranks work."""
        return [pod for pod in self.pods if pod.phase == "Running" and pod.node not in self.lost_nodes]

    def fail_pod(self, index: int, *, code: int | None, said: str = "", oom: bool = False) -> None:
        """The running pod of an index fails."""
        self.pods = [
            replace(
                pod,
                phase="Failed",
                ready=False,
                exit_code=code,
                termination_message=said,
                oom_killed=oom,
                ended=self.now,
            )
            if pod.index == index and pod in self.running()
            else pod
            for pod in self.pods
        ]

    def report(self, rank: int, phase: Phase, *, done: int) -> None:
        """A rank in a running pod says how far it is."""
        for pod in self.running():
            if pod.index == rank:
                self.reports[rank] = report(
                    rank, phase, pod=pod.uid, bytes_done=done, bytes_total=100, records_done=done
                )

    def fill(self, rank: int, percent: float, **more: Any) -> None:
        """A rank in a running pod says how much of the pod's memory is used."""
        for pod in self.running():
            if pod.index == rank:
                self.reports[rank] = report(rank, pod=pod.uid, memory=filled(percent, **more))

    def publish(self) -> None:
        """All ranks are up, and the result becomes durable."""
        job = self.workers
        if job is None or self.definition is None or self.definition.spec.dry_run:
            return
        up = {pod.index for pod in self.running()} | {pod.index for pod in self.pods if pod.succeeded}
        self.published = self.published or len(up) == job.completions

    def announce_plan(self) -> None:
        """Rank 0 of a dry run has a plan, and says so."""
        zero = next((pod for pod in self.running() if pod.index == 0), None)
        if zero is not None and self.definition is not None and self.definition.spec.dry_run:
            self.published = True
            outcome = planned(("s-0000", 10, 5), ("s-0001", 12, 6))
            self.reports[0] = report(0, Phase.COMPLETE, pod=zero.uid, outcome=outcome)

    def succeed(self, index: int) -> None:
        """The rank of a running pod finds that all is done, and ends well."""
        if self.published:
            self.pods = [
                replace(pod, phase="Succeeded", ready=False, exit_code=0)
                if pod.index == index and pod in self.running()
                else pod
                for pod in self.pods
            ]

    # Time

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)
