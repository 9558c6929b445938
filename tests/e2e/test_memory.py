"""Memory of a worker's container that somebody else takes: the job is held back, let go, ended, or started again with less.

What takes it is a process in the container, so that the kernel's own accounts of the container say so.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from tests.e2e.test_life import result, visible
from tests.support import hog
from tests.support.livecluster import Object
from tests.support.liveplace import SLOW, LiveJob, Place
from tests.support.timeline import Timeline, artefacts

MIB: Final = 1 << 20
LIMIT: Final = 256
"""MiB of a worker's container."""
BUDGET: Final = 128
MARKS: Final = {"throttleAt": 72, "resumeAt": 64, "abortAt": 80}
"""Percentages of the limit; what a rank has by itself is below all of them."""
SAMPLE_SECONDS: Final = 0.25


def roomy_job(place: Place, name: str, **memory: Any) -> Object:
    """A slow job, in containers that have twice the memory that it plans with."""
    resources = {"requests": {"cpu": "1m"}, "limits": {"cpu": SLOW, "memory": f"{LIMIT}Mi"}}
    marks = {mark: f"{percent}%" for mark, percent in MARKS.items()}
    return place.job(
        name,
        memory={"budget": f"{BUDGET}Mi", **marks, **memory},
        workers={"template": {"spec": {"resources": resources}}},
    )


