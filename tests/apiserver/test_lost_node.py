"""A pod on a node that does not come back: the operator calls it failed, and the Job makes another, which costs no try."""

from __future__ import annotations

from typing import Any, Final, cast

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from dsort_operator.actions import MarkPodFailed, PlanSettings
from dsort_operator.gather import Gatherer
from dsort_operator.jobcontrol import JobControl
from dsort_operator.kube import Kube
from dsort_operator.manifests import workers_job
from dsort_operator.metrics import Metrics
from dsort_operator.reconcile import Reconciler
from dsort_operator.settings import Settings
from dsort_operator.sight import Sight
from dsort_operator.world import World
from tests.support.playground import NAMESPACED, Place, await_that
from tests.support.worlds import definition_of, job_body

SETTINGS: Final = Settings(image="dsort:test")


def reconciler(kube: Kube) -> Reconciler:
    """Of a job that nobody watches."""
    sight = Sight().of("u1")
    control = cast("JobControl", None)
    gatherer = Gatherer(kube=kube, sight=sight, control=control)
    return Reconciler(
        kube=kube,
        sight=sight,
        control=control,
        gatherer=gatherer,
        settings=SETTINGS,
        bounds=PlanSettings(),
        metrics=Metrics(dict),
    )


def job_of(place: Place) -> dict[str, Any]:
    """The Job of a job of one pod without a second try; no node of the cluster runs its pods."""
    definition = definition_of(job_body(backoffLimit=0, workers={"count": 1}), pods=1)
    body = workers_job(definition, namespace=place.namespace, suspended=False, queue="", settings=SETTINGS)
    del body["metadata"]["ownerReferences"], body["metadata"]["labels"]
    body["spec"]["template"]["metadata"]["labels"] = {}
    created: dict[str, Any] = place.plane.request(
        "POST", f"/apis/batch/v1/namespaces/{place.namespace}/jobs", body
    )
    return created


@pytest.mark.asyncio
async def test_pod_of_a_lost_node_is_replaced_and_costs_no_try(place: Place) -> None:
    job = job_of(place)["metadata"]
    await_that(lambda: place.pods, "there is a pod")
    (pod,) = place.pods
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod['metadata']['name']}"
    place.plane.request(
        "PATCH",
        f"{path}/status",
        {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
        kind="application/merge-patch+json",
    )
    configuration = Configuration()
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(place.plane.kubeconfig(NAMESPACED)),
        client_configuration=configuration,
        persist_config=False,
    )
    world = World(job=None, name="a-job", namespace=place.namespace, uid="u1")
    async with Kube(configuration) as kube:
        mark = MarkPodFailed(name=pod["metadata"]["name"], uid=pod["metadata"]["uid"])
        assert await reconciler(kube)._carry_out(mark, world)

    def again() -> list[dict[str, Any]]:
        return [one for one in place.pods if one["metadata"]["uid"] != pod["metadata"]["uid"]]

    await_that(again, "there is another pod", shows=lambda: str(place.items("/apis/batch/v1/jobs")))
    now = place.plane.request("GET", path)["status"]
    assert now["phase"] == "Failed"
    assert {one["type"] for one in now["conditions"]} == {"Ready", "DisruptionTarget"}
    (same,) = place.items("/apis/batch/v1/jobs")
    assert same["metadata"]["uid"] == job["uid"]
    assert "failedIndexes" not in same["status"] or same["status"]["failedIndexes"] == ""
