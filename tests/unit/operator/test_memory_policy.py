"""The throttle level: when it rises, falls and stays, what it costs to stay above abortAt, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from dsort_api.messages import HIGHEST_LEVEL
from dsort_api.spec import Memory
from dsort_api.status import JobMemory
from dsort_operator.memory_policy import Marks, Step, Usage, exceeded, step
from tests.support.worlds import T0

MARKS = Marks.of(Memory())
INTERVAL = 5.0
MIB = 1 << 20


def usage(percent: float, *, rank: int = 0, **more: object) -> Usage:
    """Of a pod of 1000 MiB."""
    used = Usage(rank=rank, pod=f"p-{rank}", used=int(percent * 10 * MIB), limit=1000 * MIB)
    return replace(used, **more)  # type: ignore[arg-type]


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def level(number: int, *, since: float = -100.0, above: float | None = None, pod: str = "p-0") -> JobMemory:
    return JobMemory(
        level=number,
        level_since=at(since),
        above_abort_since=None if above is None else at(above),
        above_abort_pod=None if above is None else pod,
    )


def look(before: JobMemory, *usages: Usage, seconds: float = 0.0, complete: bool = True) -> Step:
    now = at(seconds)
    return step(
        before,
        usages=usages,
        complete=complete,
        marks=MARKS,
        now=now,
        stamp=now.replace(microsecond=0),
        interval=INTERVAL,
    )


def test_marks_are_those_of_the_spec() -> None:
    assert Marks(throttle=85, resume=75, abort=95, abort_after=30) == MARKS
    spec = {"throttleAt": "60%", "resumeAt": "50%", "abortAt": "70%", "abortAfterSeconds": 4}
    assert Marks.of(Memory.model_validate(spec)) == Marks(throttle=60, resume=50, abort=70, abort_after=4)


@pytest.mark.parametrize(
    ("before", "percents", "after"),
    [
        (0, (10,), 0),
        (0, (84.9,), 0),
        (0, (85,), 1),
        (0, (10, 85), 1),
        (1, (85, 10), 2),
        (3, (99,), 4),
        (HIGHEST_LEVEL, (94,), HIGHEST_LEVEL),
        (2, (84.9,), 2),
        (2, (75,), 2),
        (2, (74.9,), 1),
        (2, (10, 75), 2),
        (1, (10, 20), 0),
        (0, (0,), 0),
    ],
)
def test_worst_pod_decides_between_two_marks(before: int, percents: tuple[float, ...], after: int) -> None:
    usages = [usage(percent, rank=rank) for rank, percent in enumerate(percents)]
    made = look(level(before), *usages)
    assert made.memory.level == after
    if after == before:
        assert (made.memory, made.cause) == (level(before), None)
    else:
        assert made.memory.level_since == T0
        assert made.cause is not None
        assert made.cause.percent == max(percents)


@pytest.mark.parametrize(("percent", "after"), [(90, 3), (50, 1)])
def test_step_is_given_time_to_work(percent: float, after: int) -> None:
    before = level(2, since=0)
    early = look(before, usage(percent), seconds=4.9)
    assert (early.memory, early.cause) == (before, None)
    assert early.wait == pytest.approx(0.1)
    made = look(before, usage(percent), seconds=5)
    assert made.memory.level == after
    assert made.wait == INTERVAL


def test_first_step_is_made_at_once_and_nothing_is_due_in_between() -> None:
    made = look(JobMemory(), usage(90))
    assert (made.memory.level, made.memory.level_since) == (1, T0)
    assert look(made.memory, usage(80), seconds=1).wait is None


def test_a_full_pod_takes_the_level_up_and_a_free_one_takes_it_down_again() -> None:
    memory, seen = JobMemory(), []
    for seconds in range(60):
        memory = look(memory, usage(97 if seconds < 30 else 20), seconds=seconds).memory
        seen.append(memory.level)
    changes = [
        (second, now) for second, (was, now) in enumerate(zip([0, *seen], seen, strict=False)) if was != now
    ]
    assert changes == [(0, 1), (5, 2), (10, 3), (15, 4), (30, 3), (35, 2), (40, 1), (45, 0)]


def test_without_figures_nothing_is_decided() -> None:
    before = level(3, above=-10)
    assert look(before, complete=False) == Step(memory=before)
    assert look(before) == Step(memory=before)


def test_level_does_not_fall_while_a_pod_is_not_heard() -> None:
    before = level(2)
    assert look(before, usage(10), complete=False).memory == before
    assert look(before, usage(90), complete=False).memory.level == 3


def test_time_above_the_abort_mark_counts_at_the_highest_level_only() -> None:
    assert look(level(2), usage(99)).memory.above_abort_since is None
    highest = look(level(3), usage(99)).memory
    assert highest.above_abort_since == T0
    assert look(highest, usage(95), seconds=7).memory.above_abort_since == T0
    assert look(highest, usage(94.9), seconds=7).memory.above_abort_since is None
    assert look(highest, usage(99, working_set=True), seconds=7).memory.above_abort_since is None


def test_pod_that_stays_above_the_abort_mark_is_too_much() -> None:
    before = level(HIGHEST_LEVEL, above=0, pod="p-1")
    pods = [usage(94), usage(97, rank=1), usage(96, rank=2), usage(99, rank=3, working_set=True)]
    assert exceeded(before, usages=pods, marks=MARKS, now=at(29)) == (None, 1.0)
    assert exceeded(before, usages=pods, marks=MARKS, now=at(30)) == (pods[1], None)
    assert exceeded(before, usages=pods[:1], marks=MARKS, now=at(99)) == (None, None)
    assert exceeded(before, usages=(), marks=MARKS, now=at(99)) == (None, None)
    assert exceeded(level(HIGHEST_LEVEL), usages=pods, marks=MARKS, now=at(99)) == (None, None)


def test_time_above_the_abort_mark_is_one_pods_own() -> None:
    """That another was there before it says nothing of a pod that has just come so far."""
    first, second = usage(96), usage(99, rank=1)
    before = look(level(3), first).memory
    both = look(before, first, second, seconds=20).memory
    assert (both.above_abort_pod, both.above_abort_since) == (first.pod, T0)
    other = look(both, usage(50), second, seconds=29).memory
    assert (other.above_abort_pod, other.above_abort_since) == (second.pod, at(29))
    assert exceeded(both, usages=[usage(50), second], marks=MARKS, now=at(31)) == (None, None)
    assert exceeded(other, usages=[usage(50), second], marks=MARKS, now=at(59)) == (second, None)


@pytest.mark.parametrize(
    ("before", "percent", "after"), [(0, 10, 1), (1, 10, 1), (2, 10, 1), (1, 90, 2), (2, 80, 2)]
)
def test_node_that_is_short_of_memory_holds_its_pods_back_a_little(
    before: int, percent: float, after: int
) -> None:
    made = look(level(before), usage(percent + 1, rank=1), usage(percent, short_node="n-7"))
    assert made.memory.level == after
    if before == 0:
        assert made.cause is not None
        assert made.cause.short_node == "n-7"


@pytest.mark.parametrize(
    ("used", "says"),
    [
        (usage(90), "rank 0 (pod p-0): 900.00 MiB of 1000.00 MiB, 90 %"),
        (usage(99.99, rank=3), "rank 3 (pod p-3): 999.90 MiB of 1000.00 MiB, 99 %"),
        (usage(90, pressure=0.9), "rank 0 (pod p-0): 900.00 MiB of 1000.00 MiB, 90 %"),
        (usage(90, pressure=12.3), "rank 0 (pod p-0): 900.00 MiB of 1000.00 MiB, 90 %; memory pressure 12 %"),
        (usage(90, working_set=True), "rank 0 (pod p-0): working set: 900.00 MiB of 1000.00 MiB, 90 %"),
        (
            usage(50, short_node="n"),
            "rank 0 (pod p-0): 500.00 MiB of 1000.00 MiB, 50 %; its node n has MemoryPressure",
        ),
        (Usage(rank=4, pod="q", short_node="n"), "rank 4 (pod q): its node n has MemoryPressure"),
    ],
)
def test_figures_are_told(used: Usage, says: str) -> None:
    assert used.says == says
    assert (used.percent == 0) == (used.limit == 0)
