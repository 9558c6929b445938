"""How far the ranks of a job are held back for want of memory, and when only its end helps. Pure; the clock is an argument.

One step at a time: the level rises while the worst pod is at throttleAt of its limit or above, falls while all are below resumeAt,
and stays in between. A step needs time to show in the figures, so the next one waits. All that is remembered from one look
to the next stands in status.memory; an operator that comes later goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from dsort_api.messages import HIGHEST_LEVEL
from dsort_api.quantity import format_bytes, parse_percent
from dsort_api.spec import Memory
from dsort_api.status import JobMemory
from dsort_operator.deadlines import left

NODE_LEVEL: Final = 1
"""As far as a node that is short of memory holds back pods of the job that are not: they keep to their limits, and more of
this would cost them much and bring the node little.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """spec.memory: percentages of a pod's memory limit, and seconds."""

    throttle: int
    resume: int
    abort: int
    abort_after: int

    @classmethod
    def of(cls, memory: Memory) -> Self:
        """From the spec."""
        return cls(
            throttle=parse_percent(memory.throttle_at),
            resume=parse_percent(memory.resume_at),
            abort=parse_percent(memory.abort_at),
            abort_after=memory.abort_after_seconds,
        )

    def band(self, percent: float) -> int:
        """Where the level falls (-1), stays (0) or rises (1)."""
        return 1 if percent >= self.throttle else -1 if percent < self.resume else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory of a pod (bytes). rank: one of those in it, which said so.

    used: what the kernel cannot take back; with working_set what kubelets count, file cache that is in use with it. limit: 0
    where nothing is known of the pod's memory. pressure: percent of the last seconds in which somebody waited for memory, where
    the kernel tells. short_node: the pod's node, if that is short of memory itself.
    """

    rank: int
    pod: str
    used: int = 0
    limit: int = 0
    pressure: float | None = None
    working_set: bool = False
    short_node: str = ""

    @property
    def percent(self) -> float:
        """Of the limit; 0 where nothing is known."""
        return 100 * self.used / self.limit if self.limit else 0.0

    @property
    def says(self) -> str:
        """The pod and its figures."""
        parts = []
        if self.limit:
            figures = f"{format_bytes(self.used)} of {format_bytes(self.limit)}, {int(self.percent)} %"
            parts.append(f"working set: {figures}" if self.working_set else figures)
        if self.pressure is not None and self.pressure >= 1:
            parts.append(f"memory pressure {self.pressure:.0f} %")
        if self.short_node:
            parts.append(f"its node {self.short_node} has MemoryPressure")
        return f"rank {self.rank} (pod {self.pod}): {'; '.join(parts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A decision. cause: of a change of the level. wait: seconds until the next change that is due, as it looks now."""

    memory: JobMemory
    cause: Usage | None = None
    wait: float | None = None


def step(
    before: JobMemory,
    *,
    usages: Sequence[Usage],
    complete: bool,
    marks: Marks,
    now: datetime,
    stamp: datetime,
    interval: float,
) -> Step:
    """The level now. Without any figures all stays as it is.

    complete: whether the figures of all pods that run are here; the level does not fall while one may be worse. stamp: now,
    as the status has times. interval: seconds that a step is given to work.
    """
    if not usages:
        return Step(memory=before)
    worst = _worst(usages)
    wanted, cause = marks.band(worst.percent), worst
    pressed = next((usage for usage in usages if usage.short_node), None)
    if pressed is not None and wanted < 1 and before.level <= NODE_LEVEL:
        wanted, cause = (1 if before.level < NODE_LEVEL else 0), pressed
    if wanted < 0 and not complete:
        wanted = 0
    level = min(HIGHEST_LEVEL, max(0, before.level + wanted))
    wait = None
    if level != before.level and before.level_since is not None:
        wait = left(before.level_since, seconds=interval, now=now)
    if wait is not None and wait > 0:
        level = before.level
    moved = level != before.level
    above = (
        _above_abort(usages, marks=marks, followed=before.above_abort_pod) if level == HIGHEST_LEVEL else None
    )
    goes_on = above is not None and above.pod == before.above_abort_pod
    memory = before.model_copy(
        update={
            "level": level,
            "level_since": stamp if moved else before.level_since,
            "above_abort_since": before.above_abort_since
            if goes_on
            else stamp
            if above is not None
            else None,
            "above_abort_pod": above.pod if above is not None else None,
        }
    )
    return Step(memory=memory, cause=cause if moved else None, wait=interval if moved else wait)


def exceeded(
    before: JobMemory, *, usages: Sequence[Usage], marks: Marks, now: datetime
) -> tuple[Usage | None, float | None]:
    """The pod that has been above abortAt for too long at the highest level; or else seconds until one will have been."""
    above = _above_abort(usages, marks=marks, followed=before.above_abort_pod)
    if above is None or above.pod != before.above_abort_pod or before.above_abort_since is None:
        return None, None
    wait = left(before.above_abort_since, seconds=marks.abort_after, now=now)
    return (None, wait) if wait > 0 else (above, None)


def _worst(usages: Sequence[Usage]) -> Usage:
    return max(usages, key=lambda usage: (usage.percent, -usage.rank))


def _above_abort(usages: Sequence[Usage], *, marks: Marks, followed: str | None) -> Usage | None:
    """The pod above abortAt that is `followed` already, or else the worst of them. Not by its working set: file cache is part of
    that, and goes when memory is needed.
    """
    above = [usage for usage in usages if usage.percent >= marks.abort and not usage.working_set]
    return next((usage for usage in above if usage.pod == followed), _worst(above) if above else None)
