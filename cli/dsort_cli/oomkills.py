"""Which of the ranks that were killed the kernel has killed for want of memory, by its own count of such kills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_SAME_MOMENT: Final = 5.0
"""Seconds in which several ranks that die for want of memory are seen to be dead."""


class OomKills:
    """Claims counted kills for deaths. count: how many there were in this control group; clock: seconds."""

    def __init__(self, count: Callable[[], int], *, clock: Callable[[], float]) -> None:
        self._count = count
        self._clock = clock
        self._seen = count()
        self._unclaimed = 0
        self._since = 0.0

    def claim(self) -> bool:
        """Whether a rank that was killed now may have been: there is a kill that stands for no other death.

        The kill may have been of somebody else in the group, so what nobody claims counts for a moment only.
        """
        kills, now = self._count(), self._clock()
        if kills > self._seen:
            self._seen, self._unclaimed, self._since = kills, kills - self._seen, now
        if not self._unclaimed or now - self._since > _SAME_MOMENT:
            return False
        self._unclaimed -= 1
        return True
