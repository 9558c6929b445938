"""A namespace of a live cluster with a claim that all its nodes mount, a pod to look into it, and DSortJobs."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from dsort_api.labels import JOB_UID_LABEL, METRICS_PORT
from tests.support import desk
from tests.support.livecluster import JOBS, TEST_LABEL, LiveCluster, Object

CLAIM: Final = "datasets"
FOLDER: Final = f"/volumes/{CLAIM}"
SHARDS: Final = 6
RECORDS: Final = 11500
"""In a shard: 212 MB in all."""
SLOW: Final = "150m"
"""Processor of a worker of a job that is to be held: its payload takes seconds."""
HELD: Final = "15m"
FAST: Final = "2"
_DESK: Final = "desk"
_ANSWER: Final = 3
"""Seconds that a rank has to tell its metrics: the address of a pod that has just gone answers nobody."""
_RUN: Final = "e2e-"
"""How the folder of a run in the claim begins."""
_SECURE: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, slots=True)
class Storage:
    """What claims are made of: a storage class whose volumes several nodes can mount, or where there is none (""), a folder
    that is the same on all nodes.
    """

    storage_class: str = ""
    folder: str = "/shared"


class Place:
    """The namespace. image: the application's."""

    def __init__(self, cluster: LiveCluster, *, name: str, image: str, storage: Storage) -> None:
        self.cluster = cluster
        self.name = name
        self.image = image
        self.storage = storage
        self.run = f"{_RUN}{uuid.uuid4().hex[:8]}"
        """Folder in the claim, so that what others left there is out of the way."""
        self.core = f"/api/v1/namespaces/{name}"
        self._volumes: list[str] = []
        # Of more nodes than two, the job takes two.
        self._workers: Object = {"placement": "OnePerNode"} if len(cluster.nodes()) == 2 else {"count": 2}

    def another(self, name: str) -> Place:
        """One more of these."""
        return Place(self.cluster, name=name, image=self.image, storage=self.storage)

    def __enter__(self) -> Self:
        self._make_namespace()
        self.make_claim(self.name)
        self._make_desk()
        return self

    def __exit__(self, *_: object) -> None:
        self.desk("remove", self.folder(""))
        self.remove()

    def remove(self) -> None:
        """The namespace and the volumes; returns when it is gone."""
        path = f"/api/v1/namespaces/{self.name}"
        self.cluster.delete(path)
        try:
            self.cluster.until(lambda: self.cluster.find(path) is None, "the namespace is there")
        except AssertionError as error:
            error.add_note(self.cluster.kubectl("get", "namespace", self.name, "-o", "yaml"))
            error.add_note(self.cluster.kubectl("-n", self.name, "get", "all,pvc,dsj,events", "-o", "wide"))
            raise
        for volume in self._volumes:
            self.cluster.delete(f"/api/v1/persistentvolumes/{volume}")

    # The claim

    def folder(self, name: str) -> str:
        """A folder of this run, as pods see it."""
        return f"{FOLDER}/{self.run}/{name}"

    def url(self, name: str) -> str:
        """The same as a url."""
        return f"pvc://{CLAIM}/{self.run}/{name}"

    def desk(self, *arguments: str) -> str:
        """Run one of desk's commands in the pod that has the claim."""
        source = Path(desk.__file__).read_text()
        return self.exec("python3", "-", *arguments, stdin=source)

    def exec(self, *command: str, stdin: str | None = None) -> str:
        """Run a command in that pod."""
        flags = ["-i"] if stdin is not None else []
        return self.cluster.kubectl("-n", self.name, "exec", *flags, _DESK, "--", *command, stdin=stdin)

    def sweep(self) -> None:
        """Remove what runs that were cut off have left in the claim; nobody else uses it now."""
        self.desk("remove", f"{FOLDER}/{_RUN}*")

    def make_input(self) -> None:
        """The shards that all jobs read."""
        self.desk("make", self.folder("in"), str(SHARDS), str(RECORDS))

    def digests(self, name: str) -> dict[str, str]:
        """Of all files below a folder."""
        found: dict[str, str] = json.loads(self.desk("digest", self.folder(name)))
        return found

    def manifest(self, name: str) -> Object:
        """Of an output."""
        found: Object = json.loads(self.desk("show", f"{self.folder(name)}/dsort-manifest.json"))
        return found

    # Jobs

    def job(self, name: str, **spec: Any) -> Object:
        """A shuffle of all records on two nodes, all payload through the network. `spec` adds to it, or replaces parts."""
        workers = {**self._workers, "shortCircuit": False, **spec.pop("workers", {})}
        return {
            "apiVersion": "dsort.dev/v1alpha1",
            "kind": "DSortJob",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {
                "input": {"url": self.url("in")},
                "output": {"url": self.url(name), "name": "out-%06d", "shardSize": "16Mi"},
                "order": {"kind": "Shuffle", "seed": 7},
                "memory": {"budget": "128Mi"},
                "workers": workers,
                **spec,
            },
        }

    def submit(self, manifest: Object) -> LiveJob:
        """Apply it."""
        job = LiveJob(self, manifest["metadata"]["name"])
        self.cluster.apply(job.path, manifest)
        return job

    def slow_job(self, name: str) -> Object:
        """A job whose workers get little of a processor, so that it can be watched and held."""
        resources = {"requests": {"cpu": "1m"}, "limits": {"cpu": SLOW}}
        return self.job(name, workers={"template": {"spec": {"resources": resources}}})

    # What a place is made of

    def _make_namespace(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted", TEST_LABEL: "jobs"}
        self.cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.name, "labels": labels}})

    def make_claim(self, namespace: str) -> None:
        """The claim, which all nodes mount, in a namespace."""
        request = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "2Gi"}}}
        volume = {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": self.storage.folder, "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": CLAIM},
        }
        if not self.storage.storage_class:
            body = {"metadata": {"name": namespace, "labels": {TEST_LABEL: "jobs"}}, "spec": volume}
            self.cluster.ask("POST", "/api/v1/persistentvolumes", body)
            self._volumes.append(namespace)
            request["volumeName"] = namespace
        request["storageClassName"] = self.storage.storage_class
        claim = {"metadata": {"name": CLAIM}, "spec": request}
        self.cluster.ask("POST", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", claim)

    def desk_spec(self) -> Object:
        """Of the pod that has the claim."""
        container = {
            "name": _DESK,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", "import signal; signal.pause()"],
            "securityContext": _SECURE,
            "volumeMounts": [{"name": CLAIM, "mountPath": FOLDER}],
        }
        nobody = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), 65532)
        return {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
                **nobody,
            },
            "containers": [container],
            "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
        }

    def _make_desk(self) -> None:
        self.cluster.until(
            lambda: self.cluster.find(f"{self.core}/serviceaccounts/default"), "there is no service account"
        )
        pod = {"metadata": {"name": _DESK}, "spec": self.desk_spec()}
        self.cluster.ask("POST", f"{self.core}/pods", pod)
        path = f"{self.core}/pods/{_DESK}"
        self.cluster.until(
            lambda: self.cluster.ask("GET", path)["status"]["phase"] == "Running", "the desk is not running"
        )


