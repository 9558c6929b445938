"""What a budget comes to: the limit of a pod, the bytes of a rank in it and outside of a cluster, and what cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from dsort_api.budgets import LOCAL_BUDGET, local_budget, pod_limit, rank_budget, unworkable
from dsort_api.quantity import parse_amount
from dsort_api.spec import LEAST_BUDGET, DSortJobSpec, load_job
from tests.support.worlds import job_body

MIB = 1 << 20


def spec_of(budget: str | int | None, *, lanes: int = 1, limit: str | int | None = None) -> DSortJobSpec:
    workers: dict[str, Any] = {"count": 1, "lanes": lanes}
    if limit is not None:
        workers["template"] = {"spec": {"resources": {"limits": {"memory": limit}}}}
    memory = None if budget is None else {"budget": budget}
    return load_job(job_body(workers=workers, memory=memory), strict=True).spec


@pytest.mark.parametrize(
    ("budget", "lanes", "limit", "rank", "local"),
    [
        (None, 1, "1024Mi", 751619276, LOCAL_BUDGET),
        (None, 2, "1024Mi", 375809638, LOCAL_BUDGET),
        (None, 11, "1024Mi", 68329025, LOCAL_BUDGET),
        (None, 12, "1098Mi", 67161292, LOCAL_BUDGET),  # of 1Gi no rank of twelve would have the least
        ("50%", 4, "1024Mi", 128 * MIB, LOCAL_BUDGET),
        ("5%", 1, "1280Mi", 64 * MIB, LOCAL_BUDGET),
        ("100%", 1, "1024Mi", 1024 * MIB, LOCAL_BUDGET),
        ("700Mi", 1, "1000Mi", 700 * MIB, 700 * MIB),
        ("1400Mi", 2, "2000Mi", 700 * MIB, 700 * MIB),
        ("512Mi", 1, "732Mi", 512 * MIB, 512 * MIB),
        (64 * MIB, 1, "92Mi", 64 * MIB, 64 * MIB),
    ],
)
def test_without_a_limit_in_the_template(
    budget: str | int | None, lanes: int, limit: str, rank: int, local: int
) -> None:
    spec = spec_of(budget, lanes=lanes)
    assert (pod_limit(spec), rank_budget(spec), local_budget(spec)) == (limit, rank, local)
    assert unworkable(spec) is None


@pytest.mark.parametrize(
    ("budget", "lanes", "limit", "rank"),
    [
        (None, 1, "3Gi", 2254857830),
        ("50%", 2, "512Mi", 128 * MIB),
        ("50%", 1, 256 * MIB, 128 * MIB),
        ("50%", 1, "1e9", 500_000_000),
        ("256Mi", 2, "1Gi", 128 * MIB),
        ("1Gi", 1, "1Gi", 1024 * MIB),
    ],
)
def test_the_limit_of_the_template_is_the_limit(
    budget: str | int | None, lanes: int, limit: str | int, rank: int
) -> None:
    spec = spec_of(budget, lanes=lanes, limit=limit)
    assert (pod_limit(spec), rank_budget(spec), local_budget(spec)) == (limit, rank, rank)
    assert unworkable(spec) is None


@pytest.mark.parametrize(
    ("budget", "asked", "limit", "rank"),
    [
        (None, "2Gi", "2Gi", 1503238553),
        (None, "512Mi", "1024Mi", 751619276),
        ("700Mi", "1000Mi", "1000Mi", 700 * MIB),
        ("700Mi", "1001Mi", "1001Mi", 700 * MIB),
    ],
)
def test_a_request_that_is_greater_is_the_limit(
    budget: str | None, asked: str, limit: str, rank: int
) -> None:
    template = {"spec": {"resources": {"requests": {"memory": asked}}}}
    memory = None if budget is None else {"budget": budget}
    spec = load_job(job_body(workers={"count": 1, "template": template}, memory=memory), strict=True).spec
    assert (pod_limit(spec), rank_budget(spec), unworkable(spec)) == (limit, rank, None)


@pytest.mark.parametrize("lanes", [1, 2, 7, 64])
@pytest.mark.parametrize("percent", [1, 33, 70, 100])
def test_a_limit_that_is_made_gives_every_rank_the_least(percent: int, lanes: int) -> None:
    spec = spec_of(f"{percent}%", lanes=lanes)
    assert rank_budget(spec) >= LEAST_BUDGET
    assert rank_budget(spec) * lanes <= parse_amount(pod_limit(spec)) * percent / 100


LIMIT = "spec.workers.template.spec.resources.limits.memory"


@pytest.mark.parametrize(
    ("budget", "lanes", "limit", "says"),
    [
        (
            "600Mi",
            2,
            "512Mi",
            f"{LIMIT}: 512.00 MiB are less than the budget of the pod, 600.00 MiB; raise it, or lower spec.memory.budget",
        ),
        ("64Mi", 1, 0, f"{LIMIT}: 0 bytes are less than the budget of the pod, 64.00 MiB; "),
        (
            None,
            2,
            "128Mi",
            f"{LIMIT}: 70% of 128.00 MiB for workers.lanes 2 leave 44.80 MiB for a rank, and 64Mi is the least; raise it, or lower ",
        ),
        ("100%", 1, "63Mi", f"{LIMIT}: 100% of 63.00 MiB for workers.lanes 1 leave 63.00 MiB for a rank, "),
    ],
)
def test_a_limit_that_is_too_small_is_named(
    budget: str | None, lanes: int, limit: str | int, says: str
) -> None:
    assert (unworkable(spec_of(budget, lanes=lanes, limit=limit)) or "").startswith(says)
