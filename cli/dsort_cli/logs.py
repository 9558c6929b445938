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
    from collections.abc import Iterator

    from dsort_cli.cluster import Object

_LOOK_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 2.0
"""Between two tries where the API server is away, or a log was cut off."""
_LAST_LINES_SECONDS: Final = 30.0
"""How long the end of a log may take to come when the job has ended."""
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
        self._away = False
        self._over = threading.Event()
        """The job has ended."""

    def once(self) -> None:
        """What there is now, pod by pod."""
        newest = {_index(pod): pod for pod in self._pods()}
        if not newest:
            raise ClusterError(self._nothing())
        for pod in newest.values():
            if _has_started(pod):
                self._print(pod)
            else:  # the API server may have an empty log for it
                say("warning", f"pod {pod['metadata']['name']} has not started")

    def follow(self) -> None:
        """What there is and what comes, of pods that come later, too, until the job has ended."""
        threads: dict[str, threading.Thread] = {}
        while True:
            ended, pods = self._look()
            for pod in pods:
                if pod["metadata"]["uid"] not in self._printed and _has_started(pod):
                    self._printed.add(pod["metadata"]["uid"])
                    thread = threading.Thread(target=self._follow, args=(pod,), daemon=True)
                    thread.start()
                    threads[pod["metadata"]["name"]] = thread
            if self._problem is not None:
                raise self._problem
            if ended:
                break
            time.sleep(_LOOK_SECONDS)
        self._over.set()
        until = time.monotonic() + _LAST_LINES_SECONDS
        for name, thread in threads.items():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                say("warning", f"pod {name}: the end of its log did not come")
        if not threads:
            raise ClusterError(self._nothing())

    def _look(self) -> tuple[bool, list[Object]]:
        """Whether the job has ended, and its pods. An API server that is away is asked again and again."""
        while True:
            try:
                found = (
                    self._has_ended(),
                    self._pods(),
                )  # in this order: when it has ended, these are all there will be
            except ClusterError as error:
                if not error.passes:
                    raise
                if not self._away:
                    say("warning", f"{error}; trying again")
                self._away = True
                time.sleep(_AGAIN_SECONDS)
            else:
                self._away = False
                return found

    def _follow(self, pod: Object) -> None:
        """One pod's log to its end; where the connection is lost it is taken up behind the last line that came."""
        last = ""
        while True:
            try:
                for line in self._lines(pod, {"follow": "true", "timestamps": "true", **_since(last)}):
                    stamp, _, text = line.partition(b" ")
                    when = _sortable(stamp)
                    if when > last:
                        last = when
                        self._write(pod, text)
                if not self._runs(pod):
                    return
            except ClusterError as error:
                if not error.passes:
                    self._problem = error
                    return
                say("warning", f"pod {pod['metadata']['name']}: {error}; trying again")
            if self._over.wait(_AGAIN_SECONDS):
                return

    def _runs(self, pod: Object) -> bool:
        """Whether there is more to come: servers in between end connections, too, without a word."""
        path = f"/api/v1/namespaces/{self._cluster.namespace}/pods/{pod['metadata']['name']}"
        try:
            now = self._cluster.ask("GET", path)
        except ClusterError as error:
            if error.status != _NOT_FOUND:
                raise
            return False
        statuses = now.get("status", {}).get("containerStatuses") or ()
        return any("running" in one.get("state", {}) for one in statuses)

    def _print(self, pod: Object) -> None:
        for line in self._lines(pod, {}):
            self._write(pod, line)

    def _write(self, pod: Object, line: bytes) -> None:
        prefix = f"[{_index(pod)}] ".encode() if self._prefixed else b""
        with self._lock:
            sys.stdout.buffer.write(prefix + line + b"\n")
            sys.stdout.buffer.flush()

    def _lines(self, pod: Object, query: dict[str, str]) -> Iterator[bytes]:
        """One pod's log. A pod that goes meanwhile has none any more."""
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{self._cluster.namespace}/pods/{name}/log"
        try:
            yield from self._cluster.lines(path, query={"container": WORKER_CONTAINER, **query}, silence=None)
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


def _sortable(stamp: bytes) -> str:
    """A time as logs have it (RFC 3339, and as many digits of a second as it takes) as one that sorts as text."""
    seconds, _, part = stamp.decode(errors="replace").rstrip("Z").partition(".")
    return f"{seconds}.{part:0<9}"


def _since(last: str) -> dict[str, str]:
    """What asks for the lines from that second on."""
    return {"sinceTime": f"{last.partition('.')[0]}Z"} if last else {}


def _index(pod: Object) -> int:
    return int(pod["metadata"]["labels"].get(INDEX_LABEL, 0))


def _has_started(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return any("waiting" not in one.get("state", {"waiting": {}}) for one in statuses)
