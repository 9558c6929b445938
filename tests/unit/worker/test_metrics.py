"""Metrics of a rank: what it observes of itself, at each scrape."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dsort_api.messages import Desired, Phase
from dsort_api.messages import Warning as Notice
from dsort_api.reasons import DSortError, Reason
from dsort_worker.control import ControlServer
from dsort_worker.memory import Gauge, Reading
from dsort_worker.metrics import exposition
from dsort_worker.state import Counters, RankState


@pytest.fixture
def state() -> RankState:
    reading = Reading("cgroup", limit=1000, unreclaimable=700, working_set=800, rss=40, pressure=25.0)
    return RankState(rank=3, epoch="e1", gauge=Gauge(lambda: reading))


@pytest.fixture
def url(state: RankState) -> Iterator[str]:
    control = ControlServer(
        state, host="127.0.0.1", port=0, token="", metrics=exposition(state, job="imagenet", port=0)
    )
    control.start()
    yield f"http://127.0.0.1:{control.metrics_port}/metrics"
    control.stop()


def scrape(url: str) -> str:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def values(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("dsort_")
        and sample.labels["rank"] == "3"
        and sample.labels["dsortjob"] == "imagenet"
    }


def test_a_scrape_shows_the_state_of_that_moment(state: RankState, url: str) -> None:
    assert values(scrape(url))["dsort_rank_records_done"] == 0
    state.enter(Phase.CREATE, Counters(1, 10, 200, 2000, 3, 30))
    state.traffic.sent, state.traffic.received = 5, 6
    state.reserve(123)
    state.tell(Desired(memory_budget=456))
    state.warn(Notice(kind="duplicates", message="a"))
    state.flow.window, state.flow.outstanding, state.flow.requests = 70, 60, 5
    state.flow.serving, state.flow.queued, state.flow.refused = 2, 3, 4
    state.throttle.tell(1)
    text = scrape(url)
    assert 'phase="Create"' in text
    found = values(text)
    assert found.pop("dsort_rank_memory_resident_peak_bytes") > 1e6
    assert found == {
        "dsort_rank_phase_info": 1,
        "dsort_rank_records_done": 1,
        "dsort_rank_records_expected": 10,
        "dsort_rank_bytes_done": 200,
        "dsort_rank_bytes_expected": 2000,
        "dsort_rank_shards_done": 3,
        "dsort_rank_shards_expected": 30,
        "dsort_rank_memory_budget_bytes": 456,
        "dsort_rank_memory_reserved_bytes": 123,
        "dsort_rank_memory_resident_bytes": 40,
        "dsort_rank_memory_limit_bytes": 1000,
        "dsort_rank_memory_unreclaimable_bytes": 700,
        "dsort_rank_memory_unreclaimable_peak_bytes": 700,
        "dsort_rank_memory_working_set_bytes": 800,
        "dsort_rank_memory_pressure_ratio": 0.25,
        "dsort_rank_spilled_bytes_total": 0,
        "dsort_rank_throttle_level": 1,
        "dsort_rank_window_bytes": 70,
        "dsort_rank_outstanding_bytes": 60,
        "dsort_rank_outstanding_requests": 5,
        "dsort_rank_serving_requests": 2,
        "dsort_rank_queued_requests": 3,
        "dsort_rank_refused_requests_total": 4,
        "dsort_rank_sent_bytes_total": 5,
        "dsort_rank_received_bytes_total": 6,
        "dsort_rank_warnings_total": 1,
    }


def test_a_kernel_that_does_not_tell_of_pressure_has_no_metric_of_it() -> None:
    reading = Reading("process", limit=0, unreclaimable=0, working_set=0, rss=1, pressure=None)
    state = RankState(rank=0, epoch="e", gauge=Gauge(lambda: reading))
    assert b"pressure" not in exposition(state, job="a", port=0).text()


def test_the_processor_time_of_the_process_is_there(url: str) -> None:
    assert "process_cpu_seconds_total" in scrape(url)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "dsort_worker.metrics")
    with pytest.raises(DSortError, match=r"dsort-operator\[operator\]") as caught:
        import dsort_worker.metrics  # noqa: F401
    assert caught.value.reason is Reason.INVALID_SPEC
