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
from dsort_worker.metrics import exposition
from dsort_worker.state import Counters, RankState


@pytest.fixture
def state() -> RankState:
    return RankState(rank=3, epoch="e1")


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
    text = scrape(url)
    assert 'phase="Create"' in text
    found = values(text)
    assert found["dsort_rank_memory_resident_bytes"] > 1e6
    assert found["dsort_rank_memory_resident_peak_bytes"] >= found.pop("dsort_rank_memory_resident_bytes")
    del found["dsort_rank_memory_resident_peak_bytes"]
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
        "dsort_rank_sent_bytes_total": 5,
        "dsort_rank_received_bytes_total": 6,
        "dsort_rank_warnings_total": 1,
    }


def test_the_processor_time_of_the_process_is_there(url: str) -> None:
    assert "process_cpu_seconds_total" in scrape(url)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "dsort_worker.metrics")
    with pytest.raises(DSortError, match=r"dsort-operator\[operator\]") as caught:
        import dsort_worker.metrics  # noqa: F401
    assert caught.value.reason is Reason.INVALID_SPEC
