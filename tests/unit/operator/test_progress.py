"""The numbers of a status, from what the ranks say."""

from __future__ import annotations

import pytest

from dsort_api.messages import Phase, Progress
from dsort_api.status import DSortJobStatus, JobProgress
from dsort_operator.progress import WEIGHTS, Figures, at_end, figures, slowest
from dsort_operator.world import Report
from tests.support.worlds import failure, planned, report

NOTHING = DSortJobStatus()


def read(
    *reports: Report, before: DSortJobStatus = NOTHING, dry_run: bool = False, ranks: int = 2
) -> Figures:
    heard = {one.observed.rank: one for one in reports}
    return figures(heard, ranks=ranks, dry_run=dry_run, before=before, started=True)


def share(numbers: Figures) -> str | None:
    return numbers.progress.share if numbers.progress else None


def test_weights_are_percent() -> None:
    assert sum(WEIGHTS.values()) == 100


def test_before_all_ranks_are_heard_everything_stays() -> None:
    before = DSortJobStatus(
        phase=Phase.CREATE, progress=JobProgress(share="50%"), records_in=5, bytes_out=3, throughput=2
    )
    numbers = read(report(0, Phase.SCAN), before=before)
    assert numbers.phase is Phase.CREATE
    assert share(numbers) == "50%"
    assert (numbers.records_in, numbers.bytes_out, numbers.throughput) == (5, 3, 2)
    assert numbers.rate == "2 bytes/s"


def test_before_anything_is_heard_there_is_nothing() -> None:
    assert read().phase is Phase.STARTING
    nothing = figures({}, ranks=0, dry_run=False, before=NOTHING, started=False)
    assert nothing.phase is None
    assert nothing.rate is None


def test_slowest_rank_has_the_phase_and_all_ranks_the_progress() -> None:
    scanned = {
        Phase.SCAN: Progress(records_done=7, bytes_done=70, bytes_total=70, shards_done=2, shards_total=2)
    }
    numbers = read(
        report(0, Phase.SCAN, records_done=3, bytes_done=35, bytes_total=70, shards_done=1, shards_total=2),
        report(1, Phase.ORDER, past=scanned),
    )
    assert numbers.phase is Phase.SCAN
    assert numbers.progress == JobProgress(
        share="11%", records_done=10, bytes_done=105, bytes_total=140, shards_done=3, shards_total=4
    )
    assert (numbers.records_in, numbers.bytes_in) == (10, 105)
    assert (numbers.records_out, numbers.bytes_out) == (None, None)


def test_phase_that_a_rank_is_past_is_done_whatever_was_heard_of_it() -> None:
    past = {Phase.CREATE: Progress(records_done=3, records_total=4, bytes_done=30, bytes_total=40)}
    numbers = read(
        report(0, Phase.CREATE, records_done=1, bytes_done=10, bytes_total=40, rate=5.5),
        report(1, Phase.PUBLISH, past=past, rate=1.0),
    )
    assert (numbers.records_out, numbers.bytes_out) == (5, 50)
    assert (numbers.throughput, numbers.rate) == (6, "6 bytes/s")


def test_nothing_is_taken_back() -> None:
    before = DSortJobStatus(
        phase=Phase.CREATE,
        progress=JobProgress(share="80%", bytes_done=90, bytes_total=100),
        records_out=9,
        bytes_out=90,
    )
    numbers = read(
        report(0, Phase.CREATE, bytes_done=10, bytes_total=50, records_done=1), before=before, ranks=1
    )
    assert share(numbers) == "80%"
    assert numbers.progress == JobProgress(share="80%", records_done=1, bytes_done=90, bytes_total=100)
    assert (numbers.records_out, numbers.bytes_out) == (9, 90)


def test_other_phase_counts_anew_but_the_share_stays() -> None:
    before = DSortJobStatus(phase=Phase.CREATE, progress=JobProgress(share="80%", bytes_done=90))
    numbers = read(report(0, Phase.SCAN, bytes_done=1, bytes_total=2), before=before, ranks=1)
    assert numbers.phase is Phase.SCAN
    assert numbers.progress == JobProgress(share="80%", bytes_done=1, bytes_total=2)


@pytest.mark.parametrize(
    ("phase", "dry_run", "expected"),
    [
        (Phase.STARTING, False, "0%"),
        (Phase.LIST, False, "0%"),
        (Phase.ORDER, False, "15%"),
        (Phase.PUBLISH, False, "97%"),
        (Phase.COMPLETE, False, "99%"),
        (Phase.ORDER, True, "72%"),
    ],
)
def test_share_is_of_the_whole_job(phase: Phase, expected: str, *, dry_run: bool) -> None:
    assert share(read(report(0, phase), ranks=1, dry_run=dry_run)) == expected


def test_more_bytes_than_there_should_be_are_no_more_than_all() -> None:
    assert share(read(report(0, Phase.SCAN, bytes_done=9, bytes_total=3), ranks=1)) == "15%"


def test_share_that_is_none_counts_as_nothing() -> None:
    before = DSortJobStatus(phase=Phase.SCAN, progress=JobProgress(share="lots"))
    assert share(read(report(0, Phase.ORDER), ranks=1, before=before)) == "15%"


def test_ranks_that_failed_say_nothing_of_the_phase() -> None:
    assert slowest([Phase.FAILED, Phase.CREATE]) is Phase.CREATE
    assert slowest([Phase.FAILED, Phase.STOPPED]) is None
    before = DSortJobStatus(phase=Phase.SCAN, progress=JobProgress(share="3%"))
    numbers = read(report(0, Phase.FAILED, failure=failure()), ranks=1, before=before)
    assert numbers.phase is Phase.SCAN
    nothing = read(report(0, Phase.FAILED, failure=failure()), ranks=1)
    assert nothing.progress is None
    both = read(report(0, Phase.FAILED, failure=failure()), report(1, Phase.ORDER))
    assert share(both) == "7%"


def test_plan_of_a_dry_run_is_summed_up() -> None:
    numbers = read(report(0, Phase.COMPLETE, outcome=planned(("a", 5, 2), ("b", 6, 3))), dry_run=True)
    assert numbers.plan is not None
    assert (numbers.plan.shards, numbers.plan.bytes, numbers.plan.records) == (2, 11, 5)
    kept = read(before=DSortJobStatus(plan=numbers.plan), dry_run=True)
    assert kept.plan == numbers.plan


def test_end_of_a_job_is_all_of_it() -> None:
    last = read(
        report(0, Phase.CREATE, records_done=3, records_total=4, bytes_done=30, bytes_total=40), ranks=1
    )
    end = at_end(last, seconds=10, dry_run=False)
    assert end.phase is Phase.COMPLETE
    assert end.progress == JobProgress(
        share="100%", records_done=4, records_total=4, bytes_done=40, bytes_total=40
    )
    assert end.throughput == 3
    assert at_end(last, seconds=0, dry_run=False).throughput == 30
    assert at_end(read(), seconds=1, dry_run=False).throughput is None
    assert at_end(last, seconds=10, dry_run=True).throughput is None
