"""How many requests at a time are worth their memory: found by measuring, not by a setting.

One more is tried; it stays when more bytes came in the same time, and goes when not. Where one more brings nothing, one less is
tried in its turn, and stays as long as it costs nothing: what disks and networks give changes. Measurements count only while
requests had to wait for one another; a limit that nobody reaches says nothing.

Pure: the clock is an argument (seconds).
"""

from __future__ import annotations

from typing import Final

_GAIN: Final = 0.05
"""Part by which the rate has to grow for one more request to be worth it, and may fall for one less to be no loss."""

_SECONDS: Final = 0.1
"""Shortest measurement."""

_REST: Final = 8
"""Measurements between a trial that failed and the next one."""

_FIRST: Final = 4


class Concurrency:
    """A limit of requests in progress, from `least` to `most`."""

    def __init__(self, *, most: int, least: int = 1) -> None:
        self._most = most
        self._least = least
        self.limit = min(most, _FIRST)
        """Requests that may be in progress."""
        self._bytes = 0
        self._ended = 0
        self._since: float | None = None
        self._held_back = False
        self._trial = 0
        self._next_trial = 1
        self._before = 0.0
        self._rest = 0

    def held_back(self) -> None:
        """A request had to wait because of the limit."""
        self._held_back = True

    def came(self, size: int) -> None:
        """Payload has come."""
        self._bytes += size

    def ended(self, *, now: float) -> None:
        """A request has ended, well or not."""
        self._ended += 1
        if self._since is None:
            self._begin(now)
        elif self._ended >= 2 * self.limit and now - self._since >= _SECONDS:
            if self._held_back:
                self._judge(self._bytes / (now - self._since))
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._since, self._bytes, self._ended, self._held_back = now, 0, 0, False

    def _judge(self, rate: float) -> None:
        if self._rest:
            self._rest -= 1
            return
        if self._trial:
            worth = 1 + _GAIN if self._trial > 0 else 1 - _GAIN
            if rate < self._before * worth:
                self.limit -= self._trial
                self._give_up()
                return
        else:
            self._trial = self._next_trial
        if not self._least <= self.limit + self._trial <= self._most:
            self._give_up()
            return
        self._before = rate
        self.limit += self._trial

    def _give_up(self) -> None:
        self._trial, self._next_trial, self._rest = 0, -self._next_trial, _REST
