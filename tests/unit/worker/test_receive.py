"""The receive window: bounded in bytes and requests, fewer and smaller under load, and never nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.messages import HIGHEST_LEVEL
from dsort_worker.budget import divide
from dsort_worker.receive import LEAST_WINDOW, ReceiveWindow

MIB = 1 << 20


def window(
    *, windows: int = 3, size: int = 16 * MIB, requests: int = 8, of_one: int = 8, sources: int = 1
) -> ReceiveWindow:
    return ReceiveWindow(windows=windows, size=size, requests=requests, of_one=of_one, sources=sources)


@pytest.mark.parametrize(
    ("level", "cap", "size", "requests"),
    [(0, 48, 16, 4), (1, 24, 8, 4), (2, 12, 4, 2), (3, 6, 2, 1), (4, 3, 1, 1)],
)
def test_each_level_halves_what_may_be_open_and_asked_for(
    level: int, cap: int, size: int, requests: int
) -> None:
    one = window()
    one.throttle(level)
    assert (one.bytes_cap, one.next_size, one.requests_cap) == (cap * MIB, size * MIB, requests)
    one.throttle(0)
    assert one.bytes_cap == 48 * MIB


@pytest.mark.parametrize("level", range(HIGHEST_LEVEL + 1))
@pytest.mark.parametrize("size", [8192, MIB, 2 * MIB])
def test_one_window_of_the_least_size_and_one_request_are_always_left(level: int, size: int) -> None:
    one = window(size=size, requests=2, windows=1)
    one.throttle(level)
    assert one.next_size >= min(size, LEAST_WINDOW)
    assert one.has_room()
    assert one.may_ask(0)


def test_windows_are_opened_up_to_the_cap_and_one_always() -> None:
    one = window()
    for _ in range(3):
        assert one.has_room()
        one.open(one.next_size)
    assert not one.has_room()
    one.throttle(2)
    one.close(16 * MIB)
    one.close(16 * MIB)
    assert not one.has_room()  # what is left is more than the level allows
    one.close(16 * MIB)
    assert one.has_room()


def ask_for(one: ReceiveWindow, part: float) -> None:
    """Keep a part of all bytes outstanding for a long time."""
    one.ask(7, int(part * one.bytes_cap), now=0.0)
    one.came(0, expected=0, now=1000.0)


def test_the_greater_the_load_the_fewer_and_smaller() -> None:
    seen: list[tuple[int, int]] = []
    for part in (0.0, 0.3, 0.5, 0.6, 0.8, 1.0):
        one = window()
        ask_for(one, part)
        assert one.load == pytest.approx(max(part, 1 / 8), abs=0.01)
        seen.append((one.next_size, one.requests_cap))
    assert seen[0] == seen[1] == (16 * MIB, 4)
    assert all(more >= less for more, less in itertools.pairwise(seen[1:]))
    assert seen[-1] == (4 * MIB, 2)


def test_the_load_is_the_greater_of_bytes_and_requests() -> None:
    one = window()
    for _ in range(8):
        one.ask(0, 0, now=0.0)
    one.came(0, expected=0, now=1000.0)
    assert one.load == pytest.approx(1.0, abs=0.01)


def test_the_load_is_smoothed_over_time() -> None:
    one = window()
    one.ask(0, one.bytes_cap, now=0.0)
    one.came(0, expected=0, now=0.1)
    early = one.load
    one.came(0, expected=0, now=0.6)
    assert 0.1 < early < 0.3 < one.load < 0.8
    one.end(0, one.bytes_cap, now=0.6)
    one.ask(0, 0, now=1000.0)
    assert one.load < 0.01


def test_windows_for_many_sources_stay_worth_a_request_to_each() -> None:
    one = window(sources=100)
    ask_for(one, 1.0)
    assert one.next_size == 100 * (64 << 10)
    one.throttle(4)
    assert one.next_size == MIB


@pytest.mark.parametrize(("sources", "of_one"), [(1, 4), (2, 2), (5, 2)])
def test_no_source_has_more_than_half_of_the_requests_when_there_are_others(
    sources: int, of_one: int
) -> None:
    one = window(sources=sources)
    for _ in range(of_one):
        assert one.may_ask(3)
        one.ask(3, 0, now=0.0)
    assert not one.may_ask(3)
    assert one.may_ask(2) == (sources > 1)


def test_a_source_that_never_answers_leaves_a_request_for_the_others_for_ever() -> None:
    # One request less costs nothing here: the rate is the same with one and with two.
    one = window(requests=2, of_one=1, sources=4)
    one.ask(0, MIB, now=0.0)
    for step in range(1, 5000):
        now = step / 50
        assert not one.may_ask(0)
        assert one.may_ask(1)
        one.ask(1, 1000, now=now)
        assert not one.may_ask(2)
        one.came(1000, expected=1000, now=now)
        one.end(1, 0, now=now)


@pytest.mark.parametrize("budget", range(64, 1025, 8))
def test_a_rank_that_receives_slowly_leaves_a_slot_at_every_source(budget: int) -> None:
    division = divide(budget * MIB)
    one = ReceiveWindow(
        windows=division.windows,
        size=division.window,
        requests=division.flows,
        of_one=division.serve_slots - 1,
        sources=4,
    )
    asked = 0
    while one.may_ask(0):
        one.ask(0, 0, now=0.0)
        asked += 1
    assert 1 <= asked < division.serve_slots


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "came", "end", "level", "time"]), st.integers(0, 4), st.floats(0, 2)
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_accounts_are_right_and_something_may_go_on(
    steps: list[tuple[str, int, float]],
) -> None:
    one = window(size=2 * MIB, requests=4, sources=5)
    running: list[list[int]] = []
    now = 0.0
    for what, number, seconds in steps:
        now += seconds
        match what:
            case "ask" if one.may_ask(number):
                one.ask(number, 1000 * number, now=now)
                running.append([number, 1000 * number])
            case "came" if running:
                some = running[number % len(running)]
                one.came(some[1] // 2, expected=some[1] // 2, now=now)
                some[1] -= some[1] // 2
            case "end" if running:
                source, rest = running.pop(number % len(running))
                one.end(source, rest, now=now)
            case "level":
                one.throttle(number)
            case _:
                pass
        assert one.requests == len(running) <= 4
        assert one.outstanding == sum(rest for _, rest in running)
        assert 0 <= one.load <= 1
        assert one.next_size % 512 == 0
        assert MIB <= one.next_size <= 2 * MIB
        assert 1 <= one.requests_cap <= 4
        assert running or one.may_ask(number)
    for source, rest in running:
        one.end(source, rest, now=now)
    assert (one.requests, one.outstanding) == (0, 0)
