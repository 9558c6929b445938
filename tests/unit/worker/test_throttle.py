"""The throttle: the greater of two levels holds, and a change is told once."""

from __future__ import annotations

import pytest

from dsort_api.messages import HIGHEST_LEVEL
from dsort_worker.throttle import Throttle


@pytest.mark.parametrize(
    ("told", "felt", "level"),
    [
        (0, 0, 0),
        (2, 0, 2),
        (0, 3, 3),
        (1, 3, 3),
        (3, 1, 3),
        (9, 0, HIGHEST_LEVEL),
        (0, 9, HIGHEST_LEVEL),
        (-1, -2, 0),
    ],
)
def test_the_greater_level_holds(told: int, felt: int, level: int) -> None:
    throttle = Throttle()
    throttle.tell(told)
    throttle.feel(felt)
    assert throttle.level == level


def test_only_a_change_of_the_level_is_told_to_everybody() -> None:
    throttle = Throttle()
    one: list[int] = []
    other: list[int] = []
    throttle.subscribe(lambda: one.append(throttle.level))
    throttle.subscribe(lambda: other.append(throttle.level))
    for tell, feel in [(0, 0), (2, 0), (2, 1), (2, 3), (1, 3), (1, 0), (0, 0)]:
        throttle.tell(tell)
        throttle.feel(feel)
    assert one == other == [2, 3, 1, 0]


def test_what_one_side_says_does_not_undo_the_other() -> None:
    throttle = Throttle()
    throttle.feel(2)
    throttle.tell(3)
    throttle.tell(0)
    assert throttle.level == 2
