"""Follow one DSortJob through its life: a watch that is taken up again whenever it ends or is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from dsort_cli.cluster import Cluster, ClusterError, Object
from dsort_cli.report import say

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_GONE: Final = 410
_NOT_FOUND: Final = 404


def follow(cluster: Cluster, job: Object) -> Iterator[Object]:
    """The job as it is, and again after every change of it, without an end of its own.

    An API server that is away is asked again and again, with a warning for each time that it goes away (it is back when
    a watch has told something). Raises ClusterError when the job is deleted, or when the cluster refuses to tell of it.
    """
    yield job
    pause, away = _FIRST_PAUSE, False
    version = job["metadata"]["resourceVersion"]
    while True:
        try:
            for changed in _changes(cluster, job, version=version):
                pause, away = _FIRST_PAUSE, False
                version = changed["metadata"]["resourceVersion"]
                if "uid" in changed["metadata"]:  # a bookmark has only a version
                    yield changed
            pause, away = _FIRST_PAUSE, False
            continue
        except ClusterError as error:
            if error.status != _GONE and not error.passes:
                raise
            if error.status != _GONE:
                if not away:
                    say("warning", f"{error}; trying again")
                away = True
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            now = cluster.job(job["metadata"]["name"])
        except ClusterError as error:
            if error.status == _NOT_FOUND:
                raise _deleted(job) from None
            if not error.passes:
                raise
        else:
            if now["metadata"]["uid"] != job["metadata"]["uid"]:
                raise _deleted(job)
            version = now["metadata"]["resourceVersion"]
            yield now


def _changes(cluster: Cluster, job: Object, *, version: str) -> Iterator[Object]:
    """What one watch tells of the job after `version`; ClusterError with status 410 when that is too long ago."""
    query = {
        "fieldSelector": f"metadata.name={job['metadata']['name']}",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
    }
    for event in cluster.watch(cluster.jobs_path(), query=query):
        match event["type"]:
            case "ERROR":
                raise ClusterError(event["object"].get("message", ""), status=event["object"].get("code", 0))
            case "DELETED":
                raise _deleted(job)
            case _:
                changed: Object = event["object"]
                if changed["metadata"].get("uid", job["metadata"]["uid"]) != job["metadata"]["uid"]:
                    raise _deleted(job)
                yield changed


def _deleted(job: Object) -> ClusterError:
    return ClusterError(f"dsortjob {job['metadata']['name']} was deleted", status=_NOT_FOUND)
