"""Conditions by the API's conventions, and the events that they are worth; time."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import pytest

from dsort_api.spec import load_job
from dsort_api.status import Condition, ConditionType, DSortJobStatus
from dsort_operator.conditions import Conditions, Why, events_of
from dsort_operator.deadlines import active_left, active_seconds, left, retry_pause
from tests.support.worlds import T0, job_body

LATER = T0 + timedelta(seconds=60)


def condition(
    kind: str, status: Literal["True", "False"] = "True", *, reason: str = "Why", message: str = "so"
) -> Condition:
    return Condition(type=kind, status=status, last_transition_time=T0, reason=reason, message=message)


def test_time_of_a_condition_is_that_of_its_last_change_of_status() -> None:
    conditions = Conditions([condition("WorkersReady", "False")], now=LATER, generation=3)
    conditions.set(ConditionType.WORKERS_READY, "Other", "new", holds=False)
    (same,) = conditions.listed()
    assert (same.last_transition_time, same.reason, same.observed_generation) == (T0, "Other", 3)
    conditions.set(ConditionType.WORKERS_READY, "AllReady", "now", holds=True)
    (changed,) = conditions.listed()
    assert (changed.last_transition_time, changed.status) == (LATER, "True")
    conditions.set(ConditionType.WORKERS_READY, "Other", "back", holds=False)
    assert conditions.listed()[0].last_transition_time == T0  # what counts is what was written


def test_conditions_stand_in_one_order_and_keep_what_is_not_set() -> None:
    conditions = Conditions(
        [condition("Failed"), condition("Odd"), condition("Suspended")], now=LATER, generation=1
    )
    assert [one.type for one in conditions.listed()] == ["Suspended", "Failed"]


def test_what_holds_and_since_when() -> None:
    conditions = Conditions([condition("Failed"), condition("Suspended", "False")], now=LATER, generation=1)
    assert conditions.holds(ConditionType.FAILED)
    assert not conditions.holds(ConditionType.SUSPENDED)
    assert not conditions.holds(ConditionType.COMPLETE)
    assert conditions.since(ConditionType.FAILED, holds=True) == T0
    assert conditions.since(ConditionType.FAILED, holds=False) is None
    assert conditions.since(ConditionType.SUSPENDED, holds=False) == T0
    assert conditions.since(ConditionType.COMPLETE, holds=True) is None


def test_long_message_is_cut() -> None:
    conditions = Conditions([], now=T0, generation=1)
    conditions.set(ConditionType.FAILED, "Why", "x" * 9999, holds=True)
    assert len(conditions.listed()[0].message) == 1024


READY, NOT = condition("WorkersReady"), condition("WorkersReady", "False", reason="Unschedulable")


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        (None, condition("Suspended"), ("Normal", "Why")),
        (None, condition("Suspended", "False", reason=Why.NOT_SUSPENDED), None),
        (
            condition("Suspended"),
            condition("Suspended", "False", reason=Why.NOT_SUSPENDED),
            ("Normal", "Resumed"),
        ),
        (condition("Suspended"), condition("Suspended", "False", reason=Why.ENDED), None),
        (NOT, READY, ("Normal", "WorkersReady")),
        (READY, NOT, ("Warning", "Unschedulable")),
        (READY, condition("WorkersReady", "False", reason=Why.STARTING), None),
        (NOT, condition("WorkersReady", "False", reason="Released"), ("Warning", "Released")),
        (NOT, condition("WorkersReady", "False", reason="Unschedulable", message="other"), None),
        (None, condition("FailureTarget", reason="Aborted"), ("Warning", "Aborted")),
        (condition("FailureTarget"), condition("FailureTarget", "False"), None),
        (None, condition("Failed", reason="Aborted"), ("Warning", "Failed")),
        (None, condition("Failed", "False"), None),
        (None, condition("Complete", reason="Published"), ("Normal", "Complete")),
        (None, condition("Complete", "False"), None),
        (None, condition("Throttled", "False"), None),
    ],
)
def test_event_tells_of_a_change_that_people_want_to_hear_of(
    before: Condition | None, after: Condition, event: tuple[str, str] | None
) -> None:
    told = events_of([before] if before else [], [after])
    assert [(one.type, one.reason) for one in told] == ([event] if event else [])


# Time


def status(*conditions: Condition, active: int | None = None, started: bool = True) -> DSortJobStatus:
    return DSortJobStatus(
        start_time=T0 if started else None, active_seconds=active, conditions=list(conditions)
    )


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (status(started=False), 0),
        (status(), 60),
        (status(condition("Suspended"), active=7), 7),
        (status(condition("Suspended", "False"), active=7), 67),
        (status(condition("Failed")), 60),
    ],
)
def test_active_seconds_leave_suspensions_out(given: DSortJobStatus, seconds: float) -> None:
    assert active_seconds(given, now=LATER) == seconds


def test_clock_that_goes_back_takes_no_time_back() -> None:
    assert active_seconds(status(active=5), now=T0 - timedelta(seconds=9)) == 5


def test_deadline_begins_with_the_start() -> None:
    spec = load_job(job_body(activeDeadlineSeconds=100), strict=True).spec
    assert active_left(spec, status=status(), now=LATER) == 40
    assert active_left(spec, status=status(started=False), now=LATER) is None
    assert active_left(load_job(job_body(), strict=True).spec, status=status(), now=LATER) is None


def test_time_left() -> None:
    assert left(T0, seconds=90, now=LATER) == 30
    assert left(None, seconds=90, now=LATER) == 90


def test_pauses_differ_from_try_to_try_and_never_for_the_same() -> None:
    pauses = {
        retry_pause(uid, since=since, seconds=10) for uid in ("a", "b", "c") for since in (T0, LATER, None)
    }
    assert len(pauses) == 9
    assert all(10 <= pause < 20 for pause in pauses)
    assert retry_pause("a", since=T0, seconds=10) in pauses
