"""A release of the chart on a live cluster."""

from __future__ import annotations

import re
from typing import Any, Final, Self

from tests.support.helm import CHART
from tests.support.livecluster import TEST_LABEL, LiveCluster

CRD: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dsortjobs.dsort.dev"


class Release:
    """The release `dsort` in a namespace of its own, with the application's image; a context manager."""

    name: Final = "dsort"

    def __init__(self, cluster: LiveCluster, *, namespace: str, image: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.deployment = f"{self.name}-dsort-operator"
        repository, _, tag = image.rpartition(":")
        assert re.fullmatch(r"[^@]+:[^@:/]+", image), f"{image} is not NAME:TAG"
        self._values = [f"--set-string=image.repository={repository},image.tag={tag}"]
        self._had_crd = False

    def __enter__(self) -> Self:
        labels = {TEST_LABEL: "operator"}
        self.cluster.ask(
            "POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": labels}}
        )
        self._had_crd = self._finds_crd()
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()
        self.cluster.delete_and_wait(f"/api/v1/namespaces/{self.namespace}")
        if not self._had_crd:
            self.cluster.delete(CRD)  # the chart keeps it, and all DSortJobs with it

    def _finds_crd(self) -> bool:
        """Whether it is there, and not of a run of these tests that was cut off."""
        found = self.cluster.find(CRD)
        if found is None:
            return False
        annotations = found["metadata"].get("annotations", {})
        return annotations.get("meta.helm.sh/release-namespace") != self.namespace  # type: ignore[no-any-return]

    def install(self, *flags: str) -> str:
        """Install or upgrade, and wait until the operator is ready; what helm says."""
        return self.cluster.helm(
            *("upgrade", "--install", self.name, str(CHART), f"--namespace={self.namespace}"),
            *("--take-ownership", "--wait", "--timeout=180s", *self._values, *flags),
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