def metrics_in(text: str) -> dict[str, float]:
    """The metrics of a rank, by their names."""
    return {
        found[1]: float(found[2])
        for found in re.finditer(r"^(dsort_rank_\w+)\{[^}]*\} (\S+)$", text, flags=re.MULTILINE)
    }


class LiveJob:
    """A DSortJob of the place."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.cluster = place.cluster
        self.name = name
        self.path = f"{JOBS}/namespaces/{place.name}/dsortjobs/{name}"
        self.submitted = time.monotonic()
        self._uid = ""

    @property
    def body(self) -> Object:
        """The object; {} when it is gone."""
        found: Object = self.cluster.find(self.path) or {}
        return found

    @property
    def uid(self) -> str:
        """Of the object, which may be gone meanwhile."""
        self._uid = self._uid or self.body["metadata"]["uid"]
        return self._uid

    @property
    def status(self) -> Object:
        """The status."""
        found: Object = self.body.get("status", {})
        return found

    def condition(self, kind: str) -> Object:
        """A condition; {} when there is none of that type."""
        conditions: list[Object] = self.status.get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def holds(self, kind: str) -> bool:
        """Whether a condition is True."""
        return self.condition(kind).get("status") == "True"

    def change(self, **spec: Any) -> None:
        """Patch the spec."""
        self.cluster.patch(self.path, {"spec": spec})

    def children(self, kind: str) -> list[Object]:
        """Of the job, by their label: pods, or batch/v1's jobs, and so on."""
        prefix = f"/apis/batch/v1/namespaces/{self.place.name}" if kind == "jobs" else self.place.core
        return self.cluster.items(f"{prefix}/{kind}?labelSelector={JOB_UID_LABEL}%3D{self.uid}")

    def workers(self) -> list[Object]:
        """Its worker pods that are not at their end, in the order of their index."""
        found = [
            pod
            for pod in self.children("pods")
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
            and pod["status"]["phase"] in {"Pending", "Running"}
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return sorted(found, key=lambda pod: pod["metadata"]["name"])

    def exposition(self, pod: Object) -> str:
        """The metrics of the rank in a pod, as it tells them; "" while it does not answer."""
        name = pod["metadata"]["name"]
        try:
            path = f"{self.place.core}/pods/{name}:{METRICS_PORT}/proxy/metrics"
            text: str = self.cluster.ask("GET", path, seconds=_ANSWER)
        except OSError:
            return ""
        return text

    def metrics(self, pod: Object) -> dict[str, float]:
        """The same by their names; {} while it does not answer."""
        return metrics_in(self.exposition(pod))

    # In time

    def hold(self) -> None:
        """Wait until payload moves, and take the processor from the workers."""
        self.cluster.until(lambda: self.status.get("phase") == "Create", f"{self.name} moves no payload")
        self.limit(HELD)
        assert self.status["phase"] == "Create", self.status
        assert len(self.workers()) == 2

    def let_go(self) -> None:
        """Give the workers all the processor that they can use."""
        self.limit(FAST)

    def limit(self, cpu: str) -> None:
        """Resize the workers in place."""
        change = {"spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": cpu}}}]}}
        for pod in self.workers():
            self.cluster.ask(
                "PATCH",
                f"{self.place.core}/pods/{pod['metadata']['name']}/resize",
                change,
                kind="application/strategic-merge-patch+json",
            )

    def complete(self) -> Object:
        """Wait until it is complete: its status."""
        self.cluster.until(lambda: self.holds("Complete") or self.holds("Failed"), f"{self.name} goes on")
        assert self.holds("Complete"), self.status
        return self.status

    def failed(self) -> Object:
        """Wait until it has failed: the condition."""
        self.cluster.until(lambda: self.holds("Complete") or self.holds("Failed"), f"{self.name} goes on")
        assert self.holds("Failed"), self.status
        return self.condition("Failed")

    def without_pods(self, *, seconds: float) -> float:
        """Wait until none of its pods runs."""
        return self.cluster.until(
            lambda: (
                not [pod for pod in self.children("pods") if pod["status"]["phase"] in {"Pending", "Running"}]
            ),
            f"{self.name} has pods",
            seconds=seconds,
        )
