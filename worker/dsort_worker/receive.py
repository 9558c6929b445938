"""The receive window: how much a rank may have asked for that has not come, in bytes and in requests.

Every byte that is asked for has its place in a window of the stream already, so the windows that are open bound the bytes; the
requests in progress are bounded by themselves, as each has buffers of its own (in the client, the transport, the socket).

The **load** is the greater part that is in use, of the bytes or of the requests, smoothed over half a second. Up to a half
it changes nothing. Past that, requests become fewer and smaller, down to half the number and a quarter of the size when all
is in use: who has much outstanding already gains nothing by asking for more, and makes everybody wait longer.

A **throttle level** halves the bytes and the number of requests as many times. Neither load nor level takes the last window of
least size, or the last request, so the job goes on whatever they say. What is open when the level rises is finished.

With more than one source no source has more than half of the requests, rounded up: one that is slow must not have them all. Nor
has it as many as there are slots at a source: a rank that receives slowly must not hold them all. And only a throttle level makes
of the requests a single one, which a slow source would have.

Pure: the clock is an argument (seconds).
"""

from __future__ import annotations

import math
from typing import Final

from dsort_worker.concurrency import Concurrency

LEAST_WINDOW: Final = 1 << 20
"""Bytes below which no window is made smaller, by load or by level."""

_SLICE: Final = 64 << 10
"""Bytes from each source below which a window is not made smaller by load: requests would be too small for their trouble."""

_CALM: Final = 0.5
"""The load up to which nothing is held back."""

_SMOOTHING: Final = 0.5
"""Seconds over which the load is smoothed."""

_BLOCK: Final = 512


class ReceiveWindow:
    """Accounts of what is open and asked for, and what may be.

    windows: that may be open, of `size` bytes at the most; requests: in progress at the most; of_one: with one source, where
    there are several; sources: ranks to ask.
    """

    def __init__(self, *, windows: int, size: int, requests: int, of_one: int, sources: int) -> None:
        self._most_bytes = windows * size
        self._size = size
        self._most_requests = requests
        self._least_requests = min(requests, 1 if sources < 2 else 2)
        self._of_one = of_one
        self._sources = sources
        self._least = min(size, LEAST_WINDOW)
        self._level = 0
        self._concurrency = Concurrency(most=requests, least=self._least_requests)
        self._open = 0
        self._by_source: dict[int, int] = {}
        self._load = 0.0
        self._at = 0.0
        self.outstanding = 0
        """Bytes asked for that have not come."""
        self.requests = 0
        """Requests in progress."""

    @property
    def load(self) -> float:
        """The smoothed load, 0 to 1."""
        return self._load

    @property
    def bytes_cap(self) -> int:
        """Bytes of the windows that may be open."""
        return max(self._least, self._most_bytes >> self._level)

    @property
    def requests_cap(self) -> int:
        """Requests that may be in progress now."""
        most = max(1, self._most_requests >> self._level)
        least = min(most, self._least_requests)
        return max(least, math.ceil(min(most, self._concurrency.limit) * (1 - 0.5 * self._strain)))

    @property
    def next_size(self) -> int:
        """Bytes of the next window, a multiple of 512."""
        most = max(self._least, self._size >> self._level)
        least = max(self._least, min(most, _SLICE * self._sources))
        return max(least, int(most * (1 - 0.75 * self._strain)) // _BLOCK * _BLOCK)

    def throttle(self, level: int) -> None:
        """A throttle level holds from now on."""
        self._level = level

    def has_room(self) -> bool:
        """Whether the next window may be opened."""
        return not self._open or self._open + self.next_size <= self.bytes_cap

    def open(self, size: int) -> None:
        """A window of `size` bytes is open."""
        self._open += size

    def close(self, size: int) -> None:
        """A window of `size` bytes is done with."""
        self._open -= size

    def may_ask(self, source: int) -> bool:
        """Whether one more request may be made to a source."""
        cap = self.requests_cap
        of_one = cap if self._sources < 2 else min((cap + 1) // 2, self._of_one)
        free = self.requests < cap and self._by_source.get(source, 0) < of_one
        if not free:
            self._concurrency.held_back()
        return free

    def ask(self, source: int, size: int, *, now: float) -> None:
        """A request for `size` bytes is made."""
        self._smooth(now)
        self.requests += 1
        self.outstanding += size
        self._by_source[source] = self._by_source.get(source, 0) + 1

    def came(self, size: int, *, expected: int, now: float) -> None:
        """Bytes have come; expected: how many of them were counted when they were asked for."""
        self._smooth(now)
        self.outstanding -= expected
        self._concurrency.came(size)

    def end(self, source: int, rest: int, *, now: float) -> None:
        """A request has ended; rest: bytes of it that have not come, and will not."""
        self._smooth(now)
        self.requests -= 1
        self.outstanding -= rest
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]
        self._concurrency.ended(now=now)

    @property
    def _strain(self) -> float:
        """How far the load is past calm, 0 to 1."""
        return min(1.0, max(0.0, (self._load - _CALM) / (1 - _CALM)))

    def _smooth(self, now: float) -> None:
        """Take the time into account for which things stood as they are."""
        cap = max(1, self._most_requests >> self._level)
        used = min(1.0, max(self.outstanding / self.bytes_cap, self.requests / cap))
        self._load += (used - self._load) * -math.expm1(-max(0.0, now - self._at) / _SMOOTHING)
        self._at = now
