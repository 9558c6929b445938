"""Numbers of the progress display."""

from __future__ import annotations

import pytest

from dsort_api.messages import Flow, Memory, Observed, Phase, Progress
from dsort_cli.figures import Meter, clock, seconds_left, slowest


def report(rank: int, phase: Phase, **progress: int) -> Observed:
    return Observed(
        epoch="e",
        rank=rank,
        version=1,
        phase=phase,
        progress=Progress(**progress),
        memory=Memory(rss=100 + rank, peak_rss=200, budget=300),
        flow=Flow(level=2),
    )


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ([Phase.CREATE, Phase.SCAN], Phase.SCAN),
        ([Phase.COMPLETE, Phase.PUBLISH], Phase.PUBLISH),
        ([Phase.FAILED, Phase.CREATE], Phase.CREATE),
        ([Phase.FAILED, Phase.STOPPED], Phase.FAILED),
    ],
)
def test_the_phase_of_a_job_is_that_of_its_slowest_rank(phases: list[Phase], expected: Phase) -> None:
    assert slowest(phases) is expected


def test_a_rank_that_is_past_the_phase_has_done_all_of_it() -> None:
    meter = Meter(began=0.0)
    meter.read({0: report(0, Phase.SCAN, bytes_done=5, bytes_total=10), 1: None}, now=1.0)
    both = {
        0: report(0, Phase.ORDER),
        1: report(1, Phase.SCAN, bytes_done=2, bytes_total=10, records_done=7),
    }
    figures = meter.read(both, now=2.0)
    assert (figures.phase, figures.bytes_done, figures.bytes_total) == (Phase.SCAN, 12, 20)
    assert figures.records_done == 7


def test_rate_and_time_left_are_of_the_recent_past_of_the_phase() -> None:
    meter = Meter(began=0.0)
    done = [100 * second if second < 10 else 1000 + 10 * (second - 10) for second in range(20)]
    reports = [report(0, Phase.CREATE, bytes_done=bytes_done, bytes_total=2000) for bytes_done in done]
    *_, figures = [meter.read({0: said}, now=float(second)) for second, said in enumerate(reports)]
    assert figures.rate == pytest.approx(10.0)
    assert figures.seconds_left == pytest.approx((2000 - 1090) / 10)
    assert figures.elapsed == 19.0


def test_a_new_phase_has_no_rate_yet() -> None:
    meter = Meter(began=0.0)
    meter.read({0: report(0, Phase.SCAN, bytes_done=0, bytes_total=10)}, now=0.0)
    assert meter.read({0: report(0, Phase.SCAN, bytes_done=10, bytes_total=10)}, now=1.0).rate == 10
    figures = meter.read({0: report(0, Phase.CREATE, bytes_done=0, bytes_total=10)}, now=2.0)
    assert (figures.rate, figures.seconds_left) == (0.0, None)


def test_a_restarted_rank_does_not_make_the_rate_negative() -> None:
    meter = Meter(began=0.0)
    reports = [report(0, Phase.CREATE, bytes_done=done, bytes_total=1000) for done in (0, 500, 100, 200)]
    rates = [meter.read({0: said}, now=float(second)).rate for second, said in enumerate(reports)]
    assert rates == [0, 500, 0, 100]


def test_memory_is_given_by_rank() -> None:
    figures = Meter(began=0.0).read({0: report(0, Phase.SCAN), 1: None}, now=1.0)
    assert [(rank.rank, rank.rss, rank.budget, rank.level) for rank in figures.ranks] == [
        (0, 100, 300, 2),
        (1, 0, 0, 0),
    ]
    assert figures.ranks[1].phase is Phase.STARTING


@pytest.mark.parametrize(
    ("done", "total", "rate", "expected"),
    [(0, 0, 5.0, None), (5, 10, 0.0, None), (5, 10, 5.0, 1.0), (12, 10, 5.0, 0.0)],
)
def test_seconds_left(done: int, total: int, rate: float, expected: float | None) -> None:
    assert seconds_left(done, total, rate=rate) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.44, "0.4 s"), (12.4, "12 s"), (59.7, "1:00"), (187, "3:07"), (3765, "1:02:45")],
)
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text
