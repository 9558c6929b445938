"""What a spec that was written for a cluster means on one machine. The result has the same bytes in both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dsort_api.reasons import DSortError, Reason

if TYPE_CHECKING:
    from dsort_api.spec import DSortJobSpec

MOST_RANKS: Final = 1024
"""Ranks that one machine is asked for at most; each is a process."""


def ranks_here(spec: DSortJobSpec, *, asked: int | None) -> int:
    """Ranks of a run on this machine: as many as were `asked` for, or those of all pods. One node has one pod.

    DSortError InvalidSpec when they are too many.
    """
    if asked is not None:
        return asked
    pods, lanes = spec.workers.count or 1, spec.workers.lanes
    if pods * lanes > MOST_RANKS:
        raise DSortError(
            Reason.INVALID_SPEC,
            f"spec.workers: {pods} workers of {lanes} lanes are {pods * lanes} ranks, and one machine runs at most "
            f"{MOST_RANKS}; say how many with --workers",
        )
    return pods * lanes


def check_may_run(spec: DSortJobSpec) -> None:
    """DSortError InvalidSpec for a job that is held or ended already: the runner has no one who could let it go on."""
    if spec.abort:
        raise DSortError(
            Reason.INVALID_SPEC,
            "spec.abort: true ends a job, and this one has not begun; leave it out to run it",
        )
    if spec.suspend:
        raise DSortError(
            Reason.INVALID_SPEC,
            "spec.suspend: true holds a job until someone sets it to false, which a cluster can and a run cannot; "
            "leave it out to run it",
        )
