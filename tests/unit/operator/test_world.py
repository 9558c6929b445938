"""What the API server says of a DSortJob and its children, read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dsort_api.labels import INDEX_LABEL
from dsort_api.messages import Phase
from dsort_operator.children import CleanupJob, WorkerPod, WorkersJob, time_of
from dsort_operator.world import World
from tests.support.worlds import T0, UID, job_body

STAMP = "2026-03-01T12:00:00Z"


def job(*conditions: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "b", "uid": "j", "creationTimestamp": STAMP},
        "spec": {"completions": 2, "suspend": True},
        "status": {"conditions": list(conditions), **status},
    }


def true(kind: str, **more: str) -> dict[str, Any]:
    return {"type": kind, "status": "True", **more}


def test_running_job_is_read() -> None:
    body = job(startTime=STAMP, active=2, succeeded=1)
    body["spec"]["suspend"] = False
    assert WorkersJob.of(body) == WorkersJob(
        name="b", uid="j", suspended=False, completions=2, active=2, succeeded=1, created=T0, started=T0
    )
    assert not WorkersJob.of(body).ended


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (true("Failed", reason="PodFailurePolicy", message="exit 6"), "PodFailurePolicy"),
        (
            true("FailureTarget", reason="MaxFailedIndexesExceeded", message="exit 6"),
            "MaxFailedIndexesExceeded",
        ),
        (true("Failed"), "Failed"),
        ({"type": "Failed", "status": "False", "reason": "PodFailurePolicy"}, ""),
    ],
)
def test_failure_of_a_job_counts_as_soon_as_it_is_decided(condition: dict[str, Any], reason: str) -> None:
    read = WorkersJob.of(job(condition))
    assert read.failed_reason == reason
    assert read.ended is bool(reason)


def test_suspension_of_a_job_counts_when_kubernetes_has_seen_it() -> None:
    assert WorkersJob.of(job()).suspended_since is None
    assert WorkersJob.of(job(true("Suspended", lastTransitionTime=STAMP))).suspended_since == T0
    resumed = {"type": "Suspended", "status": "False", "lastTransitionTime": STAMP}
    assert WorkersJob.of(job(resumed)).suspended_since is None


def test_complete_job_and_one_that_goes() -> None:
    assert WorkersJob.of(job(true("Complete"))).complete
    body = job()
    body["metadata"]["deletionTimestamp"] = STAMP
    assert WorkersJob.of(body).deleting
    assert WorkersJob.of({}).completions == 1


def pod(state: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "metadata": {
            "name": "b-1-x",
            "uid": "p",
            "labels": {INDEX_LABEL: "1"},
            "creationTimestamp": STAMP,
        },
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [true("Ready"), true("PodScheduled")],
            "containerStatuses": [{"name": "other", "state": {}}, {"name": "worker", "state": state or {}}],
        },
    }
    body["status"].update(changes)
    return body


def test_running_pod_is_read() -> None:
    assert WorkerPod.of(pod({"running": {}})) == WorkerPod(
        name="b-1-x",
        uid="p",
        index=1,
        phase="Running",
        ip="10.0.0.1",
        node="n",
        ready=True,
        scheduled=True,
        created=T0,
    )


def test_empty_pod_is_read() -> None:
    read = WorkerPod.of({})
    assert (read.index, read.phase, read.live, read.deleting) == (-1, "Pending", True, False)


def test_pod_without_a_place_has_the_words_of_the_scheduler() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    assert WorkerPod.of(pod(conditions=[condition])).unschedulable_message == "0/3 nodes"


def test_pod_whose_container_does_not_start_says_why() -> None:
    read = WorkerPod.of(pod({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}))
    assert (read.waiting_reason, read.waiting_message) == ("ImagePullBackOff", "no such image")


def test_pod_that_ended_says_how() -> None:
    read = WorkerPod.of(
        pod({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "{}"}}, phase="Failed")
    )
    assert (read.exit_code, read.oom_killed, read.termination_message, read.live) == (137, True, "{}", False)
    evicted = WorkerPod.of(pod(phase="Failed", reason="Evicted", message="low on disk"))
    assert (evicted.ended_reason, evicted.ended_message) == ("Evicted", "low on disk")
    assert WorkerPod.of(pod(phase="Succeeded")).succeeded


def test_pod_has_succeeded_as_soon_as_its_container_has() -> None:
    ended = {"terminated": {"exitCode": 0}}
    assert WorkerPod.of(pod(ended, phase="Running")).succeeded
    assert not WorkerPod.of(pod(ended, phase="Failed")).succeeded
    assert not WorkerPod.of(pod({"terminated": {"exitCode": 1}}, phase="Running")).succeeded
    assert not WorkerPod.of(pod({"running": {}})).succeeded


def test_cleanup_job_is_read() -> None:
    assert CleanupJob.of(job()) == CleanupJob(created=T0)
    assert CleanupJob.of(job(true("Complete"))).complete
    failed = CleanupJob.of(job(true("Failed", message="no")))
    assert (failed.failed, failed.message) == (True, "no")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (STAMP, T0),
        ("2026-03-01T12:00:00.5Z", datetime(2026, 3, 1, 12, 0, 0, 500000, tzinfo=UTC)),
        (None, None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_time_is_read_or_is_none(text: str | None, time: datetime | None) -> None:
    assert time_of(text) == time


def test_world_of_a_job_and_its_children() -> None:
    body = job_body(managedBy="a.b/c")
    body["metadata"]["finalizers"] = ["foregroundDeletion"]
    body["metadata"]["deletionTimestamp"] = STAMP
    body["metadata"]["managedFields"] = [
        {"manager": "kubectl", "time": "2026-03-01T13:00:00Z"},
        {"manager": "dsort-operator", "subresource": "status", "time": STAMP},
        {"manager": "dsort-operator", "time": "2026-03-01T13:00:00Z"},
    ]
    body["status"] = {"phase": "Create", "later": 1, "conditions": "nonsense"}
    second = pod()
    second["metadata"] = {"name": "b-0-x", "labels": {INDEX_LABEL: "0"}}
    world = World.of(body, workers=job(), pods=[pod(), second], cleanup=job(), nodes=3)
    assert world.job is not None
    assert world.problem is None
    assert (world.name, world.namespace, world.uid, world.generation) == ("shuffle", "team", UID, 1)
    assert (world.created, world.deleted, world.written) == (T0, T0, T0)
    assert world.deleting
    assert world.foreground
    assert world.managed_by == "a.b/c"
    assert world.status.phase is Phase.CREATE
    assert [one.index for one in world.pods] == [0, 1]
    assert world.workers is not None
    assert world.cleanup is not None
    assert world.nodes == 3
    assert len(world.live_pods) == 2


@pytest.mark.parametrize("managed_by", [7, None])
def test_job_that_does_not_load_is_a_world_with_a_problem(managed_by: object) -> None:
    body = job_body(input={"url": "nowhere"})
    body["spec"]["managedBy"] = managed_by
    world = World.of(body)
    assert world.job is None
    assert world.problem is not None
    assert world.problem.message.startswith("spec.")
    assert world.managed_by == ""
    assert not world.deleting
    assert world.written is None
