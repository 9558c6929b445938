"""The numbers of the progress display, from what the ranks report. Pure: the clock is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dsort_api.messages import Observed, Phase, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STORY = (
    Phase.STARTING,
    Phase.LIST,
    Phase.SCAN,
    Phase.ORDER,
    Phase.PACK,
    Phase.CREATE,
    Phase.PUBLISH,
    Phase.COMPLETE,
)
"""The phases in the order in which a rank goes through them; Failed and Stopped may follow any."""

RATE_SECONDS = 5.0
"""The rate is taken over this much of the recent past."""


class RankFigures(NamedTuple):
    """One rank's line: its phase, memory in bytes, and how far it holds back for want of it (0: full speed)."""

    rank: int
    phase: Phase
    rss: int
    peak_rss: int
    budget: int
    level: int = 0


class Figures(NamedTuple):
    """The job's line: the phase that the slowest rank is in, and what all ranks together did of it.

    `rate` is bytes per second, 0.0 when not known yet; `seconds_left` is None when not known.
    """

    phase: Phase
    elapsed: float
    records_done: int = 0
    records_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    shards_done: int = 0
    shards_total: int = 0
    rate: float = 0.0
    records_rate: float = 0.0
    seconds_left: float | None = None
    ranks: tuple[RankFigures, ...] = ()


@dataclass(slots=True, eq=False, repr=False)
class Meter:
    """Folds observations into figures; remembers what each rank said last in each phase, and recent totals
    for the rate.
    """

    began: float
    _said: dict[tuple[int, Phase], Progress] = field(default_factory=dict)
    _recent: deque[tuple[float, int, int]] = field(default_factory=deque)
    _phase: Phase = Phase.STARTING

    def read(self, observed: Mapping[int, Observed | None], *, now: float) -> Figures:
        """The figures at `now` (seconds on the clock of `began`), given what each rank reported last."""
        for rank, report in observed.items():
            if report is not None:
                self._said[rank, report.phase] = report.progress
        phase = slowest([report.phase if report else Phase.STARTING for report in observed.values()])
        if phase is not self._phase:
            self._phase = phase
            self._recent.clear()
        parts = [self._part(rank, report, phase) for rank, report in observed.items()]
        bytes_done, bytes_total = (
            sum(part.bytes_done for part in parts),
            sum(part.bytes_total for part in parts),
        )
        records_done = sum(part.records_done for part in parts)
        rate, records_rate = self._rates(now, bytes_done, records_done)
        return Figures(
            phase=phase,
            elapsed=now - self.began,
            records_done=records_done,
            records_total=sum(part.records_total for part in parts),
            bytes_done=bytes_done,
            bytes_total=bytes_total,
            shards_done=sum(part.shards_done for part in parts),
            shards_total=sum(part.shards_total for part in parts),
            rate=rate,
            records_rate=records_rate,
            seconds_left=seconds_left(bytes_done, bytes_total, rate=rate),
            ranks=tuple(_rank_figures(rank, report) for rank, report in observed.items()),
        )

    def _part(self, rank: int, report: Observed | None, phase: Phase) -> Progress:
        """A rank's share of `phase`; one that is past it has done all of it."""
        said = self._said.get((rank, phase), Progress())
        if report is None or place(report.phase) <= place(phase):
            return said
        return said.model_copy(
            update={
                "records_done": max(said.records_done, said.records_total),
                "bytes_done": max(said.bytes_done, said.bytes_total),
                "shards_done": max(said.shards_done, said.shards_total),
            }
        )

    def _rates(self, now: float, bytes_done: int, records_done: int) -> tuple[float, float]:
        recent = self._recent
        if recent and bytes_done < recent[-1][1]:
            recent.clear()  # a restarted rank counts again from where it stands
        recent.append((now, bytes_done, records_done))
        while len(recent) > 2 and now - recent[1][0] >= RATE_SECONDS:
            recent.popleft()
        then, bytes_then, records_then = recent[0]
        span = now - then
        if span <= 0:
            return 0.0, 0.0
        return (bytes_done - bytes_then) / span, max(0, records_done - records_then) / span


def slowest(phases: Sequence[Phase]) -> Phase:
    """The phase of the rank that is furthest behind. Ranks that Failed or were Stopped count only when there
    are no others.
    """
    walking = [phase for phase in phases if phase in STORY]
    return min(walking, key=place) if walking else phases[0]


def place(phase: Phase) -> int:
    """Where a phase stands in the story; Failed and Stopped stand after its end."""
    return STORY.index(phase) if phase in STORY else len(STORY)


def seconds_left(done: int, total: int, *, rate: float) -> float | None:
    """Seconds until `total` at `rate` per second, None when that cannot be told."""
    if total <= 0 or rate <= 0:
        return None
    return max(0, total - done) / rate


def clock(seconds: float | None) -> str:
    """A duration for people: "0.4 s", "12 s", "3:07", "1:02:45"; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _rank_figures(rank: int, report: Observed | None) -> RankFigures:
    if report is None:
        return RankFigures(rank=rank, phase=Phase.STARTING, rss=0, peak_rss=0, budget=0)
    memory = report.memory
    return RankFigures(
        rank=rank,
        phase=report.phase,
        rss=memory.rss,
        peak_rss=memory.peak_rss,
        budget=memory.budget,
        level=report.flow.level,
    )
