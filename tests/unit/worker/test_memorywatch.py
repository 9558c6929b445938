"""The watch over a rank's memory: levels by its own marks, and what is news for the driver."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from contextlib import closing

import pytest

from dsort_api.messages import HIGHEST_LEVEL, Desired, Observed
from dsort_api.spec import Memory
from dsort_worker.control import ControlServer
from dsort_worker.memory import Gauge, Reading
from dsort_worker.memorywatch import MemoryWatch
from dsort_worker.state import RankState


class House:
    """A rank whose memory is what a test says (percent of its limit)."""

    def __init__(self, **marks: str) -> None:
        self.percent = 0.0
        self.state = RankState(rank=0, epoch="e", gauge=Gauge(self._read))
        self.watch = MemoryWatch(self.state, spec=Memory.model_validate(marks))

    def _read(self) -> Reading:
        taken = round(self.percent * 10_000)
        return Reading("cgroup2", limit=1_000_000, unreclaimable=taken, working_set=0, rss=0, pressure=None)

    def look(self, percent: float) -> tuple[int, bool]:
        """The level after a look, and whether it was news."""
        self.percent, before = percent, self.state.version
        self.watch.look()
        return self.state.throttle.level, self.state.version != before


@pytest.mark.parametrize(
    ("marks", "percents", "levels"),
    [
        ({}, [84, 84.9, 85, 85.1], [0, 0, 1, 2]),
        ({}, [86, 80, 75, 74.9, 74.9], [1, 1, 1, 0, 0]),  # between the marks all stays as it is
        ({}, [86] * 7 + [10] * 6, [1, 2, 3, 4, 4, 4, 4, 3, 2, 1, 0, 0, 0]),
        ({"throttleAt": "50%", "resumeAt": "40%"}, [51, 45, 39], [1, 1, 0]),
    ],
)
def test_levels_go_up_above_the_one_mark_and_down_below_the_other(
    marks: dict[str, str], percents: Sequence[float], levels: Sequence[int]
) -> None:
    house = House(**marks)
    assert [house.look(percent)[0] for percent in percents] == list(levels)
    assert max(levels) <= HIGHEST_LEVEL


@pytest.mark.parametrize(
    ("percents", "news"),
    [
        ([0, 4.9, 5, 9.9, 10], [False, False, True, False, True]),
        ([52, 50, 49.9, 49.1, 48.9, 49, 50], [True, False, False, False, True, False, True]),
        ([15, 14.5, 15, 14.5], [True, False, False, False]),  # to hover about an edge is no news
        ([90, 90, 90, 90, 90], [True, True, True, True, False]),  # a level each time
        ([0], [False]),
    ],
)
def test_driver_is_woken_by_steps_of_five_percent_and_by_levels(
    percents: Sequence[float], news: Sequence[bool]
) -> None:
    house = House()
    assert [house.look(percent)[1] for percent in percents] == list(news)


def test_driver_is_woken_at_the_marks_of_the_spec() -> None:
    house = House(throttleAt="98%", resumeAt="52%", abortAt="99%")
    percents = (51, 52, 53, 55, 51.5, 51, 97, 98, 98.5, 99)
    news = [percent for percent in percents if house.look(percent)[1]]
    assert news == [51, 52, 55, 51.5, 97, 98, 98.5, 99]  # at 98.5 the level rises again


def test_level_of_the_driver_holds_while_memory_says_less() -> None:
    house = House()
    house.state.tell(Desired(throttle_level=3))
    assert [house.look(90)[0] for _ in range(4)] == [3, 3, 3, 4]
    house.state.tell(Desired(throttle_level=0))
    assert [house.look(50)[0] for _ in range(4)] == [3, 2, 1, 0]


def test_it_runs_beside_the_control_endpoint_and_wakes_its_driver() -> None:
    house = House()
    looked = threading.Event()
    control = ControlServer(house.state, host="127.0.0.1", port=0, token="secret", watch=house.watch.run)
    host = control.start().removeprefix("http://")
    try:
        with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            house.state.on_told = looked.set
            desired = Desired(memory_budget=1, seen=house.state.version, wait_seconds=25.0)
            connection.request(
                "PUT", "/v1/control", desired.model_dump_json(), {"Authorization": "Bearer secret"}
            )
            assert looked.wait(30)
            began = time.monotonic()
            house.percent = 90.0
            observed = Observed.model_validate_json(connection.getresponse().read())
        assert time.monotonic() - began < 20
        assert (observed.memory.unreclaimable, observed.memory.limit) == (900_000, 1_000_000)
        assert observed.flow.level >= 1
    finally:
        control.stop()
    assert not control._thread.is_alive()
