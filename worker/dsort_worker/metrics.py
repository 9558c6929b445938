"""Metrics of a rank, for Prometheus, on a port of their own: what the rank observes of itself, read when it is asked for.

The library is imported here and nowhere else in the worker: a laptop does without it.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsort_api.reasons import DSortError, Reason
from dsort_worker.control import Exposition
from dsort_worker.state import RankState

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise DSortError(
        Reason.INVALID_SPEC,
        "--metrics: prometheus-client is not installed; pip install 'dsort-operator[operator]', or leave --metrics out",
    ) from error

_LABELS = ("dsortjob", "rank")
"""On every metric. `job` would be Prometheus' own name for what it scrapes."""


def exposition(state: RankState, *, job: str, port: int) -> Exposition:
    """What `GET /metrics` on `port` answers. job: the name of the DSortJob."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(_RankCollector(state, job=job))
    prometheus_client.ProcessCollector(registry=registry)
    return Exposition(
        port, prometheus_client.CONTENT_TYPE_LATEST, lambda: prometheus_client.generate_latest(registry)
    )


class _RankCollector(Collector):
    """Makes metrics of the observed state, at every scrape."""

    def __init__(self, state: RankState, *, job: str) -> None:
        self._state = state
        self._job = job

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        seen, labels = self._state.observed(), (self._job, str(self._state.rank))
        progress, memory, flow = seen.progress, seen.memory, seen.flow
        phase = InfoMetricFamily("dsort_rank_phase", "The phase that the rank is in.", labels=_LABELS)
        phase.add_metric(labels, {"phase": seen.phase.value})
        yield phase
        for name, text, value in (
            ("records_done", "Records done in this phase.", progress.records_done),
            ("records_expected", "Records of this phase, 0 while not known.", progress.records_total),
            ("bytes_done", "Bytes done in this phase.", progress.bytes_done),
            ("bytes_expected", "Bytes of this phase, 0 while not known.", progress.bytes_total),
            ("shards_done", "Shards done in this phase.", progress.shards_done),
            ("shards_expected", "Shards of this phase, 0 while not known.", progress.shards_total),
            ("memory_budget_bytes", "Memory that the rank may use.", memory.budget),
            ("memory_reserved_bytes", "Memory of all buffers.", memory.reserved),
            ("memory_resident_bytes", "Resident memory.", memory.rss),
            ("memory_resident_peak_bytes", "Resident memory at its peak.", memory.peak_rss),
            (
                "memory_limit_bytes",
                "What the rank, or its control group, may have; 0: not known.",
                memory.limit,
            ),
            ("memory_unreclaimable_bytes", "Of that limit, what is taken for good.", memory.unreclaimable),
            ("memory_unreclaimable_peak_bytes", "The same at its peak.", memory.peak_unreclaimable),
            ("memory_working_set_bytes", "Of that limit, as the kubelet counts it.", memory.working_set),
            ("throttle_level", "How far the rank holds back: 0 is full speed.", flow.level),
            ("window_bytes", "Payload that may be asked for at once.", flow.window),
            ("outstanding_bytes", "Payload asked for that has not come.", flow.outstanding),
            ("outstanding_requests", "Requests that payload is to come of.", flow.requests),
            ("serving_requests", "Answers in progress.", flow.serving),
            ("queued_requests", "Requests of others that wait for their turn.", flow.queued),
        ):
            gauge = GaugeMetricFamily(f"dsort_rank_{name}", text, labels=_LABELS)
            gauge.add_metric(labels, value)
            yield gauge
        if memory.pressure is not None:
            text = "Share of the last ten seconds in which somebody waited for memory."
            pressure = GaugeMetricFamily("dsort_rank_memory_pressure_ratio", text, labels=_LABELS)
            pressure.add_metric(labels, memory.pressure / 100)
            yield pressure
        for name, text, value in (
            ("sent_bytes", "Rows and payload sent to other ranks.", progress.bytes_sent),
            ("received_bytes", "Rows and payload received from other ranks.", progress.bytes_received),
            ("spilled_bytes", "Metadata that went to disk for want of memory.", memory.spilled),
            ("refused_requests", "Requests of others that were sent away.", flow.refused),
            ("warnings", "Culprits that a reaction of Warn passed over.", seen.warning_count),
        ):
            counter = CounterMetricFamily(f"dsort_rank_{name}", text, labels=_LABELS)
            counter.add_metric(labels, value)
            yield counter
