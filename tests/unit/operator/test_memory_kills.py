"""Pods that were killed for want of memory: each counts once, and what ranks that start afterwards get."""

from __future__ import annotations

from datetime import datetime, timedelta

from dsort_api.spec import LEAST_BUDGET
from dsort_api.status import JobMemory
from dsort_operator.children import WorkerPod
from dsort_operator.memory_kills import count_kills
from tests.support.worlds import T0, failed_pod, worker_pod

MIB = 1 << 20


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def killed(name: str, *, born: float | None = 0, died: float | None = 10) -> WorkerPod:
    return failed_pod(
        0,
        uid=name,
        oom_killed=True,
        created=None if born is None else at(born),
        ended=None if died is None else at(died),
    )


def count(before: JobMemory, *pods: WorkerPod, budget: int = 512 * MIB) -> JobMemory:
    return count_kills(before, pods=pods, budget=budget).memory


def test_where_nobody_was_killed_nothing_is_said() -> None:
    before = JobMemory(level=2)
    assert count_kills(before, pods=[worker_pod(0), failed_pod(1)], budget=1) == ((), before)


def test_each_pod_counts_once_and_takes_a_quarter_of_the_budget() -> None:
    first = count(JobMemory(level=2), killed("a"))
    assert (first.oom_kills, first.oom_killed, first.budget) == (1, ["a"], 384 * MIB)
    assert (first.last_oom_kill, first.budget_since, first.level) == (at(10), at(10), 2)
    assert count(first, killed("a")) == first
    second = count(first, killed("a"), killed("b", born=10, died=20))
    assert (second.oom_kills, second.oom_killed, second.budget) == (2, ["a", "b"], 288 * MIB)
    assert (second.last_oom_kill, second.budget_since) == (at(20), at(20))


def test_pods_that_died_of_the_same_budget_lower_it_once() -> None:
    wave = count(JobMemory(), killed("b", died=12), killed("a", died=10), killed("c", died=11))
    assert (wave.oom_kills, wave.oom_killed, wave.budget) == (3, ["a", "c", "b"], 384 * MIB)
    late = count(wave, killed("d", born=5, died=15))
    assert (late.oom_kills, late.budget, late.budget_since) == (4, 384 * MIB, at(10))
    # The replacement of the first: born before the last of the wave had ended.
    again = count(late, killed("a2", born=11, died=30))
    assert (again.oom_kills, again.budget) == (5, 288 * MIB)


def test_budget_never_falls_below_the_least() -> None:
    memory = JobMemory()
    for number in range(12):
        memory = count(memory, killed(f"p{number}", born=10 * number, died=10 * number + 10))
    assert memory.budget == LEAST_BUDGET
    assert memory.oom_kills == 12
    assert count(JobMemory(), killed("a"), budget=LEAST_BUDGET).budget == LEAST_BUDGET
    assert count(JobMemory(), killed("a"), budget=40 * MIB).budget == 40 * MIB


def test_more_pods_than_the_list_has_room_for_count_once_each() -> None:
    pods = [killed(f"p{number:02}", died=number) for number in range(25)]
    memory = count(JobMemory(), *pods)
    assert memory.oom_kills == 25
    assert memory.oom_killed == [f"p{number:02}" for number in range(15, 25)]
    assert count(memory, *pods) == memory
    more = count(memory, *pods, killed("later", died=40))
    assert more.oom_kills == 26
    assert more.oom_killed[-1] == "later"
    assert count(more, *pods, killed("later", died=40)) == more


def test_pod_without_times_counts() -> None:
    memory = count(JobMemory(), killed("a", born=None, died=None))
    assert (memory.oom_kills, memory.budget) == (1, 384 * MIB)
    assert count(memory, killed("a", born=None, died=None)) == memory
    assert count(JobMemory(), killed("a", died=None)).last_oom_kill == T0
