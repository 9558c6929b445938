"""Gathering: when the operator asks whether the namespace of a job is being deleted. Its rights there end soon after the pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from dsort_api.labels import COMPONENT_LABEL, WORKER_COMPONENT
from dsort_operator.gather import Gatherer
from dsort_operator.kube import ApiError

pytestmark = pytest.mark.asyncio

JOB = {
    "metadata": {"namespace": "ns", "finalizers": ["dsort.dev/operator"]},
    "status": {"startTime": "2026-03-01T12:00:00Z"},
}


@dataclass
class Namespaces:
    """Answers what a namespace is like, and notes how often it was asked. status: of its refusal."""

    metadata: dict[str, Any] = field(default_factory=dict)
    status: int = 0
    asked: int = 0

    async def get(self, _: str) -> dict[str, Any]:
        self.asked += 1
        if self.status:
            raise ApiError("GET", status=self.status, reason="No", message="no")
        return {"metadata": self.metadata}


def pod(uid: str, **metadata: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "labels": {COMPONENT_LABEL: WORKER_COMPONENT}, **metadata}}


async def looks(kube: Namespaces, *steps: list[dict[str, Any]]) -> Gatherer:
    """One look at each of these sights of pods."""
    sight = SimpleNamespace(pods=[], namespace_ending=False)
    gatherer = Gatherer(kube=kube, sight=sight, control=None)  # type: ignore[arg-type]
    for sight.pods in steps:
        await gatherer._look_at_namespace(JOB)
    return gatherer


async def test_pods_that_stay_or_come_are_no_reason_to_ask() -> None:
    kube = Namespaces({"deletionTimestamp": "now"})
    gatherer = await looks(kube, [], [pod("a")], [pod("a"), pod("b")])
    assert (kube.asked, gatherer.sight.namespace_ending) == (0, False)


@pytest.mark.parametrize(
    "then",
    [[pod("a", deletionTimestamp="now"), pod("b")], [pod("b")], []],
    ids=["one is ended", "one is gone", "all are gone"],
)
async def test_pods_that_go_tell_of_a_namespace_that_goes(then: list[dict[str, Any]]) -> None:
    kube = Namespaces({"deletionTimestamp": "now"})
    gatherer = await looks(kube, [pod("a"), pod("b")], then, then)
    assert (kube.asked, gatherer.sight.namespace_ending) == (1, True)


async def test_pods_that_are_replaced_in_a_namespace_that_stays_are_asked_about_once() -> None:
    kube = Namespaces()
    gatherer = await looks(kube, [pod("a")], [pod("b")], [pod("b")])
    assert (kube.asked, gatherer.sight.namespace_ending) == (1, False)


async def test_without_the_right_to_look_the_job_goes_on() -> None:
    kube = Namespaces(status=403)
    gatherer = await looks(kube, [pod("a")], [], [])
    assert (kube.asked, gatherer.sight.namespace_ending) == (1, False)


async def test_an_api_server_that_does_not_answer_is_asked_again() -> None:
    kube = Namespaces({"deletionTimestamp": "now"}, status=500)
    gatherer = await looks(kube, [pod("a")])
    gatherer.sight.pods = []  # type: ignore[misc]
    with pytest.raises(ApiError):
        await gatherer._look_at_namespace(JOB)
    kube.status = 0
    await gatherer._look_at_namespace(JOB)
    assert (kube.asked, gatherer.sight.namespace_ending) == (2, True)


@pytest.mark.parametrize(
    ("finalizers", "status", "asked"),
    [
        ([], {"startTime": "then"}, 1),
        ([], {}, 0),
        (["dsort.dev/operator"], {"startTime": "then"}, 0),
        ([], {"startTime": "then", "conditions": [{"type": "Failed", "status": "True"}]}, 0),
    ],
    ids=["let go of while it ran", "not begun", "held", "ended"],
)
async def test_of_a_job_that_an_operator_has_let_go_of_it_is_asked_why(
    finalizers: list[str], status: dict[str, Any], asked: int
) -> None:
    kube = Namespaces({"deletionTimestamp": "now"})
    gatherer = await looks(kube)
    await gatherer._look_at_namespace(
        {"metadata": {"namespace": "ns", "finalizers": finalizers}, "status": status}
    )
    assert (kube.asked, gatherer.sight.namespace_ending) == (asked, bool(asked))
