"""What a rank shows to whoever drives it: the observed state, and the desired state it was last told.

This is where the data loop's thread and the control thread meet. Writers change fields under a lock; a change that the
driver has to act on wakes its held request at once, a phase within a tenth of a second (see `control`), a mere count does not
(the driver sees it when its wait ends).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Final

from dsort_api.messages import (
    PROTOCOL,
    Desired,
    Failure,
    Flow,
    Memory,
    Observed,
    Outcome,
    PeerTable,
    Phase,
    Progress,
    Stop,
)
from dsort_api.messages import (
    Warning as Notice,
)
from dsort_worker.memory import Gauge, peak_rss
from dsort_worker.throttle import Throttle

log: Final = logging.getLogger("dsort.rank")

MOST_WARNINGS = 20
"""Warnings kept by name; all of them are in the findings file."""

FINAL = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.STOPPED})


@dataclass(slots=True, eq=False, repr=False)
class Counters:
    """Progress of the current phase. Written by one thread a field, read by any: plain integers."""

    records_done: int = 0
    records_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    shards_done: int = 0
    shards_total: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Traffic:
    """Payload bytes on the wire since the start."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Flowing:
    """How payload moves now, in the terms of messages.Flow. Written by the data loop, read by any: plain integers."""

    window: int = 0
    outstanding: int = 0
    requests: int = 0
    serving: int = 0
    queued: int = 0
    refused: int = 0


@dataclass(slots=True, eq=False, repr=False)
class _Told:
    peers: PeerTable | None = None
    memory_budget: int = 0
    stop: Stop | None = None


@dataclass(eq=False, repr=False)
class RankState:
    """Observed and desired state of one rank in one epoch.

    on_told is called (in the control thread) after the desired state changed; on_change after the observed state did, with
    whether somebody has to act on it.
    """

    rank: int
    epoch: str
    on_told: Callable[[], None] = lambda: None
    on_change: Callable[[bool], None] = lambda _: None
    traffic: Traffic = field(default_factory=Traffic)
    flow: Flowing = field(default_factory=Flowing)
    throttle: Throttle = field(default_factory=Throttle)
    gauge: Gauge = field(default_factory=Gauge)
    counters: Counters = field(default_factory=Counters)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 1
        self._phase = Phase.STARTING
        self._data_url = ""
        self._failure: Failure | None = None
        self._outcome: Outcome | None = None
        self._warnings: list[Notice] = []
        self._warning_count = 0
        self._reserved = 0
        self._spilled = 0
        self._told = _Told()
        self.seconds: dict[str, float] = {}

    # What the rank says

    def serve_at(self, url: str) -> None:
        """Peers reach this rank at `url` from now on."""
        with self._lock:
            self._data_url = url
        self._changed()

    def enter(self, phase: Phase, counters: Counters | None = None) -> None:
        """A phase begins; its counts start anew."""
        with self._lock:
            if self._phase in FINAL:
                return
            now = time.monotonic()
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self.started
            self.started = now
            self._phase = phase
            self.counters = counters or Counters()
        log.info("phase %s", phase)
        self._changed(urgent=False)

    def fail(self, failure: Failure) -> None:
        """The rank has failed; only the first failure counts."""
        with self._lock:
            if self._phase in FINAL:
                return
            self._phase = Phase.FAILED
            self._failure = failure
        self._changed()

    def finish(self, outcome: Outcome) -> None:
        """The rank has reached the end of the job."""
        with self._lock:
            if self._phase in FINAL:
                return
            self._phase = Phase.COMPLETE
            self._outcome = outcome
        self._changed()

    def stopped(self) -> None:
        """The rank has ended as it was told."""
        with self._lock:
            if self._phase in FINAL:
                return
            self._phase = Phase.STOPPED
        self._changed()

    def warn(self, notice: Notice) -> None:
        """Name a culprit; the first MOST_WARNINGS are kept, all are counted."""
        with self._lock:
            self._warning_count += 1
            if len(self._warnings) < MOST_WARNINGS:
                self._warnings.append(notice)

    def reserve(self, size: int) -> None:
        """Bytes of all buffers, as divided."""
        with self._lock:
            self._reserved = size

    def spill(self, size: int) -> None:
        """Bytes of metadata went to disk that did not fit into memory."""
        with self._lock:
            self._spilled += size

    def news(self) -> None:
        """Something that is not kept here is worth waking the driver for."""
        self._changed()

    # What the driver says

    def tell(self, desired: Desired) -> None:
        """Take the desired state over. A peer table older than the one here is ignored."""
        self.throttle.tell(desired.throttle_level)
        with self._lock:
            told = self._told
            changed = False
            if desired.peers is not None and (
                told.peers is None or desired.peers.version > told.peers.version
            ):
                told.peers = desired.peers
                changed = True
            if desired.memory_budget and not told.memory_budget:  # buffers were made of the first
                told.memory_budget = desired.memory_budget
                changed = True
            if desired.stop is not None and told.stop is None:
                told.stop = desired.stop
                changed = True
        if changed:
            self.on_told()

    @property
    def peers(self) -> PeerTable | None:
        """The newest peer table."""
        with self._lock:
            return self._told.peers

    @property
    def memory_budget(self) -> int:
        """Bytes; 0 until the driver has named it."""
        with self._lock:
            return self._told.memory_budget

    @property
    def stop(self) -> Stop | None:
        """The order to stop, once it was given."""
        with self._lock:
            return self._told.stop

    # What the driver sees

    @property
    def version(self) -> int:
        """Grows with every change that is worth waking the driver."""
        with self._lock:
            return self._version

    @property
    def phase(self) -> Phase:
        """The current phase."""
        with self._lock:
            return self._phase

    def observed(self) -> Observed:
        """The observed state now."""
        reading = self.gauge.sample()
        with self._lock:
            counters, told = self.counters, self._told
            return Observed(
                protocol=PROTOCOL,
                epoch=self.epoch,
                rank=self.rank,
                version=self._version,
                data_url=self._data_url,
                phase=self._phase,
                peers_version=told.peers.version if told.peers else 0,
                progress=Progress(
                    records_done=counters.records_done,
                    records_total=counters.records_total,
                    bytes_done=counters.bytes_done,
                    bytes_total=counters.bytes_total,
                    shards_done=counters.shards_done,
                    shards_total=counters.shards_total,
                    bytes_sent=self.traffic.sent,
                    bytes_received=self.traffic.received,
                ),
                memory=Memory(
                    budget=told.memory_budget,
                    reserved=self._reserved,
                    spilled=self._spilled,
                    rss=reading.rss,
                    peak_rss=max(reading.rss, peak_rss()),  # the kernel counts both loosely
                    source=reading.source,
                    limit=reading.limit,
                    unreclaimable=reading.unreclaimable,
                    peak_unreclaimable=self.gauge.peak_unreclaimable,
                    working_set=reading.working_set,
                    pressure=reading.pressure,
                ),
                flow=Flow(level=self.throttle.level, **asdict(self.flow)),
                failure=self._failure,
                warnings=list(self._warnings),
                warning_count=self._warning_count,
                outcome=self._outcome,
            )

    def _changed(self, *, urgent: bool = True) -> None:
        with self._lock:
            self._version += 1
        self.on_change(urgent)