class Hog:
    """The process in the container of a pod. A context manager."""

    def __init__(self, job: LiveJob, pod: Object, *, timeline: Timeline, began: float) -> None:
        self._job = job
        self._pod = pod["metadata"]["name"]
        self._timeline = timeline
        self._began = began
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self, kind: str) -> None:
        """One of the kinds that hog.py knows."""
        program = Path(hog.__file__).read_text()
        namespace = self._job.place.name
        self._process = subprocess.Popen(
            ["kubectl", "-n", namespace, "exec", "-i", self._pod, "--", "python3", "-c", program, kind],
            env=self._job.cluster.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader.start()

    def take(self, percent: float) -> None:
        """Hold so much of the container's limit; 0 gives all back."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{percent}\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            t = time.monotonic() - self._began
            try:
                said = json.loads(line)
                self._timeline.add(t, percent=round(100 * said["used"] / said["limit"], 1), **said)
            except (ValueError, KeyError):
                self._timeline.add(t, hog=line.strip())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._reader.join(10)


@contextmanager
def watched(job: LiveJob, title: str) -> Iterator[tuple[Timeline, float]]:
    """What becomes of the job while the block runs, kept as an artefact."""
    timeline = Timeline(title, marks={name: float(mark) for name, mark in MARKS.items()})
    began = time.monotonic()
    over = threading.Event()

    def look() -> None:
        seen = None
        while not over.wait(SAMPLE_SECONDS):
            status = job.status
            conditions: list[Object] = status.get("conditions", [])
            throttled = next((one for one in conditions if one["type"] == "Throttled"), Object())
            now = {
                "state": status.get("state"),
                "level": status.get("memory", {}).get("level", 0),
                "memory": status.get("memory"),
                "throttled": {name: throttled.get(name) for name in ("status", "reason", "message")},
            }
            if now != seen:
                seen = now
                timeline.add(time.monotonic() - began, **now)

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield timeline, began
    finally:
        over.set()
        looker.join(60)
        timeline.keep(artefacts(), f"memory-{job.name}")


def events(job: LiveJob) -> list[tuple[str, str]]:
    """Reason and message of the events of a job, in their order."""
    found = job.cluster.items(f"/apis/events.k8s.io/v1/namespaces/{job.place.name}/events")
    ours = [one for one in found if one["regarding"].get("uid") == job.uid]
    return [(one["reason"], one["note"]) for one in sorted(ours, key=lambda one: str(one["eventTime"]))]


def told_of(job: LiveJob, reason: str) -> list[str]:
    """The messages of the events of a job that have this reason."""
    return [message for why, message in events(job) if why == reason]


def test_job_is_throttled_while_its_pod_is_short_of_memory_and_completes(
    place: Place, shards: dict[str, str]
) -> None:
    job = place.submit(roomy_job(place, "pressed", abortAt="95%"))
    job.hold()
    pod = job.workers()[1]
    name = pod["metadata"]["name"]
    with (
        watched(job, "A pod that is short of memory for a while") as (timeline, began),
        Hog(job, pod, timeline=timeline, began=began) as greedy,
    ):
        assert job.condition("Throttled")["reason"] == "NotThrottled"
        greedy.start("hold")
        greedy.take(84)
        job.cluster.until(lambda: job.holds("Throttled"), "the job is not throttled")
        throttled = job.condition("Throttled")
        assert throttled["reason"] == "MemoryPressure"
        assert f"rank 1 (pod {name})" in throttled["message"]
        assert f"of {LIMIT}.00 MiB" in throttled["message"]
        table = job.cluster.kubectl("-n", place.name, "get", "dsj", job.name).splitlines()
        assert dict(zip(*(line.split() for line in table), strict=False))["THROTTLED"] == "True"
        job.cluster.until(lambda: job.status["memory"]["level"] >= 2, "the level does not rise")
        greedy.take(0)
        job.cluster.until(lambda: not job.holds("Throttled"), "the job is not let go")
        assert job.condition("Throttled")["reason"] == "NotThrottled"
        assert job.status["memory"]["level"] == 0
        job.let_go()
        job.complete()
    assert result(job) == shards
    levels = [int(level) for _, level in timeline.of("level")]
    assert 2 <= max(levels) <= 4
    assert all(abs(now - was) <= 1 for was, now in pairwise(levels))
    told = [reason for reason, _ in events(job)]
    assert told.count("MemoryPressure") == told.count("MemoryRelieved") == max(levels)


def test_job_whose_pod_stays_short_of_memory_is_ended_with_what_to_change(place: Place) -> None:
    job = place.submit(roomy_job(place, "smothered", abortAfterSeconds=4))
    job.hold()
    pod = job.workers()[0]
    with (
        watched(job, "A pod that stays short of memory") as (timeline, began),
        Hog(job, pod, timeline=timeline, began=began) as greedy,
    ):
        greedy.start("hold")
        greedy.take(88)
        failed = job.failed()
    assert failed["reason"] == "MemoryLimitExceeded"
    assert pod["metadata"]["name"] in failed["message"]
    assert "resources.limits.memory in spec.workers.template" in failed["message"]
    job.without_pods(seconds=30)
    assert place.digests(job.name) == {}
    assert job.status["memory"]["level"] == 0
    assert max(level for _, level in timeline.of("level")) == 4


def test_rank_that_is_killed_for_want_of_memory_starts_again_with_less(
    place: Place, shards: dict[str, str]
) -> None:
    job = place.submit(roomy_job(place, "killed", abortAfterSeconds=600))
    job.hold()
    pod = job.workers()[1]
    with (
        watched(job, "A pod that the kernel kills") as (timeline, began),
        Hog(job, pod, timeline=timeline, began=began) as greedy,
    ):
        greedy.start("overflow")
        job.cluster.until(lambda: job.status.get("memory", {}).get("oomKills"), "no kill was counted")
        memory = job.status["memory"]
        assert memory["oomKilled"] == [pod["metadata"]["uid"]]
        less = BUDGET * MIB * 3 // 4
        assert memory["budget"] == less
        job.cluster.until(
            lambda: told_of(job, "OutOfMemory"), "no event tells of it"
        )  # it comes after the status
        (told,) = told_of(job, "OutOfMemory")
        assert f"pod {pod['metadata']['name']} was killed" in told

        def replaced() -> list[Object]:
            return [one for one in job.workers() if one["metadata"]["uid"] not in memory["oomKilled"]]

        job.cluster.until(lambda: len(replaced()) == 2, "the pod was not replaced")
        successor = next(one for one in replaced() if one["metadata"]["name"].startswith(pod_stem(pod)))
        job.cluster.until(
            lambda: job.metrics(successor).get("dsort_rank_memory_budget_bytes") == less,
            "the successor has another budget",
        )
        job.let_go()
        status = job.complete()
    assert (status["memory"]["oomKills"], status["memory"]["budget"]) == (1, less)
    assert visible(job)
    assert result(job) == shards


def pod_stem(pod: Object) -> str:
    """The name of a pod without what is its own: that of its successor begins with it."""
    stem: str = pod["metadata"]["name"].rpartition("-")[0]
    return stem
