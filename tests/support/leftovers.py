"""What a run of tests that was cut off has left in a live cluster: it is in the way of the next, which takes it away."""

from __future__ import annotations

import contextlib
import urllib.error
from typing import Final

from tests.support.livecluster import JOBS, TEST_LABEL, LiveCluster, Object
from tests.support.release import CRD

_BACKGROUND: Final = {"propagationPolicy": "Background"}
_CLUSTER_WIDE: Final = (
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
    "/api/v1/persistentvolumes",
)
_OF_RELEASES: Final = tuple(
    f"/apis/rbac.authorization.k8s.io/v1/{kind}" for kind in ("clusterrolebindings", "clusterroles")
)
_RELEASE_NAMESPACE: Final = "meta.helm.sh/release-namespace"


def clear(cluster: LiveCluster) -> list[str]:
    """Remove it all; returns the namespaces that there were. Whoever calls it is the only one who tests on this cluster."""
    labelled = cluster.items(f"/api/v1/namespaces?labelSelector={TEST_LABEL}")
    # Operators go first: nobody puts a finalizer back then, and nobody makes pods anew.
    for kind in ("operator", "jobs"):
        for one in labelled:
            if one["metadata"]["labels"][TEST_LABEL] == kind:
                _empty(cluster, one["metadata"]["name"])
    names: list[str] = [one["metadata"]["name"] for one in labelled]
    for path in _CLUSTER_WIDE:
        for one in _those(cluster, f"{path}?labelSelector={TEST_LABEL}"):
            cluster.delete(f"{path}/{one['metadata']['name']}")
    for path in _OF_RELEASES:
        for one in cluster.items(path):
            if one["metadata"].get("annotations", {}).get(_RELEASE_NAMESPACE) in names:
                cluster.delete(f"{path}/{one['metadata']['name']}")
    definition = cluster.find(CRD)
    if definition is not None and "deletionTimestamp" in definition["metadata"]:
        cluster.until(lambda: cluster.find(CRD) is None, "the definition of DSortJobs is there")
    return names


def _empty(cluster: LiveCluster, name: str) -> None:
    """Remove a namespace. Where no operator runs, only one without jobs can go."""
    jobs = f"{JOBS}/namespaces/{name}/dsortjobs"
    cluster.delete(jobs)
    for job in _those(cluster, jobs):
        with contextlib.suppress(urllib.error.HTTPError):  # gone meanwhile
            cluster.patch(f"{jobs}/{job['metadata']['name']}", {"metadata": {"finalizers": None}})
    cluster.delete(f"/apis/batch/v1/namespaces/{name}/jobs", _BACKGROUND)
    of_jobs = f"/api/v1/namespaces/{name}/pods?labelSelector=batch.kubernetes.io%2Fjob-name"
    cluster.until(lambda: not cluster.items(of_jobs), f"{name} has pods")
    cluster.delete_and_wait(f"/api/v1/namespaces/{name}")


def _those(cluster: LiveCluster, path: str) -> list[Object]:
    """A list; nothing where the cluster does not know such objects."""
    try:
        return cluster.items(path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return []
