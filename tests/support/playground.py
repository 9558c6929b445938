"""A cluster for tests of the operator: a real API server with its controllers, nodes that run pods as processes here, and
operators that have exactly the rights that the operator's own table names.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

from dsort_api.labels import FINALIZER
from dsort_operator import kube
from tests.support import measuring
from tests.support.apiserver import BOUND, ControlPlane
from tests.support.crd import MERGE, install, the_crd
from tests.support.datasets import make_shards
from tests.support.kubelet import Kubelet
from tests.support.running import check_result, comparable, contents, dsort

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
CLUSTERWIDE: Final = "operator"
"""The user that may do in the whole cluster what an operator may."""
NAMESPACED: Final = "operator-of-namespaces"
"""The user that may do it only where a test has bound it."""
PATIENCE: Final = 90.0
CLAIM: Final = "data"


class Playground:
    """The cluster. A context manager. Without nodes no pod ever runs."""

    def __init__(self, assets: Path, *, nodes: int = 2) -> None:
        self.plane = ControlPlane(assets, controllers=True, users={CLUSTERWIDE: (), NAMESPACED: ()})
        self.kubelet = Kubelet(self.plane, nodes=nodes)

    def __enter__(self) -> Self:
        self.plane.__enter__()
        try:
            install(self.plane, the_crd())
            self._grant()
            self.kubelet.__enter__()
        except BaseException:
            self.plane.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.kubelet.__exit__()
        finally:
            self.plane.stop()

    def _grant(self) -> None:
        rules = {"dsort-operator": rules_of(wide=False), "dsort-operator-nodes": rules_of(wide=True)}
        for name, rights in rules.items():
            role = {"metadata": {"name": name}, "rules": rights}
            self.plane.request("POST", f"{RBAC}/clusterroles", role)
        for name, users in (
            ("dsort-operator", [CLUSTERWIDE]),
            ("dsort-operator-nodes", [CLUSTERWIDE, NAMESPACED]),
        ):
            self.plane.request("POST", f"{RBAC}/clusterrolebindings", _binding(name, users))

    def place(self, folder: Path) -> Place:
        """A new namespace with a claim, whose folder is in `folder`."""
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        self.plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        self.plane.request(
            "POST",
            f"{RBAC}/namespaces/{namespace}/rolebindings",
            _binding("dsort-operator", [NAMESPACED]),
        )
        return Place(self, namespace, folder)


class Place:
    """A namespace of the cluster, with a claim `data` that many nodes may write to; folder: what stands for it."""

    def __init__(self, playground: Playground, namespace: str, folder: Path) -> None:
        self.playground = playground
        self.plane = playground.plane
        self.namespace = namespace
        self.folder = folder / namespace
        self.folder.mkdir()
        self.claim(CLAIM)
        playground.kubelet.claims[f"{namespace}/{CLAIM}"] = self.folder

    def claim(self, name: str, *, modes: Sequence[str] = ("ReadWriteMany",)) -> None:
        """A PersistentVolumeClaim."""
        spec = {
            "accessModes": list(modes),
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "",
        }
        self.plane.request(
            "POST",
            f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims",
            {"metadata": {"name": name}, "spec": spec},
        )

    def shards(self, *, shards: int = 4, records: int = 20) -> None:
        """Input shards, in the folder `in` of the claim."""
        (self.folder / "in").mkdir()
        make_shards(self.folder / "in", shards=shards, records=records)

    def share_shards(self, other: Place) -> None:
        """The input shards of another place, times and all."""
        shutil.copytree(other.folder / "in", self.folder / "in")

    def output(self, name: str) -> Path:
        """The folder of a job's output."""
        return self.folder / "out" / name

    def expect(self, name: str, **spec: Any) -> Path:
        """Run the job of `apply` on this machine, with a copy of the claim; the folder of its output."""
        here = self.folder.with_name(f"{self.namespace}-local")
        if not here.exists():
            shutil.copytree(self.folder / "in", here / "in")
        dsort(self.manifest(name, **spec), check=False, more=("--json", "--pvc", f"{CLAIM}={here}"))
        check_result(here / "out" / name)
        return here / "out" / name

    def check_output(self, name: str, *, like: Path) -> None:
        """The output is there, whole, and equal to that of a local run."""
        output = self.output(name)
        check_result(output)
        assert contents(output) == contents(like)
        assert comparable(output) == comparable(like)

    def apply(self, name: str, **spec: Any) -> dict[str, Any]:
        """A DSortJob of two pods that shuffles the shards; `spec` replaces parts of it. As the server has it."""
        body: dict[str, Any] = self.plane.request("POST", self.jobs, self.manifest(name, **spec))
        return body

    def manifest(self, name: str, **spec: Any) -> dict[str, Any]:
        """What `apply` creates."""
        return {
            "apiVersion": "dsort.dev/v1alpha1",
            "kind": "DSortJob",
            "metadata": {"name": name},
            "spec": {
                "input": {"url": f"pvc://{CLAIM}/in"},
                "output": {"url": f"pvc://{CLAIM}/out/{name}", "name": "out-%06d", "shardSize": "64Ki"},
                "order": {"kind": "Shuffle", "seed": 7},
                "workers": {"count": 2},
                "memory": {"budget": "64Mi"},
                **spec,
            },
        }

    @property
    def jobs(self) -> str:
        """Path of the namespace's DSortJobs."""
        return f"/apis/dsort.dev/v1alpha1/namespaces/{self.namespace}/dsortjobs"

    def job(self, name: str) -> dict[str, Any]:
        """A DSortJob as it is; {} when it is not there."""
        try:
            body: dict[str, Any] = self.plane.request("GET", f"{self.jobs}/{name}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
                return {}
        return body

    def change(self, name: str, **spec: Any) -> None:
        """Change fields of a DSortJob's spec."""
        self.plane.request("PATCH", f"{self.jobs}/{name}", {"spec": spec}, kind=MERGE)

    def delete(self, name: str) -> None:
        """Delete a DSortJob; it may go on a while."""
        self.plane.request("DELETE", f"{self.jobs}/{name}")

    def delete_namespace(self, *, seconds: float) -> None:
        """Delete the namespace, and wait until it is gone with all that is in it."""
        path = f"/api/v1/namespaces/{self.namespace}"
        self.plane.request("DELETE", path)

        def gone() -> bool:
            try:
                self.plane.request("GET", path)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code == 404
            return False

        def left() -> str:
            lists = (
                self.items(f"/{path}")
                for path in ("api/v1/pods", "apis/batch/v1/jobs", "apis/dsort.dev/v1alpha1/dsortjobs")
            )
            return json.dumps(
                [
                    {name: one["metadata"].get(name) for name in ("name", "deletionTimestamp", "finalizers")}
                    | {"status": one.get("status", {}).get("phase")}
                    for found in lists
                    for one in found
                ]
            )

        await_that(gone, "the namespace is gone", seconds=seconds, shows=left)

    def items(self, path: str) -> list[dict[str, Any]]:
        """Objects of the namespace: of `/api/v1` and the plural, for example."""
        prefix, _, plural = path.rpartition("/")
        found: list[dict[str, Any]] = self.plane.request(
            "GET", f"{prefix}/namespaces/{self.namespace}/{plural}"
        )["items"]
        return found

    @property
    def pods(self) -> list[dict[str, Any]]:
        """The pods that are there."""
        return self.items("/api/v1/pods")

    def await_job(self, name: str, *, seconds: float = PATIENCE, **conditions: bool) -> dict[str, Any]:
        """Wait until these conditions hold (True) or not; the DSortJob then."""

        def so() -> bool:
            found = conditions_of(self.job(name))
            return all(
                (found.get(kind, {}).get("status") == "True") is wanted for kind, wanted in conditions.items()
            )

        await_that(
            so,
            f"{name} {conditions}",
            seconds=seconds,
            shows=lambda: json.dumps(self.job(name).get("status")),
        )
        return self.job(name)

    def await_let_go(self, name: str) -> None:
        """Wait until the operator has let a DSortJob go: the last that it does with one that has ended."""
        await_that(
            lambda: not has_finalizer(self.job(name)),
            f"{name} is let go",
            shows=lambda: json.dumps(self.job(name)),
        )

    def await_gone(self, name: str, *, seconds: float) -> None:
        """Wait until a DSortJob is gone."""
        await_that(
            lambda: not self.job(name),
            f"{name} is gone",
            seconds=seconds,
            shows=lambda: json.dumps(self.job(name)),
        )

    def operator(self, **options: Any) -> Operator:
        """An operator of this namespace; not started yet."""
        return Operator(self.playground, namespaces=(self.namespace,), **options)


class Operator:
    """A `dsort operator` process. A context manager: starts it, and ends it.

    url: of the API server, where something stands in between. flags: further ones. measured: see `measuring`.
    """

    def __init__(
        self,
        playground: Playground,
        *,
        namespaces: Sequence[str] = (),
        url: str | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        measured: bool = True,
    ) -> None:
        user = NAMESPACED if namespaces else CLUSTERWIDE
        self._kubeconfig = playground.plane.kubeconfig(user, url=url)
        self._flags = [f"--watch-namespaces={','.join(namespaces)}"] if namespaces else []
        self._flags += ["--image=dsort:test", "--health-port=0", "--metrics-port=0", *flags]
        inherited = measuring.measured() if measured else measuring.unmeasured()
        self._environment = {**inherited, **(environment or {}), "KUBECONFIG": str(self._kubeconfig)}
        self._log = playground.plane.folder / f"operator-{uuid.uuid4().hex[:8]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self.runs:
                assert self.stop() == 0
        finally:
            self.kill()
            if error is not None:
                print(self.log()[-20000:])

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process; whether one ran before does not matter."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*BOUND, sys.executable, "-m", "dsort_cli", "operator", *self._flags],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All it has said."""
        return self._log.read_text() if self._log.exists() else ""

    def lines(self) -> Iterator[dict[str, Any]]:
        """The log as objects."""
        return (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))

    def ports(self) -> tuple[int, int]:
        """Of the probes and of the metrics, once it listens."""

        def said() -> list[str]:
            return [line["message"] for line in self.lines() if line["message"].startswith("listening: ")]

        await_that(said, "the operator listens", shows=self.log)
        words = said()[-1].replace(",", "").split()
        return int(words[4]), int(words[8])


