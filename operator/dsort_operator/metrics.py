"""What the operator counts, for Prometheus. Names and meanings are stable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dsort_api.messages import HIGHEST_LEVEL
from dsort_api.reasons import Reason
from dsort_api.status import ConditionType, DSortJobStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one operator. jobs: how many DSortJobs there are, by state, asked for at each scrape; levels: how many are
    throttled, by level.
    """

    def __init__(
        self, jobs: Callable[[], Mapping[str, int]], levels: Callable[[], Mapping[int, int]] = dict
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Jobs(jobs, levels))
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
        self.memory_aborts = Counter(
            "dsort_memory_aborts", "DSortJobs that ended with MemoryLimitExceeded.", registry=self._registry
        )
        self.oom_kills = Counter(
            "dsort_oom_kills",
            "Pods of DSortJobs that were killed for want of memory.",
            registry=self._registry,
        )
        self.ranks = Gauge("dsort_ranks", "Ranks that this operator drives.", registry=self._registry)

    def count(self, before: DSortJobStatus, after: DSortJobStatus) -> None:
        """A status was written where another one was."""
        if _holds(after, ConditionType.THROTTLED) and not _holds(before, ConditionType.THROTTLED):
            self.throttles.inc()
        kills = [status.memory.oom_kills if status.memory is not None else 0 for status in (before, after)]
        self.oom_kills.inc(max(0, kills[1] - kills[0]))
        if not _holds(before, ConditionType.FAILED):
            reason = _reason(after, ConditionType.FAILED)
            self.aborts.inc(reason == Reason.ABORTED)
            self.memory_aborts.inc(reason == Reason.MEMORY_LIMIT_EXCEEDED)

    def page(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self._registry)


class _Jobs(Collector):
    def __init__(
        self, jobs: Callable[[], Mapping[str, int]], levels: Callable[[], Mapping[int, int]]
    ) -> None:
        self._jobs = jobs
        self._levels = levels

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("dsort_jobs", "DSortJobs by state.", labels=["state"])
        for state, count in self._jobs().items():
            family.add_metric([state], count)
        yield family
        throttled = GaugeMetricFamily(
            "dsort_throttled_jobs", "DSortJobs that are throttled, by level.", labels=["level"]
        )
        levels = self._levels()
        for level in range(1, HIGHEST_LEVEL + 1):
            throttled.add_metric([str(level)], levels.get(level, 0))
        yield throttled


def _reason(status: DSortJobStatus, kind: ConditionType) -> str | None:
    """The reason of a condition that is True; None where it is not."""
    return next((one.reason for one in status.conditions if one.type == kind and one.status == "True"), None)


def _holds(status: DSortJobStatus, kind: ConditionType) -> bool:
    return _reason(status, kind) is not None
