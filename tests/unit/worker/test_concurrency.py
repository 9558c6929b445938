"""How many requests at a time are worth it: as many as make it faster, on links of any kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsort_worker.concurrency import Concurrency


def run(one: Concurrency, rate: Callable[[int], float], *, rounds: int, busy: bool = True) -> list[int]:
    """Measure so often, on a link that moves rate(limit) bytes a second; the limits on the way."""
    limits, now = [], one._since or 0.0
    one.ended(now=now)
    for _ in range(rounds):
        if busy:
            one.held_back()
        one.came(int(rate(one.limit)))
        now += 1.0
        for _ in range(2 * one.limit):
            one.ended(now=now)
        limits.append(one.limit)
    return limits


@pytest.mark.parametrize(
    ("best", "most", "end"),
    [(1, 8, 1), (3, 8, 3), (4, 8, 4), (6, 16, 6), (100, 8, 8), (100, 2, 2), (1, 1, 1)],
)
def test_it_comes_to_where_one_more_brings_nothing(best: int, most: int, end: int) -> None:
    one = Concurrency(most=most)
    limits = run(one, lambda limit: 1e6 * min(limit, best), rounds=200)
    assert sorted(limits[-40:])[20] == end
    assert all(abs(limit - end) <= 1 for limit in limits[-40:])
    assert all(1 <= limit <= most for limit in limits)


def test_it_follows_a_link_that_changes() -> None:
    one = Concurrency(most=16)
    assert abs(run(one, lambda limit: 1e6 * min(limit, 10), rounds=200)[-1] - 10) <= 1
    assert abs(run(one, lambda limit: 1e6 * min(limit, 3), rounds=400)[-1] - 3) <= 1
    assert abs(run(one, lambda limit: 1e6 * min(limit, 12), rounds=400)[-1] - 12) <= 1


def test_more_that_does_harm_is_taken_back() -> None:
    one = Concurrency(most=16)
    limits = run(one, lambda limit: 1e6 * (limit if limit <= 5 else 2), rounds=200)
    assert max(limits[-100:]) <= 6
    assert sorted(limits[-100:])[50] == 5


def test_a_limit_that_nobody_reaches_stays() -> None:
    one = Concurrency(most=16)
    assert set(run(one, lambda limit: 1e6 * limit, rounds=50, busy=False)) == {4}


def test_a_measurement_takes_a_while() -> None:
    one = Concurrency(most=16)
    for _ in range(1000):
        one.held_back()
        one.came(1000)
        one.ended(now=1.0)
    assert one.limit == 4
