"""`dsort submit`: check a DSortJob here, and apply it to a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from dsort_api.reasons import DSortError, Reason
from dsort_cli.cluster import APPLY_PATCH, Cluster, ClusterError
from dsort_cli.jobfile import read_manifest
from dsort_cli.watch import watch_job

if TYPE_CHECKING:
    import argparse

    from dsort_cli.cluster import Object

FIELD_MANAGER: Final = "dsort-submit"
_NOT_FOUND: Final = 404
_STRICT: Final = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


def submit(options: argparse.Namespace) -> int:
    """Apply the job of the file; with --wait, show it until it ends. The exit code.

    Raises DSortError InvalidSpec, with nothing sent, for what `dsort run` would refuse, and ClusterError.
    """
    manifest = read_manifest(options.file)
    metadata = manifest.setdefault("metadata", {})
    if not metadata.get("name") and not metadata.get("generateName"):
        raise DSortError(Reason.INVALID_SPEC, "metadata.name: a job in a cluster needs a name")
    with Cluster.of(options) as cluster:
        namespace = metadata.get("namespace")
        if namespace and options.namespace and namespace != options.namespace:
            raise DSortError(
                Reason.INVALID_SPEC,
                f"metadata.namespace: {namespace} is not the namespace of the command line, {options.namespace}",
            )
        cluster.namespace = namespace or cluster.namespace
        job, what = _send(cluster, manifest)
        _say(job, what=what, as_json=options.json)
        return watch_job(cluster, job, as_json=options.json) if options.wait else 0


def _send(cluster: Cluster, manifest: Object) -> tuple[Object, str]:
    """The object as the API server has it now, and what became of it there, in one word."""
    name = manifest["metadata"].get("name")
    if not name:
        return cluster.ask("POST", cluster.jobs_path(), query=_STRICT, body=manifest), "created"
    before = _version(cluster, name)
    path = f"{cluster.jobs_path()}/{name}"
    job = cluster.ask("PATCH", path, query=_STRICT, body=manifest, kind=APPLY_PATCH)
    if before is None:
        return job, "created"
    return job, "unchanged" if job["metadata"]["resourceVersion"] == before else "configured"


def _version(cluster: Cluster, name: str) -> str | None:
    """The resource version of the job, where it is there."""
    try:
        version: str = cluster.job(name)["metadata"]["resourceVersion"]
    except ClusterError as error:
        if error.status != _NOT_FOUND:
            raise
        return None
    return version


def _say(job: Object, *, what: str, as_json: bool) -> None:
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    if as_json:
        event = {"event": "submitted", "name": name, "namespace": namespace, "what": what}
        print(json.dumps(event), flush=True)
    else:
        print(f"dsortjob.dsort.dev/{name} {what}", flush=True)
