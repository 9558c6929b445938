"""How many pods a job gets, and whether they can work in this cluster at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsort_api.budgets import unworkable
from dsort_api.spec import DSortJobSpec
from dsort_operator.volumes import Mount, mounts_of


def pods_of(spec: DSortJobSpec, *, nodes: int | None) -> int:
    """How many pods there are to be; 0 while no node takes one."""
    return (nodes or 0) if spec.workers.one_per_node else spec.workers.count or 1


def missing_claims(spec: DSortJobSpec, *, claims: Mapping[str, Sequence[str] | None]) -> list[str]:
    """The claims that the job names and that are not there."""
    named = dict.fromkeys(mount.claim for mount in mounts_of(spec) if mount.claim)
    return [claim for claim in named if claims.get(claim) is None]


def unsuitable(
    spec: DSortJobSpec, *, pods: int, claims: Mapping[str, Sequence[str] | None], allow_host_paths: bool
) -> str | None:
    """Why this many pods cannot do the job here, beginning with the field to change; None when they can."""
    for mount in mounts_of(spec):
        wrong = (
            _wrong_host_path(mount, pods=pods, allowed=allow_host_paths)
            if mount.host_path
            else _wrong_claim(mount, pods=pods, modes=claims.get(mount.claim) or ())
        )
        if wrong is not None:
            return f"{mount.field}: {wrong}"
    return unworkable(spec)


def _wrong_host_path(mount: Mount, *, pods: int, allowed: bool) -> str | None:
    if not allowed:
        return "this operator does not allow folders of nodes (file://); use pvc://claim/path"
    if ":" in mount.host_path:
        return f"{mount.host_path!r} has a ':', which no mount in a container may have"
    if mount.hides:
        return f"{mount.host_path} would hide the container's own {mount.hides}; use another folder"
    if pods > 1 and not mount.read_only:
        return (
            f"{mount.host_path} is another folder on each node, and {pods} pods would write to it; "
            "use pvc://claim/path, or spec.workers.count 1"
        )
    return None


def _wrong_claim(mount: Mount, *, pods: int, modes: Sequence[str]) -> str | None:
    if not mount.read_only and set(modes) == {"ReadOnlyMany"}:
        return f"claim {mount.claim} is ReadOnlyMany, and the output is written to it"
    shared = {"ReadWriteMany", "ReadOnlyMany"} if mount.read_only else {"ReadWriteMany"}
    if pods > 1 and not shared & set(modes):
        return (
            f"claim {mount.claim} is {' and '.join(modes)}, which {pods} pods on several nodes cannot share; "
            "use a claim that is ReadWriteMany, or spec.workers.count 1"
        )
    return None
