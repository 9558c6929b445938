"""What a rank shows and what it was told."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dsort_api.messages import Desired, Failure, Flow, Memory, Outcome, Peer, PeerTable, Phase, Stop
from dsort_api.messages import Warning as Notice
from dsort_api.reasons import Reason
from dsort_worker.memory import Gauge, Reading
from dsort_worker.state import MOST_WARNINGS, Counters, RankState


def table(version: int) -> PeerTable:
    return PeerTable(version=version, peers=[Peer(rank=0, url=f"http://v{version}", epoch="e")])


def test_changes_are_numbered_and_wake_the_driver_and_counts_do_not() -> None:
    state = RankState(rank=2, epoch="e1")
    woken: list[tuple[int, bool]] = []
    state.on_change = lambda urgent: woken.append((state.version, urgent))
    counters = Counters(records_total=10)
    state.serve_at("http://here")
    state.enter(Phase.SCAN, counters)
    counters.records_done += 4
    state.traffic.sent += 100
    state.warn(Notice(kind="duplicates", message="twice"))
    state.reserve(77)
    state.spill(30)
    state.spill(3)
    assert woken == [(2, True), (3, False)]
    observed = state.observed()
    assert (observed.rank, observed.epoch, observed.version, observed.phase) == (2, "e1", 3, Phase.SCAN)
    assert observed.data_url == "http://here"
    assert (observed.progress.records_done, observed.progress.records_total) == (4, 10)
    assert (observed.progress.bytes_sent, observed.progress.bytes_received) == (100, 0)
    assert (observed.memory.reserved, observed.memory.spilled) == (77, 33)


def test_each_phase_counts_anew_and_its_seconds_are_kept() -> None:
    state = RankState(rank=0, epoch="e")
    for phase in (Phase.LIST, Phase.SCAN, Phase.LIST, Phase.ORDER):
        state.enter(phase)
    assert state.observed().progress.records_done == 0
    assert set(state.seconds) == {Phase.STARTING, Phase.LIST, Phase.SCAN}


FAILURE = Failure(reason=Reason.CORRUPT_SHARD, message="a.tar")
ENDS: dict[Phase, Callable[[RankState], None]] = {
    Phase.FAILED: lambda state: state.fail(FAILURE),
    Phase.COMPLETE: lambda state: state.finish(Outcome(state="Complete", manifest="m")),
    Phase.STOPPED: lambda state: state.stopped(),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_first_end_holds(end: Phase) -> None:
    state = RankState(rank=0, epoch="e")
    ENDS[end](state)
    version = state.version
    for other in ENDS.values():
        other(state)
    state.enter(Phase.SCAN)
    assert state.phase is end
    assert state.version == version
    observed = state.observed()
    assert observed.failure == (FAILURE if end is Phase.FAILED else None)
    assert (observed.outcome is not None) == (end is Phase.COMPLETE)


def test_warnings_are_named_up_to_a_number_and_counted_past_it() -> None:
    state = RankState(rank=0, epoch="e")
    for number in range(MOST_WARNINGS + 5):
        state.warn(Notice(kind="duplicates", message=str(number)))
    observed = state.observed()
    assert [notice.message for notice in observed.warnings] == [
        str(number) for number in range(MOST_WARNINGS)
    ]
    assert observed.warning_count == MOST_WARNINGS + 5


def test_orders_are_taken_over_once_and_older_tables_ignored() -> None:
    state = RankState(rank=0, epoch="e")
    told: list[int] = []
    state.on_told = lambda: told.append(len(told))
    assert (state.peers, state.memory_budget, state.stop) == (None, 0, None)
    state.tell(Desired(memory_budget=5))
    state.tell(Desired(memory_budget=5))
    state.tell(Desired())
    assert (state.memory_budget, len(told)) == (5, 1)
    state.tell(Desired(peers=table(2)))
    state.tell(Desired(peers=table(1)))
    state.tell(Desired(peers=table(2)))
    assert (state.peers, len(told)) == (table(2), 2)
    state.tell(Desired(peers=table(3), memory_budget=9))
    assert (state.observed().peers_version, state.memory_budget, len(told)) == (3, 5, 3)
    first, second = (
        Stop(reason=Reason.ABORTED, message="1"),
        Stop(reason=Reason.DEADLINE_EXCEEDED, message="2"),
    )
    state.tell(Desired(stop=first))
    state.tell(Desired(stop=second))
    assert (state.stop, len(told)) == (first, 4)


def test_many_threads_lose_no_warning() -> None:
    state = RankState(rank=0, epoch="e")

    def warn() -> None:
        for _ in range(500):
            state.warn(Notice(kind="k", message="m"))

    threads = [threading.Thread(target=warn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert state.observed().warning_count == 2000


def test_memory_is_that_of_the_reading_and_of_the_peak() -> None:
    first = Reading("cgroup2", limit=100, unreclaimable=70, working_set=80, rss=1 << 50, pressure=1.5)
    second = Reading("cgroup2", limit=100, unreclaimable=60, working_set=90, rss=10, pressure=None)
    readings = iter((first, second))
    state = RankState(rank=0, epoch="e", gauge=Gauge(lambda: next(readings)))
    state.tell(Desired(memory_budget=50))
    state.reserve(40)
    assert state.observed().memory == Memory(
        budget=50,
        reserved=40,
        rss=1 << 50,
        peak_rss=1 << 50,
        source="cgroup2",
        limit=100,
        unreclaimable=70,
        peak_unreclaimable=70,
        working_set=80,
        pressure=1.5,
    )
    memory = state.observed().memory
    assert (memory.unreclaimable, memory.peak_unreclaimable, memory.working_set) == (60, 70, 90)
    assert memory.pressure is None
    assert memory.peak_rss > memory.rss == 10


def test_the_throttle_level_is_passed_on_and_the_flow_is_shown_as_it_is() -> None:
    state = RankState(rank=0, epoch="e")
    state.tell(Desired(throttle_level=3))
    state.flow.window, state.flow.queued = 1 << 20, 7
    assert state.throttle.level == 3
    assert state.observed().flow == Flow(level=3, window=1 << 20, queued=7)
    state.throttle.feel(4)
    state.tell(Desired())
    assert state.observed().flow.level == 4
