"""What is there: a DSortJob, its children, and what its ranks say. Pure; nothing here decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from dsort_api.labels import FIELD_MANAGER, FINALIZER
from dsort_api.messages import JobDefinition, Observed, Phase, Progress
from dsort_api.reasons import DSortError
from dsort_api.spec import DSortJob, load_job
from dsort_api.status import DSortJobStatus, load_status
from dsort_operator.children import Body, CleanupJob, WorkerPod, WorkersJob, items, part, time_of

_FOREGROUND: Final = "foregroundDeletion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a rank said last.

    age: seconds since then. pod: uid of the pod that said it. rate: payload bytes per second of late. past: the last words of
    the phases that the rank has left, as far as they were heard.
    """

    observed: Observed
    age: float
    pod: str = ""
    rate: float = 0.0
    past: Mapping[Phase, Progress] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a rank does not take this operator's requests, as what follows its name. lasting: it would say the same again."""

    message: str
    lasting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that a plan is made from, for one DSortJob.

    job is None when its spec does not load, and problem says why. held: the operator's finalizer is on it. definition is what the ConfigMap holds. nodes: how many
    schedulable nodes match the template (`nodes.count_nodes`); None when nobody looked. claims: the access modes of
    each claim that the job names (`volumes.claims_of`), None for one that is not there. lost_nodes: since when each node of these pods is not Ready.
    short_nodes: those of them that are short of memory. pods_refused: what the API server says to the Job controller about pods that are
    missing. measured: working set and memory limit of pods that do not answer, as the
    cluster measures them, by uid. reports, refused: by rank. denied: what the API server said to an action that it refused for good (403,
    422), by the action's class name. written: when the status was written last.
    """

    job: DSortJob | None
    name: str
    namespace: str
    uid: str
    problem: DSortError | None = None
    generation: int = 1
    created: datetime | None = None
    deleted: datetime | None = None
    foreground: bool = False
    held: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    managed_by: str = ""
    status: DSortJobStatus = field(default_factory=DSortJobStatus)
    written: datetime | None = None
    namespace_deleting: bool = False
    definition: JobDefinition | None = None
    workers: WorkersJob | None = None
    pods: tuple[WorkerPod, ...] = ()
    cleanup: CleanupJob | None = None
    nodes: int | None = None
    lost_nodes: Mapping[str, datetime] = field(default_factory=dict)
    short_nodes: frozenset[str] = frozenset()
    pods_refused: str = ""
    measured: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    claims: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    reports: Mapping[int, Report] = field(default_factory=dict)
    refused: Mapping[int, Refusal] = field(default_factory=dict)
    denied: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        body: Body,
        *,
        definition: JobDefinition | None = None,
        workers: Body | None = None,
        pods: Sequence[Body] = (),
        cleanup: Body | None = None,
        nodes: int | None = None,
        lost_nodes: Mapping[str, datetime] | None = None,
        claims: Mapping[str, tuple[str, ...] | None] | None = None,
        namespace_deleting: bool = False,
        reports: Mapping[int, Report] | None = None,
        refused: Mapping[int, Refusal] | None = None,
        denied: Mapping[str, str] | None = None,
    ) -> Self:
        """From a DSortJob and its children, as the API server gave them."""
        metadata, spec = part(body, "metadata"), part(body, "spec")
        problem: DSortError | None = None
        job: DSortJob | None = None
        try:
            job = load_job(body, strict=False)
        except DSortError as error:
            problem = error
        managed_by = spec.get("managedBy")
        return cls(
            job=job,
            problem=problem,
            name=metadata.get("name", ""),
            namespace=metadata.get("namespace", ""),
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation") or 1,
            created=time_of(metadata.get("creationTimestamp")),
            deleted=time_of(metadata.get("deletionTimestamp")),
            foreground=_FOREGROUND in (metadata.get("finalizers") or ()),
            held=FINALIZER in (metadata.get("finalizers") or ()),
            labels=part(metadata, "labels"),
            managed_by=managed_by if isinstance(managed_by, str) else "",
            status=load_status(body.get("status")),
            written=_written(metadata),
            namespace_deleting=namespace_deleting,
            definition=definition,
            workers=WorkersJob.of(workers) if workers is not None else None,
            pods=tuple(sorted(map(WorkerPod.of, pods), key=lambda pod: (pod.index, pod.name))),
            cleanup=CleanupJob.of(cleanup) if cleanup is not None else None,
            nodes=nodes,
            lost_nodes=lost_nodes or {},
            claims=claims or {},
            reports=reports or {},
            refused=refused or {},
            denied=denied or {},
        )

    @property
    def deleting(self) -> bool:
        """Whether somebody deleted the DSortJob."""
        return self.deleted is not None

    @property
    def live_pods(self) -> tuple[WorkerPod, ...]:
        """The pods whose processes may still run."""
        return tuple(pod for pod in self.pods if pod.live)


def _written(metadata: Body) -> datetime | None:
    times = [
        when
        for one in items(metadata, "managedFields")
        if one.get("manager") == FIELD_MANAGER and one.get("subresource") == "status"
        if (when := time_of(one.get("time"))) is not None
    ]
    return max(times, default=None)
