"""`dsort release`: take the operator's finalizer off DSortJobs, when there is no operator any more to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dsort_api.labels import FINALIZER, GROUP
from dsort_api.spec import VERSION
from dsort_cli.cluster import MERGE_PATCH, Cluster, ClusterError

if TYPE_CHECKING:
    import argparse

    from dsort_cli.cluster import Object

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_PAGE: Final = "500"
_TRIES: Final = 10
_NAMED: Final = 5


def release(options: argparse.Namespace) -> int:
    """Take it off all jobs of the namespaces that the command line names. Raises ClusterError."""
    with Cluster.of(options) as cluster:
        if options.all_namespaces:
            paths = [f"/apis/{GROUP}/{VERSION}/dsortjobs"]
        else:
            paths = [cluster.jobs_path(namespace=one) for one in options.namespaces or [cluster.namespace]]
        count = sum(_release(cluster, path) for path in paths)
    print(f"released {count} {'job' if count == 1 else 'jobs'}")
    return 0


def _release(cluster: Cluster, path: str) -> int:
    """The number of jobs that it was taken off. None where not even the CRD is there."""
    count = 0
    held = _held(cluster, path)
    for _ in range(_TRIES):
        changed = {job["metadata"]["uid"] for job in held if not _take_off(cluster, job)}
        count += len(held) - len(changed)
        if not changed:
            return count
        held = [job for job in _held(cluster, path) if job["metadata"]["uid"] in changed]
    names = ", ".join(sorted(job["metadata"]["name"] for job in held)[:_NAMED])
    raise ClusterError(f"{names}: changed with every try; does an operator still run? Stop it first")


def _held(cluster: Cluster, path: str) -> list[Object]:
    """The jobs that have the finalizer now."""
    held: list[Object] = []
    query = {"limit": _PAGE}
    while True:
        try:
            page = cluster.ask("GET", path, query=query)
        except ClusterError as error:
            if error.status == _NOT_FOUND:
                return []
            raise
        held += [job for job in page["items"] if FINALIZER in job["metadata"].get("finalizers", ())]
        following = page["metadata"].get("continue")
        if not following:
            return held
        query = {"limit": _PAGE, "continue": following}


def _take_off(cluster: Cluster, job: Object) -> bool:
    """Whether it was taken off; if not the job has changed meanwhile, or is gone, and has to be looked at again."""
    metadata = job["metadata"]
    others = [one for one in metadata["finalizers"] if one != FINALIZER]
    change = {"metadata": {"finalizers": others, "resourceVersion": metadata["resourceVersion"]}}
    path = f"{cluster.jobs_path(namespace=metadata['namespace'])}/{metadata['name']}"
    try:
        cluster.ask("PATCH", path, body=change, kind=MERGE_PATCH)
    except ClusterError as error:
        if error.status not in {_NOT_FOUND, _CONFLICT}:
            raise
        return False
    print(f"released {metadata['namespace']}/{metadata['name']}")
    return True
