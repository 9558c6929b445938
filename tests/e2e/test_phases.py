"""Jobs are suspended, deleted and aborted in each of their phases, on real kubelets: the pods are freed, and what a reader sees
is whole or nothing.

Rank 0 of each job stands at a gate; the jobs of a test, one a phase, are side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.conftest import Reference, unable
from tests.support import desk
from tests.support.livecluster import Object
from tests.support.livegates import gate_at, gates, held, unavailable
from tests.support.liveplace import LiveJob, Place
from tests.support.running import MANIFEST, digests

POINTS: Final = {
    "Scan": "Scan",
    "Order": "Order",
    "Pack": "Pack",
    "committed": "Create",
    "Publish": "Publish",
}
"""Where ranks are held, and the phase that this is in. committed: with two shards staged."""
FEW: Final = (4, 300)
"""Shards of the input, and records in each."""
WITHIN: Final = 30
"""Seconds."""
_OUTPUTS: Final = "phases"
"""Folder of all outputs, so that one look tells what is in them."""


@pytest.fixture(scope="module", autouse=True)
def _gates(place: Place) -> Iterator[None]:
    if why := unavailable(place):
        unable(why)
    place.desk("make", place.folder("few"), *map(str, FEW))
    with gates(place):
        yield


def small_job(place: Place, name: str, point: str) -> Object:
    """A job whose pods ask for little, and for a gate."""
    resources = {"requests": {"cpu": "1m"}}
    return place.job(
        name,
        input={"url": place.url("few")},
        output={"url": place.url(f"{_OUTPUTS}/{name}"), "name": "out-%06d", "shardSize": "256Ki"},
        memory={"budget": "64Mi"},
        workers={"template": {"metadata": gate_at(point), "spec": {"resources": resources}}},
    )


def held_jobs(place: Place, what: str) -> list[LiveJob]:
    """A job in each phase, each with two pods."""
    jobs = {point: place.submit(small_job(place, f"{what}-{point.lower()}", point)) for point in POINTS}
    held(list(jobs.values()), place)
    for point, job in jobs.items():
        rank_zero = job.workers()[0]
        assert f'phase="{POINTS[point]}"' in job.exposition(rank_zero), job.name
        assert len(job.workers()) == 2
        assert job.body["metadata"]["finalizers"] == ["dsort.dev/operator"]
        assert job.uid
    return list(jobs.values())


def written(place: Place, jobs: list[LiveJob]) -> dict[str, dict[str, str]]:
    """By job, the files in its output, if there are any."""
    found: dict[str, dict[str, str]] = {}
    for path, digest in place.digests(_OUTPUTS).items():
        name, _, file = path.partition("/")
        found.setdefault(name, {})[file] = digest
    return {job.name: found[job.name] for job in jobs if job.name in found}


def left(began: float) -> float:
    """Of WITHIN."""
    return WITHIN - (time.monotonic() - began)


def test_suspended_in_any_phase_a_job_frees_its_pods_and_resumes_to_the_same_bytes(
    place: Place, reference: Reference
) -> None:
    desk.make(str(reference.folder / place.run / "few"), *FEW)
    manifest = small_job(place, "reference-few", "none")
    manifest["spec"]["output"]["url"] = place.url("reference-few")
    expected = digests(reference.result(manifest))
    jobs = held_jobs(place, "suspend")
    began = time.monotonic()
    for job in jobs:
        job.change(suspend=True)
    for job in jobs:
        job.without_pods(seconds=left(began))
        place.cluster.until(lambda job=job: job.holds("Suspended"), f"{job.name} is not suspended")  # type: ignore[misc]
    for name, files in written(place, jobs).items():
        assert not [file for file in files if not file.startswith(".dsort")], name
    for job in jobs:
        job.change(suspend=False)
    for job in jobs:
        job.complete()
    found = written(place, jobs)
    for job in jobs:
        assert found[job.name].pop(MANIFEST)
        assert found[job.name] == expected, job.name
    place.desk("remove", place.folder(_OUTPUTS))


def test_deleted_in_any_phase_a_job_is_gone_within_30_seconds_and_leaves_nothing(place: Place) -> None:
    jobs = held_jobs(place, "delete")
    began = time.monotonic()
    for job in jobs:
        place.cluster.delete(job.path)
    for job in jobs:
        place.cluster.until(lambda job=job: not job.body, f"{job.name} is there", seconds=left(began))  # type: ignore[misc]
        job.without_pods(seconds=left(began))
    print(f"{left(began):.1f} s were left")
    assert written(place, jobs) == {}


def test_aborted_in_any_phase_a_job_says_so_and_leaves_nothing(place: Place) -> None:
    jobs = held_jobs(place, "abort")
    began = time.monotonic()
    for job in jobs:
        job.change(abort=True)
    for job in jobs:
        place.cluster.until(
            lambda job=job: job.holds("Failed") and "finalizers" not in job.body["metadata"],  # type: ignore[misc]
            f"{job.name} has not failed",
            seconds=left(began),
        )
        assert job.condition("Failed")["reason"] == "Aborted"
        job.without_pods(seconds=left(began))
    print(f"{left(began):.1f} s were left")
    assert written(place, jobs) == {}
