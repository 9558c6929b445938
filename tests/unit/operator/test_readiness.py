"""Which ranks are ready, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dsort_api.messages import Phase
from dsort_operator.children import WorkerPod
from dsort_operator.readiness import Readiness, readiness
from dsort_operator.world import Refusal, World
from tests.support.worlds import T0, failed_pod, failure, job_body, report, worker_pod, workers_job

SILENCE = 30.0


def look(*pods: WorkerPod, lanes: int = 1, **seen: Any) -> Readiness:
    world = replace(World.of(job_body()), pods=pods, **seen)
    return readiness(world, lanes=lanes, silence=SILENCE)


@pytest.mark.parametrize(
    ("pod", "ready"),
    [
        (worker_pod(0), 1),
        (worker_pod(0, phase="Succeeded", ready=False), 1),
        (failed_pod(0, ready=True), 0),
        (worker_pod(0, deleted=T0), 0),
        (worker_pod(0, ready=False), 0),
    ],
)
def test_rank_is_ready_as_its_pod_is(pod: WorkerPod, ready: int) -> None:
    assert look(pod).ready == ready


@pytest.mark.parametrize(("age", "pod", "ready"), [(29, "pod-0", 1), (30, "pod-0", 0), (1, "another", 0)])
def test_rank_that_answers_is_ready_before_its_pod_is(age: float, pod: str, ready: int) -> None:
    assert look(worker_pod(0, ready=False), reports={0: report(0, age=age, pod=pod)}).ready == ready


def test_pod_speaks_for_all_its_lanes() -> None:
    assert look(worker_pod(0), worker_pod(1, ready=False), lanes=3).ready == 3


@pytest.mark.parametrize(
    ("pod", "seen", "reason", "says"),
    [
        (failed_pod(0), {}, "Error", "exit code 1"),
        (worker_pod(0), {"lost_nodes": {"node-0": T0}}, "NodeLost", "node-0 is not ready"),
        (worker_pod(0, deleted=T0), {}, "Terminating", "told to end"),
        (
            worker_pod(0, phase="Pending", unschedulable_message="0/3 nodes"),
            {},
            "Unschedulable",
            "pod shuffle-1-0-x: 0/3 nodes",
        ),
        (worker_pod(0, waiting_reason="ImagePullBackOff"), {}, "ImagePullBackOff", "ImagePullBackOff"),
        (worker_pod(0, waiting_reason="Err-Odd", waiting_message="no"), {}, "ErrOdd", "no"),
        (worker_pod(0, waiting_reason="7"), {}, "Unknown", "7"),
        (
            worker_pod(0),
            {"refused": {0: Refusal(message="refused it", lasting=True)}},
            "ProtocolMismatch",
            "rank 0 refused it",
        ),
        (
            worker_pod(0),
            {"refused": {0: Refusal(message="refused it", lasting=False)}},
            "Refused",
            "rank 0 refused it",
        ),
        (worker_pod(0), {"reports": {0: report(0, failure=failure())}}, "CorruptShard", "no header"),
        (worker_pod(0), {"reports": {0: report(0, age=31)}}, "Silent", "does not answer"),
    ],
)
def test_what_is_wrong_is_named(pod: WorkerPod, seen: dict[str, Any], reason: str, says: str) -> None:
    (wrong,) = look(pod, **seen).abnormal
    assert (wrong.rank, wrong.pod, wrong.reason) == (0, "shuffle-1-0-x", reason)
    assert says in wrong.message


@pytest.mark.parametrize(
    ("pod", "seen"),
    [
        (worker_pod(0), {}),
        (worker_pod(0, phase="Pending", waiting_reason="ContainerCreating"), {}),
        (worker_pod(0), {"reports": {0: report(0)}}),
        (worker_pod(0), {"reports": {0: report(0, pod="another", failure=failure())}}),
        (worker_pod(0, phase="Succeeded"), {"reports": {0: report(0, age=99)}}),
    ],
)
def test_what_is_well_is_not_named(pod: WorkerPod, seen: dict[str, Any]) -> None:
    assert look(pod, **seen).abnormal == ()


def test_what_keeps_kubernetes_from_making_pods_is_told_of_the_first_rank_without_one() -> None:
    seen = {"workers": workers_job(completions=4), "pods_refused": "exceeded quota: small"}
    (wrong,) = look(worker_pod(0), worker_pod(1), lanes=3, **seen).abnormal
    assert (wrong.rank, wrong.pod, wrong.reason, wrong.message) == (
        6,
        "",
        "FailedCreate",
        "exceeded quota: small",
    )


def test_list_of_abnormal_ranks_is_bounded_and_in_order() -> None:
    pods = [failed_pod(index) for index in reversed(range(30))]
    assert [one.rank for one in look(*pods, lanes=2).abnormal] == list(range(0, 20, 2))


def test_job_moves_when_a_rank_of_a_live_pod_is_past_its_start() -> None:
    assert look(worker_pod(0), reports={0: report(0, Phase.SCAN)}).moving
    assert not look(worker_pod(0), reports={0: report(0, Phase.STARTING)}).moving
    assert not look(worker_pod(0), reports={0: report(0, Phase.SCAN, pod="gone")}).moving
