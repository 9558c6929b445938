"""`dsort logs`: what the workers of a DSortJob have logged."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from dsort_api.labels import COMPONENT_LABEL, INDEX_LABEL, JOB_UID_LABEL, WORKER_COMPONENT, WORKER_CONTAINER
from dsort_cli.cluster import Cluster, ClusterError
from dsort_cli.jobview import view
from dsort_cli.report import say

if TYPE_CHECKING:
    import argparse

    from dsort_cli.cluster import Object

_LOOK_SECONDS: Final = 1.0
_NOT_FOUND: Final = 404
_NOT_YET: Final = 400
"""What the API server answers for a container that has not started."""


def logs(options: argparse.Namespace) -> int:
    """Print the logs of all workers, or of the one that has the rank; with --follow until the job has ended. Raises
    ClusterError, when there are no logs, too.
    """
    with Cluster.of(options) as cluster:
        job = cluster.job(options.name)
        printing = _Printing(cluster, job, rank=options.rank)
        if options.follow:
            printing.follow()
        else:
            printing.once()
    return 0


class _Printing:
    """The pods of one job and what was printed of them."""

    def __init__(self, cluster: Cluster, job: Object, *, rank: int | None) -> None:
        workers = job["spec"].get("workers") or {}
        self._cluster = cluster
        self._job = job
        self._index = None if rank is None else rank // (workers.get("lanes") or 1)
        self._prefixed = rank is None
        self._printed: set[str] = set()
        """Pods, by uid, whose log was begun."""
        self._lock = threading.Lock()
        self._problem: ClusterError | None = None

    def once(self) -> None:
        """What there is now, pod by pod."""
        newest = {_index(pod): pod for pod in self._pods()}
        if not newest:
            raise ClusterError(self._nothing())
        for pod in newest.values():
            if _has_started(pod):
                self._print(pod, follow=False)
            else:  # the API server may have an empty log for it
                say("warning", f"pod {pod['metadata']['name']} has not started")

    def follow(self) -> None:
        """What there is and what comes, of pods that come later, too, until the job has ended."""
        threads: list[threading.Thread] = []
        while True:
            ended = self._has_ended()  # before the pods: what they are when it has ended is all there will be
            for pod in self._pods():
                if pod["metadata"]["uid"] not in self._printed and _has_started(pod):
                    self._printed.add(pod["metadata"]["uid"])
                    thread = threading.Thread(target=self._follow, args=(pod,), daemon=True)
                    thread.start()
                    threads.append(thread)
            if self._problem is not None:
                raise self._problem
            if ended:
                break
            time.sleep(_LOOK_SECONDS)
        for thread in threads:
            thread.join()
        if not threads:
            raise ClusterError(self._nothing())

    def _follow(self, pod: Object) -> None:
        try:
            self._print(pod, follow=True)
        except ClusterError as error:
            self._problem = error

    def _print(self, pod: Object, *, follow: bool) -> None:
        """One pod's log. A pod that goes meanwhile has none any more."""
        name = pod["metadata"]["name"]
        prefix = f"[{_index(pod)}] ".encode() if self._prefixed else b""
        path = f"/api/v1/namespaces/{self._cluster.namespace}/pods/{name}/log"
        query = {"container": WORKER_CONTAINER} | ({"follow": "true"} if follow else {})
        try:
            for line in self._cluster.lines(path, query=query, silence=None):
                with self._lock:
                    sys.stdout.buffer.write(prefix + line + b"\n")
                    sys.stdout.buffer.flush()
        except ClusterError as error:
            if error.status not in {_NOT_FOUND, _NOT_YET}:
                raise
            say("warning", f"pod {name}: {error}")

    def _pods(self) -> list[Object]:
        """The pods of every index that is asked for, by index, the newest of each last."""
        uid = self._job["metadata"]["uid"]
        selector = f"{JOB_UID_LABEL}={uid},{COMPONENT_LABEL}={WORKER_COMPONENT}"
        path = f"/api/v1/namespaces/{self._cluster.namespace}/pods"
        pods = self._cluster.ask("GET", path, query={"labelSelector": selector})["items"]
        asked = [pod for pod in pods if self._index in {None, _index(pod)}]
        return sorted(asked, key=lambda pod: (_index(pod), pod["metadata"]["creationTimestamp"]))

    def _has_ended(self) -> bool:
        try:
            job = self._cluster.job(self._job["metadata"]["name"])
        except ClusterError as error:
            if error.status != _NOT_FOUND:
                raise
            return True
        return job["metadata"]["uid"] != self._job["metadata"]["uid"] or view(job).ended

    def _nothing(self) -> str:
        name = self._job["metadata"]["name"]
        which = f"job {name} has no pods" if self._index is None else f"job {name} has no pod of that rank"
        return f"{which}; it is {view(self._job).line()}"


def _index(pod: Object) -> int:
    return int(pod["metadata"]["labels"].get(INDEX_LABEL, 0))


def _has_started(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return any("waiting" not in one.get("state", {"waiting": {}}) for one in statuses)
