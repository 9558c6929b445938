"""Builders for what an operator sees: DSortJobs, pods, Jobs and reports, each as usual but for what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any, Final

from dsort_api.manifest import Counts
from dsort_api.messages import (
    Failure,
    JobDefinition,
    Memory,
    Observed,
    Outcome,
    Phase,
    PlannedOutput,
    PlannedShard,
    PlanTotals,
    Progress,
)
from dsort_api.reasons import Reason
from dsort_api.spec import load_job
from dsort_api.status import DSortJobStatus
from dsort_operator.children import WorkerPod, WorkersJob
from dsort_operator.world import Report

T0: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
UID: Final = "4c1e8a52-uid"
SHARED: Final = {"data": ("ReadWriteMany",)}
"""The claims of a job as usual."""


def job_body(*, labels: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A DSortJob of two pods on a shared claim; `spec` replaces whole fields of the spec, None removes them."""
    fields: dict[str, Any] = {
        "input": {"url": "pvc://data/in"},
        "output": {"url": "pvc://data/out", "name": "s-%04d", "shardSize": "1Mi"},
        "workers": {"count": 2},
        **spec,
    }
    return {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {
            "name": "shuffle",
            "namespace": "team",
            "uid": UID,
            "generation": 1,
            "creationTimestamp": T0.isoformat(),
            "labels": dict(labels or {}),
        },
        "spec": {name: value for name, value in fields.items() if value is not None},
    }


def definition_of(body: Mapping[str, Any], *, pods: int = 2) -> JobDefinition:
    """The definition of a job with so many pods."""
    spec = load_job(body, strict=True).spec
    lanes = spec.workers.lanes
    metadata = body["metadata"]
    return JobDefinition(
        id=metadata["uid"], name=metadata["name"], spec=spec, ranks=pods * lanes, lanes=lanes
    )


def stored(status: DSortJobStatus) -> dict[str, Any]:
    """A status as the API server has it."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def workers_job(**changes: Any) -> WorkersJob:
    """A Job of two pods that runs."""
    usual = {
        "name": "shuffle-1",
        "uid": "job-1",
        "suspended": False,
        "completions": 2,
        "created": T0,
        "started": T0,
    }
    return WorkersJob(**{**usual, **changes})


def worker_pod(index: int, **changes: Any) -> WorkerPod:
    """A pod that runs, and is ready."""
    usual = {
        "name": f"shuffle-1-{index}-x",
        "uid": f"pod-{index}",
        "index": index,
        "phase": "Running",
        "ip": f"10.0.0.{index + 1}",
        "node": f"node-{index}",
        "ready": True,
        "scheduled": True,
        "created": T0,
    }
    return WorkerPod(**{**usual, **changes})


def failed_pod(index: int, **changes: Any) -> WorkerPod:
    """A pod that failed, with exit code 1 and without a word."""
    return worker_pod(index, **{"phase": "Failed", "ready": False, "exit_code": 1, **changes})


def report(
    rank: int,
    phase: Phase = Phase.CREATE,
    *,
    age: float = 1.0,
    pod: str | None = None,
    rate: float = 0.0,
    past: Mapping[Phase, Progress] | None = None,
    failure: Failure | None = None,
    outcome: Outcome | None = None,
    memory: Memory | None = None,
    **progress: int,
) -> Report:
    """What a rank said from the pod of that index."""
    observed = Observed(
        epoch="e",
        rank=rank,
        version=1,
        phase=phase,
        progress=Progress(**progress),
        memory=memory or Memory(),
        failure=failure,
        outcome=outcome,
    )
    return Report(
        observed=observed, age=age, pod=f"pod-{rank}" if pod is None else pod, rate=rate, past=past or {}
    )


def failure(reason: Reason = Reason.CORRUPT_SHARD, message: str = "shard a.tar: no header") -> Failure:
    """A failure that another try would meet again."""
    return Failure(reason=reason, message=message)


def filled(percent: float, **more: Any) -> Memory:
    """The memory of a pod of 1 GiB that is used so far."""
    return Memory(source="cgroup2", limit=1 << 30, unreclaimable=ceil(percent * (1 << 30) / 100), **more)


def planned(*shards: tuple[str, int, int]) -> Outcome:
    """The outcome of a dry run: name, bytes and records of each shard."""
    return Outcome(state="Planned", plan=plan_of(*shards))


def plan_of(*shards: tuple[str, int, int], counts: Counts | None = None) -> PlannedOutput:
    """The plan of a dry run."""
    listed = [PlannedShard(name=name, bytes=size, records=records) for name, size, records in shards]
    totals = PlanTotals(
        shards=len(shards),
        records=sum(records for _, _, records in shards),
        bytes=sum(size for _, size, _ in shards),
    )
    return PlannedOutput(totals=totals, shards=listed, counts=counts or Counts())
