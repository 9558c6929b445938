"""What a plan may ask for. Carried out by `reconcile`; each is harmless when it was already done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsort_api.messages import JobDefinition, Stop
from dsort_api.status import DSortJobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDefinition:
    """The ConfigMap that freezes what the job is, and its number of ranks."""

    definition: JobDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSecret:
    """The Secret with a new token. One that is there already keeps its token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateNetworkPolicy:
    """The NetworkPolicy that keeps others from the workers."""

    definition: JobDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateWorkers:
    """The Indexed Job. queue: of Kueue, "" without."""

    definition: JobDefinition
    suspended: bool
    queue: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendWorkers:
    """spec.suspend of the Indexed Job becomes `suspended`; its uid is as it was seen."""

    uid: str
    suspended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteWorkers:
    """The Indexed Job goes, and its pods (propagation Foreground, precondition uid)."""

    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCleanup:
    """The cleanup Job. Not owned where the collector of garbage would take it away with the DSortJob."""

    definition: JobDefinition
    owned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteJob:
    """The DSortJob itself goes: its time to live is over (propagation Background, precondition uid)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkPodFailed:
    """The pod's phase becomes Failed: its node is lost, and nobody else will ever say so."""

    name: str
    uid: str


Action = (
    CreateDefinition
    | CreateSecret
    | CreateNetworkPolicy
    | CreateWorkers
    | SuspendWorkers
    | DeleteWorkers
    | CreateCleanup
    | DeleteJob
    | MarkPodFailed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is worth an event of Kubernetes, after the status was written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, in this order, and nothing after an action that the API server refused; then the status, once, if it
    is not as it was; then the events.

    stop: the order for every rank, once there is one. throttle_level: for every rank, too. memory_budget: bytes, for ranks that
    start; None is what the spec comes to. wake_after: seconds after which the same world gives another plan; 0.0
    means at once (after the status was written), None means never. active: whether the finalizer must stay; where it is
    False and the DSortJob is not being deleted, `wake_after` alone says when to look again.
    """

    status: DSortJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    stop: Stop | None = None
    throttle_level: int = 0
    memory_budget: int | None = None
    wake_after: float | None = None
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Bounds of the operator's patience, in seconds, and what it was allowed."""

    allow_host_paths: bool = False
    """Whether jobs may name folders of the nodes."""
    network_policy: bool = False
    """Whether each job gets a NetworkPolicy."""
    progress_seconds: float = 3.0
    """Mere progress is written no more often than this."""
    throttle_seconds: float = 5.0
    """A step of the throttle level is given this long to work before the next one."""
    silence_seconds: float = 30.0
    """A rank that said nothing for so long is ready only if its pod is."""
    lost_node_seconds: float = 60.0
    """A pod that was told to end on a node that is not Ready is given up after this."""
    cleanup_seconds: float = 150.0
    """The cleanup Job is given up after this."""
    retry_seconds: float = 30.0
    """Pods that could not all start are released and tried again after this, up to twice as much."""
    look_again_seconds: float = 30.0
    """What the operator has no watch on, such as claims and nodes, is looked at this often while a job waits for it."""
