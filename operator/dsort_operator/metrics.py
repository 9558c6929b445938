"""What the operator counts, for Prometheus. Names and meanings are stable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one operator. jobs: how many DSortJobs there are, by state, asked for at each scrape."""

    def __init__(self, jobs: Callable[[], Mapping[str, int]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Jobs(jobs))
        self.reconcile_seconds = Histogram(
            "dsort_reconcile_seconds",
            "Seconds that one reconcile of a DSortJob took.",
            registry=self._registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        )
        self.reconcile_errors = Counter(
            "dsort_reconcile_errors", "Reconciles that failed and were tried again.", registry=self._registry
        )
        self.bytes_moved = Counter(
            "dsort_bytes_moved", "Payload bytes that ranks received from each other.", registry=self._registry
        )
        self.throttles = Counter(
            "dsort_throttles", "How often a DSortJob began to be throttled.", registry=self._registry
        )
        self.aborts = Counter("dsort_aborts", "DSortJobs that ended with Aborted.", registry=self._registry)
        self.ranks = Gauge("dsort_ranks", "Ranks that this operator drives.", registry=self._registry)

    def page(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self._registry)


class _Jobs(Collector):
    def __init__(self, jobs: Callable[[], Mapping[str, int]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("dsort_jobs", "DSortJobs by state.", labels=["state"])
        for state, count in self._jobs().items():
            family.add_metric([state], count)
        yield family
