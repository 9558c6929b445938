"""The watch over a rank's memory: it holds the rank back at once when memory runs short, and tells the driver.

The driver decides for all ranks of a job, but it hears of a rank once in a while and answers later. Until then the rank's own
reading has a say, by the same marks: a level more for every look at throttleAt or above, one less for every look below resumeAt.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import Final

from dsort_api.messages import HIGHEST_LEVEL
from dsort_api.quantity import parse_percent
from dsort_api.spec import Memory as MemorySpec
from dsort_worker.state import RankState

INTERVAL: Final = 0.5
"""Seconds between two looks."""
STEP: Final = 5
"""Percent of the limit: the driver is woken when memory has come into another step, or past a mark of the spec."""
_SLACK: Final = 1
"""Percent of the limit by which memory must have left a step downwards: what hovers about an edge is no news."""


class MemoryWatch:
    """Looks at the memory of a rank, in the thread of its control endpoint."""

    def __init__(self, state: RankState, *, spec: MemorySpec) -> None:
        self._state = state
        self._throttle_at = parse_percent(spec.throttle_at)
        self._resume_at = parse_percent(spec.resume_at)
        marks = {self._throttle_at, self._resume_at, parse_percent(spec.abort_at)}
        self._edges = sorted({0, *marks, *range(STEP, 101, STEP)})
        self._felt = 0
        self._step = 1
        self._level = 0
        """What the driver knows of: the number of edges that memory was at or above, and the level at work."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL)

    def look(self) -> None:
        """Take a reading, and react to it."""
        percent = self._state.gauge.sample().percent
        if percent >= self._throttle_at:
            self._felt = min(self._felt + 1, HIGHEST_LEVEL)
        elif percent < self._resume_at:
            self._felt = max(self._felt - 1, 0)
        self._state.throttle.feel(self._felt)
        if self._is_news(percent):
            self._state.news()

    def _is_news(self, percent: float) -> bool:
        """Whether the driver should hear of it before it asks again."""
        before, level = (self._step, self._level), self._state.throttle.level
        step = bisect_right(self._edges, percent)
        if step > self._step or percent < self._edges[self._step - 1] - _SLACK:
            self._step = step
        self._level = level
        return (self._step, self._level) != before
