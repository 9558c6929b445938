"""What is counted when a status is written, and what a scrape finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from dsort_api.status import Condition, DSortJobStatus, JobMemory
from dsort_operator.metrics import Metrics
from dsort_operator.sight import Sight
from tests.support.worlds import T0


def status(*conditions: tuple[str, str], kills: int | None = None) -> DSortJobStatus:
    """These conditions are True, for these reasons."""
    listed = [
        Condition(type=kind, status="True", reason=reason, message="", last_transition_time=T0)
        for kind, reason in conditions
    ]
    memory = JobMemory(oom_kills=kills) if kills is not None else None
    return DSortJobStatus(conditions=listed, memory=memory)


def counted(*written: DSortJobStatus) -> dict[str, float]:
    """What the counters come to when these are written one after the other."""
    metrics = Metrics(dict)
    for before, after in pairwise(written):
        metrics.count(before, after)
    found = re.findall(r"^dsort_(\w+)_total (\S+)$", metrics.page().decode(), re.MULTILINE)
    return {name: float(count) for name, count in found if float(count)}


THROTTLED = ("Throttled", "MemoryPressure")


@pytest.mark.parametrize(
    ("written", "counts"),
    [
        ((status(), status(("WorkersReady", "AllReady"))), {}),
        ((status(), status(THROTTLED), status(THROTTLED)), {"throttles": 1}),
        ((status(), status(THROTTLED), status(), status(THROTTLED)), {"throttles": 2}),
        ((status(), status(kills=1), status(kills=1), status(kills=4)), {"oom_kills": 4}),
        ((status(kills=4), status()), {}),
        ((status(), status(("Failed", "Aborted"))), {"aborts": 1}),
        (
            (status(), status(("Failed", "MemoryLimitExceeded")), status(("Failed", "MemoryLimitExceeded"))),
            {"memory_aborts": 1},
        ),
        ((status(), status(("FailureTarget", "MemoryLimitExceeded"))), {}),
        ((status(), status(("Failed", "InvalidSpec"))), {}),
    ],
)
def test_each_thing_counts_when_it_is_written(
    written: Sequence[DSortJobStatus], counts: dict[str, float]
) -> None:
    assert counted(*written) == counts


def test_throttled_jobs_are_counted_by_level_and_by_nothing_else() -> None:
    def body(uid: str, **memory: int) -> dict[str, object]:
        return {"metadata": {"uid": uid, "name": uid}, "spec": {}, "status": {"memory": memory}}

    bodies = [body("a", level=2), body("b", level=2), body("c", level=4), body("d", level=0), body("e")]
    theirs = {**body("f", level=3), "spec": {"managedBy": "example.com/other"}}
    sight = Sight(jobs={f"uid-{at}": [one] for at, one in enumerate([*bodies, theirs])})
    page = Metrics(sight.states, sight.levels).page().decode()
    found = re.findall(r'^dsort_throttled_jobs\{level="(\d)"\} (\S+)$', page, re.MULTILINE)
    assert found == [("1", "0.0"), ("2", "2.0"), ("3", "0.0"), ("4", "1.0")]
