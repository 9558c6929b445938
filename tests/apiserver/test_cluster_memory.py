"""What the API server says of memory, asked for with the rights of an operator: nodes that are short of it, and the metrics API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from dsort_operator.cluster_memory import KEPT_SECONDS, METRICS, MOST_ASKED, ClusterMemory
from dsort_operator.kube import Kube
from dsort_operator.world import World
from tests.support.apiserver import ControlPlane
from tests.support.crd import MERGE, await_that
from tests.support.playground import CLUSTERWIDE, NAMESPACED, Place
from tests.support.worlds import definition_of, filled, job_body, report, worker_pod

MIB: Final = 1 << 20
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BODY: Final = job_body(memory={"budget": "70Mi"})
DEFINITION: Final = definition_of(BODY)


@pytest.fixture
def metrics_api(place: Place) -> Iterator[str]:
    """The API that a metrics server has, as a custom resource; the path of its pods' figures."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    crd = {
        "metadata": {
            "name": "pods.metrics.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "metrics.k8s.io",
            "scope": "Namespaced",
            "names": {"plural": "pods", "kind": "PodMetrics"},
            "versions": [version],
        },
    }
    plane, path = place.plane, f"{METRICS}/namespaces/{place.namespace}/pods"
    plane.request("POST", CRDS, crd)
    try:
        await_that(lambda: plane.request("GET", path)["kind"] == "PodMetricsList", "the figures are served")
        yield path
    finally:
        plane.request("DELETE", f"{CRDS}/pods.metrics.k8s.io")


@pytest.fixture
def short_node(place: Place) -> Iterator[str]:
    """A node that is short of memory, and takes no pods."""
    name = f"short-{place.namespace}"
    plane = place.plane
    plane.request("POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": {"unschedulable": True}})
    conditions = [
        {"type": "Ready", "status": "True"},
        {"type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory"},
    ]
    path = f"/api/v1/nodes/{name}"
    plane.request("PATCH", f"{path}/status", {"status": {"conditions": conditions}}, kind=MERGE)
    try:
        yield name
    finally:
        plane.request("DELETE", path)


class Room:
    """A ClusterMemory, and a world in a namespace. `clock` is the test's."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.now = 0.0
        self.memory = ClusterMemory(kube, silence=30.0, clock=lambda: self.now)
        self.world = replace(World.of(BODY), namespace=namespace)

    async def look(self, **seen: Any) -> tuple[dict[str, tuple[int, int]], frozenset[str]]:
        return await self.memory.look(replace(self.world, **seen), definition=DEFINITION)


@asynccontextmanager
async def room(plane: ControlPlane, namespace: str, *, user: str = CLUSTERWIDE) -> AsyncIterator[Room]:
    configuration = Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(plane.kubeconfig(user)), client_configuration=configuration, persist_config=False
    )
    async with Kube(configuration) as kube:
        yield Room(kube, namespace)


def figures(place: Place, path: str, name: str, *amounts: str) -> None:
    """What the metrics API says of a pod's containers."""
    containers = [{"name": f"c{at}", "usage": {"memory": amount}} for at, amount in enumerate(amounts)]
    body = {
        "apiVersion": "metrics.k8s.io/v1beta1",
        "kind": "PodMetrics",
        "metadata": {"name": name},
        "containers": containers,
    }
    place.plane.request("POST", path, body)


@pytest.mark.asyncio
async def test_pod_that_does_not_answer_has_the_figures_of_the_cluster(
    place: Place, metrics_api: str
) -> None:
    silent, heard, unknown = worker_pod(0), worker_pod(1), worker_pod(2)
    figures(place, metrics_api, silent.name, "60Mi", "4096Ki")
    figures(place, metrics_api, heard.name, "99Mi")
    reports = {0: report(0, age=31.0, memory=filled(10)), 1: report(1, memory=filled(10))}
    async with room(place.plane, place.namespace, user=NAMESPACED) as here:
        measured, _ = await here.look(pods=(silent, heard, unknown), reports=reports)
        assert measured == {"pod-0": (64 * MIB, 100 * MIB)}
        # What is known is kept for a while: the next looks cost nothing.
        figures(place, metrics_api, unknown.name, "7Mi")
        assert (await here.look(pods=(silent, unknown)))[0] == measured
        here.now = KEPT_SECONDS
        measured, _ = await here.look(pods=(silent, unknown))
        assert measured == {"pod-0": (64 * MIB, 100 * MIB), "pod-2": (7 * MIB, 100 * MIB)}


@pytest.mark.asyncio
async def test_cluster_without_a_metrics_api_has_no_figures(place: Place) -> None:
    async with room(place.plane, place.namespace) as here:
        assert await here.look(pods=(worker_pod(0, node=""),)) == ({}, frozenset())


@pytest.mark.asyncio
async def test_nodes_that_are_short_of_memory_are_known(place: Place, short_node: str) -> None:
    pods = [worker_pod(index) for index in range(MOST_ASKED)]
    fullest = worker_pod(9, node=short_node)
    reports = {9: report(9, memory=filled(80))}
    async with room(place.plane, place.namespace) as here:
        assert (await here.look(pods=(*pods, fullest)))[1] == frozenset()  # nobody is known to be full
        here.now = KEPT_SECONDS
        answering = {pod.index: report(pod.index, memory=filled(10)) for pod in pods}
        looked = await here.look(pods=(*pods, fullest), reports={**reports, **answering})
        assert looked == ({}, frozenset({short_node}))


@pytest.mark.asyncio
async def test_figures_that_the_operator_may_not_see_are_done_without(
    place: Place, metrics_api: str, caplog: pytest.LogCaptureFixture
) -> None:
    pods = (worker_pod(0, node=""), worker_pod(1, node=""))
    async with room(place.plane, "default", user=NAMESPACED) as here:
        for seconds in (0.0, 1.0, KEPT_SECONDS, 3 * KEPT_SECONDS):
            here.now = seconds
            assert await here.look(pods=pods) == ({}, frozenset())
    assert len([line for line in caplog.messages if line.startswith(f"{METRICS} cannot be seen")]) == 1
