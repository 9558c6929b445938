"""The chart as a release on a real API server with controllers: install, upgrade, `helm test`, uninstall.

There are no nodes. Where Helm waits for a pod the test runs the container's command itself, with the rights of the pod's own
service account, and says how it ended.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dsort_api.labels import FINALIZER
from tests.support.apiserver import ControlPlane
from tests.support.crd import MERGE, await_that
from tests.support.helm import CHART, NAMESPACE, RELEASE, Helm, helm

__all__ = ["helm"]

PATIENCE: Final = 90.0
JOBS: Final = "/apis/dsort.dev/v1alpha1/namespaces/{}/dsortjobs"
KINDS: Final = (
    "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,jobs,pods,configmaps,"
    "persistentvolumeclaims,networkpolicies,poddisruptionbudgets"
)


@pytest.fixture(scope="module")
def plane(kubernetes_assets: Path) -> Iterator[ControlPlane]:
    """A cluster of its own: releases take the CRD for theirs."""
    with ControlPlane(kubernetes_assets, controllers=True) as running:
        for name in (NAMESPACE, "team-a"):
            running.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield running


class Release:
    """The chart in the cluster, and whoever runs the pods that Helm waits for."""

    def __init__(self, helm: Helm, plane: ControlPlane) -> None:
        self.plane = plane
        self._helm = helm
        self._admin = str(plane.kubeconfig())

    def command(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Run helm on the release."""
        with_values = ("--values=-",) if values is not None else ()
        return self._helm.run(
            *arguments,
            *with_values,
            "--namespace",
            NAMESPACE,
            "--kubeconfig",
            self._admin,
            stdin=yaml.safe_dump(dict(values)) if values is not None else None,
        )

    def put(self, values: Mapping[str, Any]) -> None:
        """Install or upgrade, without waiting for an operator that no node runs."""
        self.command("upgrade", "--install", RELEASE, str(CHART), values=values)

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[None]:
        """A helm command that waits for pods, while the block plays the node; it must succeed."""
        said: list[str | BaseException] = []

        def run() -> None:
            try:
                said.append(self.command(*arguments, "--timeout", f"{PATIENCE:.0f}s"))
            except BaseException as error:
                said.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(PATIENCE)
        assert not thread.is_alive(), arguments
        assert isinstance(said[0], str), said

    def pod(self, name: str, *, namespace: str = NAMESPACE) -> dict[str, Any]:
        """The pod whose name begins so, once it is there."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            items = self.plane.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
            found[:] = [one for one in items if one["metadata"]["name"].startswith(name)]
            return bool(found)

        await_that(look, f"there is a pod {name}")
        return found[0]

    def act(self, pod: dict[str, Any], run: Callable[[list[str], str], int]) -> None:
        """Run a pod's container, given its command line and a kubeconfig of its account, and say that it ended."""
        metadata, spec = pod["metadata"], pod["spec"]
        (container,) = spec["containers"]
        account = f"{metadata['namespace']}/serviceaccounts/{spec['serviceAccountName']}"
        token = self.plane.request(
            "POST",
            f"/api/v1/namespaces/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )
        self.plane.tokens[account] = token["status"]["token"]
        kubeconfig = self.plane.kubeconfig(account, namespace=metadata["namespace"])
        code = run([*container["command"], *container.get("args", ())], str(kubeconfig))
        ended = {"exitCode": code, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": "x",
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": ended},
                }
            ],
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self.plane.request("PATCH", path, {"status": status}, kind=MERGE)

    def left(self) -> list[str]:
        """What is there of the release, in all namespaces."""
        found = self.plane.kubectl(
            "get", KINDS, "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name"
        )
        return found.split()


@pytest.fixture
def release(helm: Helm, plane: ControlPlane) -> Release:
    return Release(helm, plane)


def dsort(line: list[str], kubeconfig: str) -> int:
    """Run a `dsort` command line of a pod."""
    assert line[0] == "dsort"
    command = [sys.executable, "-m", "dsort_cli", *line[1:], "--kubeconfig", kubeconfig]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stderr
    return ran.returncode


def job_that_runs(plane: ControlPlane, name: str, *, namespace: str) -> str:
    """The path of a DSortJob that an operator has taken up."""
    spec = {
        "input": {"url": "pvc://datasets/in"},
        "output": {"url": "pvc://datasets/out", "name": "part-%06d", "shardSize": "8Mi"},
    }
    body = {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {"name": name, "finalizers": [FINALIZER]},
        "spec": spec,
    }
    jobs = JOBS.format(namespace)

    def create() -> bool:
        plane.request("POST", jobs, body)
        return True

    await_that(create, "the CRD is served")
    return f"{jobs}/{name}"


def is_gone(plane: ControlPlane, path: str) -> bool:
    try:
        plane.request("GET", path)
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 404
    return False


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["team-a"]}], ids=["cluster", "namespace"])
def test_an_uninstall_with_running_jobs_leaves_none_that_cannot_be_deleted(
    release: Release, plane: ControlPlane, values: Mapping[str, Any]
) -> None:
    release.put(values)
    release.put({**values, "logging": {"level": "debug"}})
    (deployment,) = [one for one in release.left() if one.startswith("deployment")]
    assert "debug" in plane.kubectl("get", "-n", NAMESPACE, deployment, "-o", "yaml")

    running = job_that_runs(plane, "running", namespace="team-a")
    leaving = job_that_runs(plane, "leaving", namespace="team-a")
    plane.request("DELETE", leaving)
    assert not is_gone(plane, leaving)

    with release.running("uninstall", RELEASE):
        release.act(release.pod("dsort-dsort-operator-release"), dsort)
    assert is_gone(plane, leaving)
    assert "finalizers" not in plane.request("GET", running)["metadata"]
    plane.request("DELETE", running)
    assert is_gone(plane, running)
    await_that(lambda: release.left() == [], "nothing but the CRD is left")

    release.put(values)  # which takes the CRD that was left
    release.command("uninstall", RELEASE, "--no-hooks")


def test_helm_test_follows_a_job_to_its_end(release: Release, plane: ControlPlane, tmp_path: Path) -> None:
    release.put({})

    def write_input(line: list[str], _: str) -> int:
        script = line[-1].replace("/volume/", f"{tmp_path}/")
        return subprocess.run([sys.executable, "-c", script]).returncode

    def watch(line: list[str], kubeconfig: str) -> int:
        status = {
            "state": "Complete",
            "conditions": [
                {
                    "type": "Complete",
                    "status": "True",
                    "reason": "Published",
                    "message": "done",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        }
        path = f"{JOBS.format(NAMESPACE)}/dsort-dsort-operator-test/status"
        plane.request("PATCH", path, {"status": status}, kind=MERGE)
        return dsort(line, kubeconfig)

    with release.running("test", RELEASE):
        release.act(release.pod("dsort-dsort-operator-test-input"), write_input)
        await_that(
            lambda: not is_gone(plane, f"{JOBS.format(NAMESPACE)}/dsort-dsort-operator-test"),
            "there is a job",
        )
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods/dsort-dsort-operator-test"
        await_that(lambda: not is_gone(plane, pods), "there is the pod that waits")
        release.act(plane.request("GET", pods), watch)
    shards = sorted(path.name for path in (tmp_path / f"dsort-test-{RELEASE}" / "in").iterdir())
    assert shards == [f"part-{number}.tar" for number in range(4)]
    await_that(lambda: not [one for one in release.left() if "test" in one], "the test has cleaned up")
    release.command("uninstall", RELEASE, "--no-hooks")
