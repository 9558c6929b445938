"""What is done to a job, an operator or a worker in the middle of a run, and what becomes of the output."""

from __future__ import annotations

import pytest

from tests.support.liveplace import LiveJob, Place
from tests.support.release import Release
from tests.support.running import MANIFEST


def result(job: LiveJob) -> dict[str, str]:
    """The shards that it wrote, when nothing else is left beside them and the manifest."""
    found = job.place.digests(job.name)
    assert found.pop(MANIFEST)
    left = [name for name in found if name.startswith(".dsort")]
    assert left == []
    return found


def visible(job: LiveJob) -> list[str]:
    """What a reader sees in the output."""
    return [name for name in job.place.digests(job.name) if not name.startswith(".")]


def test_namespace_that_is_deleted_waits_for_no_running_job(place: Place) -> None:
    with place.another("dsort-e2e-going") as going:
        going.make_input()
        job = going.submit(going.slow_job("going"))
        job.hold()
        assert len(job.workers()) == 2  # leaving the block deletes the namespace, and waits until it is gone


def test_job_goes_on_without_its_operator_and_completes_with_the_next_one(
    place: Place, release: Release, shards: dict[str, str]
) -> None:
    job = place.submit(place.slow_job("orphaned"))
    job.hold()
    pods = [pod["metadata"]["uid"] for pod in job.workers()]
    (operator,) = release.operators()
    name = operator["metadata"]["name"]
    place.cluster.kubectl("-n", release.namespace, "delete", "pod", name, "--force", "--grace-period=0")
    job.let_go()
    job.complete()
    assert sorted(pod["metadata"]["uid"] for pod in job.children("pods")) == sorted(pods)
    assert result(job) == shards


def test_lost_worker_is_replaced_and_the_bytes_are_the_same(place: Place, shards: dict[str, str]) -> None:
    job = place.submit(place.slow_job("bereft"))
    job.hold()
    lost, other = job.workers()
    name = lost["metadata"]["name"]
    place.cluster.kubectl("-n", place.name, "delete", "pod", name, "--force", "--grace-period=0")
    place.cluster.until(
        lambda: (
            lost["metadata"]["uid"] not in [pod["metadata"]["uid"] for pod in job.workers()]
            and len(job.workers()) == 2
        ),
        "the worker was not replaced",
    )
    job.let_go()
    job.complete()
    pods = {pod["metadata"]["uid"] for pod in job.children("pods")}
    assert other["metadata"]["uid"] in pods
    assert result(job) == shards


# Fills the memory of its container from many small processes, so that the largest, which the kernel kills, is another.
GREEDY = """
import os, signal
while True:
    if not os.fork():
        held = b"x" * (8 << 20)
        signal.pause()
"""


def test_worker_killed_for_want_of_memory_is_named(place: Place) -> None:
    job = place.submit(place.slow_job("starved"))
    job.hold()
    starved, _ = job.workers()
    name = starved["metadata"]["name"]
    place.cluster.start("kubectl", "-n", place.name, "exec", name, "--", "python3", "-c", GREEDY)
    place.cluster.until(
        lambda: [rank for rank in job.status["abnormalRanks"] if rank["reason"] == "OOMKilled"],
        "the status names no rank",
    )
    (rank,) = job.status["abnormalRanks"]
    assert (rank["rank"], rank["pod"]) == (0, name)
    assert "memory" in rank["message"]
    place.cluster.delete(job.path)
    place.cluster.until(lambda: not job.body, "the job is there", seconds=30)


@pytest.mark.parametrize(
    ("name", "resources", "missing"),
    [
        ("busy", {"requests": {"cpu": "1000"}}, "Insufficient cpu"),
        ("huge", {"limits": {"memory": "4Ti"}}, "Insufficient memory"),
    ],
)
def test_job_that_fits_no_node_waits_and_says_what_the_scheduler_says(
    place: Place, name: str, resources: dict[str, dict[str, str]], missing: str
) -> None:
    job = place.submit(place.job(name, workers={"template": {"spec": {"resources": resources}}}))
    place.cluster.until(
        lambda: missing in job.condition("WorkersReady").get("message", ""),
        "the condition has not the scheduler's words",
    )
    ready = job.condition("WorkersReady")
    assert (ready["status"], ready["reason"]) == ("False", "Unschedulable")
    assert "nodes are available" in ready["message"]
    assert job.status["ready"] == "0/2"
    place.cluster.delete(job.path)
    place.cluster.until(lambda: not job.body, "the job is there", seconds=30)
