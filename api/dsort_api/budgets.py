"""What `spec.memory.budget` comes to: the memory limit of a worker pod, and the bytes that a rank plans with. Pure."""

from __future__ import annotations

from typing import Final

from dsort_api.quantity import format_bytes, parse_amount, parse_percent
from dsort_api.spec import LEAST_BUDGET, DSortJobSpec

ROOM: Final = 70
"""Percentage of its limit that a pod plans with where the limit is made for a budget: above it is file cache that is being
written, and what the kernel itself holds for the pod.
"""
LIMIT: Final = 1 << 30
"""Memory limit of a pod where neither the template nor the budget says how much (bytes)."""
LOCAL_BUDGET: Final = 512 << 20
"""What a rank plans with outside of a cluster where nothing says how much (bytes)."""
_MIB: Final = 1 << 20


def pod_limit(spec: DSortJobSpec) -> str | int:
    """The memory limit of a worker pod, as a quantity: what the template says; or enough for a budget in bytes; or, as a
    percentage does not say of what, LIMIT, and more where that many lanes could not work with it. A request that is greater
    than such a limit makes it.
    """
    given = _given_limit(spec)
    if given is not None:
        return given
    budget = spec.memory.budget
    if isinstance(budget, int):
        made = _mebibytes(budget, ROOM)
    else:
        made = max(LIMIT // _MIB, _mebibytes(spec.workers.lanes * LEAST_BUDGET, parse_percent(budget)))
    template = spec.workers.template
    asked = template.spec.resources.requests.get("memory", 0) if template is not None else 0
    return asked if parse_amount(asked) > made * _MIB else f"{made}Mi"


def rank_budget(spec: DSortJobSpec) -> int:
    """Bytes that a rank in a pod plans with: the pod's budget, divided by its lanes."""
    budget = spec.memory.budget
    if isinstance(budget, str):
        budget = int(parse_amount(pod_limit(spec)) * parse_percent(budget) / 100)
    return budget // spec.workers.lanes


def local_budget(spec: DSortJobSpec) -> int:
    """Bytes that a rank plans with outside of a cluster: as in a pod, when the spec says how much that is."""
    if isinstance(spec.memory.budget, str) and _given_limit(spec) is None:
        return LOCAL_BUDGET
    return rank_budget(spec)


def unworkable(spec: DSortJobSpec) -> str | None:
    """Why no pod can work with its memory, beginning with the field to change; None when it can."""
    given = _given_limit(spec)
    if given is None:
        return None
    field = "spec.workers.template.spec.resources.limits.memory"
    limit, budget = parse_amount(given), spec.memory.budget
    if isinstance(budget, int):
        if limit < budget:
            return (
                f"{field}: {format_bytes(float(limit))} are less than the budget of the pod, {format_bytes(budget)}; "
                "raise it, or lower spec.memory.budget"
            )
        return None
    share = rank_budget(spec)
    if share < LEAST_BUDGET:
        return (
            f"{field}: {budget} of {format_bytes(float(limit))} for workers.lanes {spec.workers.lanes} leave {format_bytes(share)} for "
            "a rank, and 64Mi is the least; raise it, or lower spec.workers.lanes"
        )
    return None


def _given_limit(spec: DSortJobSpec) -> str | int | None:
    template = spec.workers.template
    return template.spec.resources.limits.get("memory") if template is not None else None


def _mebibytes(budget: int, percent: int) -> int:
    """The least number of MiB of which so many percent are the budget."""
    return -(budget * -100 // (percent * _MIB))