def rules_of(*, wide: bool) -> list[dict[str, Any]]:
    """The rights in the table of the operator's own documentation: those in the whole cluster, or the others."""
    rules = []
    for line in (kube.__doc__ or "").splitlines():
        group, *cells = (cell.strip() for cell in line.strip().strip("|").split("|"))
        if not line.startswith("| ") or group == "group":
            continue
        resources, verbs = cells[0], cells[1]
        if ("cluster-wide" in group) is wide:
            rules.append(
                {
                    "apiGroups": [group.partition(",")[0].replace("(core)", "")],
                    "resources": resources.split(", "),
                    "verbs": verbs.split(", "),
                }
            )
    assert rules
    return rules


def _binding(role: str, users: Sequence[str]) -> dict[str, Any]:
    return {
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in users
        ],
    }


def conditions_of(job: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions of a DSortJob, by type."""
    return {one["type"]: one for one in job.get("status", {}).get("conditions", ())}


def has_finalizer(job: Mapping[str, Any]) -> bool:
    """Whether the operator holds the DSortJob."""
    return FINALIZER in job.get("metadata", {}).get("finalizers", ())


def await_that(
    condition: Callable[[], object],
    what: str,
    *,
    seconds: float = PATIENCE,
    shows: Callable[[], str] = lambda: "",
) -> None:
    """Ask until it holds; fails after `seconds`, and says what for and what is there instead."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}; there is {shows()[-6000:]}"
        time.sleep(0.05)


@pytest.fixture(scope="package")
def playground(kubernetes_assets: Path) -> Iterator[Playground]:
    """The cluster, for all tests of the layer."""
    with Playground(kubernetes_assets) as running:
        yield running


@pytest.fixture
def place(playground: Playground, tmp_path: Path) -> Place:
    """A namespace of the test's own."""
    return playground.place(tmp_path)
