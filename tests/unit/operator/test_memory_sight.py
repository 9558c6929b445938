"""What is known of the memory of a job's pods, and of which nothing is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dsort_api.messages import Memory
from dsort_operator.children import WorkerPod
from dsort_operator.memory_policy import Usage
from dsort_operator.memory_sight import MemorySight, memory_sight
from dsort_operator.world import Report, World
from tests.support.worlds import failed_pod, filled, job_body, report, worker_pod

GIB = 1 << 30
HALF = Usage(rank=0, pod="shuffle-1-0-x", used=GIB // 2, limit=GIB)


def sight(
    *pods: WorkerPod,
    reports: Mapping[int, Report] | None = None,
    lanes: int = 1,
    short: frozenset[str] = frozenset(),
    measured: Mapping[str, tuple[int, int]] | None = None,
) -> MemorySight:
    world = replace(
        World.of(job_body(), reports=reports), pods=pods, short_nodes=short, measured=measured or {}
    )
    return memory_sight(world, lanes=lanes, silence=30.0)


def test_what_a_rank_says_of_its_pod_counts() -> None:
    reports = {0: report(0, memory=filled(50)), 1: report(1, memory=filled(25, pressure=3.5))}
    second = Usage(rank=1, pod="shuffle-1-1-x", used=GIB // 4, limit=GIB, pressure=3.5)
    assert sight(worker_pod(1), worker_pod(0), reports=reports) == ((HALF, second), (), True)


def test_last_word_of_its_lanes_is_that_of_the_pod() -> None:
    reports = {
        2: report(2, pod="pod-1", age=9.0, memory=filled(10)),
        3: report(3, pod="pod-1", age=2.0, memory=filled(50)),
    }
    (used,), silent, _ = sight(worker_pod(1), reports=reports, lanes=2)
    assert (used.rank, used.percent, silent) == (3, 50.0, ())


def test_rank_that_tells_no_figures_decides_nothing_and_is_not_missing() -> None:
    reports = {0: report(0, memory=filled(50)), 1: report(1, memory=Memory(rss=99))}
    assert sight(worker_pod(0), worker_pod(1), reports=reports) == ((HALF,), (), True)


def test_words_of_another_pod_or_of_long_ago_do_not_count() -> None:
    reports = {0: report(0, age=31.0, memory=filled(50)), 1: report(1, pod="before", memory=filled(50))}
    pods = (worker_pod(0), worker_pod(1))
    assert sight(*pods, reports=reports) == ((), pods, False)
    assert sight(*pods, reports=reports, measured={"pod-0": (1, GIB)})[1:] == (pods, False)


def test_pods_that_do_not_run_are_not_missing() -> None:
    pods = [worker_pod(0, phase="Pending"), failed_pod(1), worker_pod(2, exit_code=0)]
    assert sight(*pods) == ((), (), True)


def test_pod_that_does_not_answer_is_measured_by_the_cluster() -> None:
    measured = {"pod-0": (GIB // 2, GIB), "pod-1": (GIB, GIB)}
    reports = {1: report(1, memory=Memory())}
    seen = sight(worker_pod(0), worker_pod(1), reports=reports, measured=measured)
    assert seen == ((replace(HALF, working_set=True),), (worker_pod(0),), True)


def test_node_that_is_short_of_memory_is_named_with_or_without_figures() -> None:
    reports = {0: report(0, memory=filled(50)), 1: report(1, memory=Memory())}
    pods = [worker_pod(0), worker_pod(1), worker_pod(2)]
    short = frozenset({"node-0", "node-1"})
    bare = Usage(rank=1, pod="shuffle-1-1-x", short_node="node-1")
    seen = sight(*pods, reports=reports, short=short)
    assert seen == ((replace(HALF, short_node="node-0"), bare), (worker_pod(2),), False)
