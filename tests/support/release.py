"""A release of the chart on a live cluster."""

from __future__ import annotations

from typing import Any, Final, Self

from tests.support.helm import CHART
from tests.support.livecluster import LiveCluster

CRD: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dsortjobs.dsort.dev"


class Release:
    """The release `dsort` in a namespace of its own, with the application's image; a context manager."""

    name: Final = "dsort"

    def __init__(self, cluster: LiveCluster, *, namespace: str, image: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.deployment = f"{self.name}-dsort-operator"
        repository, _, tag = image.rpartition(":")
        self._values = [f"--set-string=image.repository={repository},image.tag={tag}"]
        self._had_crd = False

    def __enter__(self) -> Self:
        self._had_crd = self.cluster.find(CRD) is not None
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()
        path = f"/api/v1/namespaces/{self.namespace}"
        self.cluster.delete(path)
        self.cluster.until(
            lambda: self.cluster.find(path) is None, f"the namespace {self.namespace} is there"
        )
        if not self._had_crd:
            self.cluster.delete(CRD)  # the chart keeps it, and all DSortJobs with it

    def install(self, *flags: str) -> str:
        """Install or upgrade, and wait until the operator is ready; what helm says."""
        return self.cluster.helm(
            *("upgrade", "--install", self.name, str(CHART), f"--namespace={self.namespace}"),
            *("--create-namespace", "--take-ownership", "--wait", "--timeout=180s", *self._values, *flags),
        )

    def test(self, *flags: str) -> str:
        """`helm test`: what it says."""
        return self.cluster.helm("test", self.name, f"--namespace={self.namespace}", "--timeout=180s", *flags)

    def uninstall(self) -> str:
        """What helm says; "" when there was none."""
        return self.cluster.helm(
            *("uninstall", self.name, f"--namespace={self.namespace}", "--ignore-not-found"),
            *("--wait", "--timeout=180s"),
        )

    def operators(self) -> list[dict[str, Any]]:
        """The pods of the operator that are not ending."""
        pods = self.cluster.items(
            f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/component%3Doperator"
        )
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
