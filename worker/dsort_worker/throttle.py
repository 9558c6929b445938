"""How far a rank holds back: the throttle level that is at work.

Two have a say: whoever drives the ranks, who sees a whole pod or node, and the rank's own reading of its memory, which is
quicker. The greater of their levels holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dsort_api.messages import HIGHEST_LEVEL


class Throttle:
    """The level at work, 0 (full speed) to HIGHEST_LEVEL. Any thread may tell, feel and read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = 0
        self._felt = 0
        self._callbacks: list[Callable[[], None]] = []

    @property
    def level(self) -> int:
        """The level at work."""
        with self._lock:
            return max(self._told, self._felt)

    def tell(self, level: int) -> None:
        """What the driver wants. Past HIGHEST_LEVEL it is that, below 0 it is 0."""
        self._set(told=level)

    def feel(self, level: int) -> None:
        """What the rank's own memory says. Past HIGHEST_LEVEL it is that, below 0 it is 0."""
        self._set(felt=level)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever `level` has changed, in the thread that changed it.

        It is called without a lock and without the level: two changes may come close together, so it reads what holds.
        """
        with self._lock:
            self._callbacks.append(callback)

    def _set(self, *, told: int | None = None, felt: int | None = None) -> None:
        with self._lock:
            before = max(self._told, self._felt)
            if told is not None:
                self._told = min(max(told, 0), HIGHEST_LEVEL)
            if felt is not None:
                self._felt = min(max(felt, 0), HIGHEST_LEVEL)
            changed = max(self._told, self._felt) != before
            callbacks = tuple(self._callbacks) if changed else ()
        for callback in callbacks:
            callback()
