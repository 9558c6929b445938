"""Signals that ask the runner to end, from its first moment to its last.

A signal that raises wherever the program happens to be may do so within an import or a clean-up, where nobody
expects it. So the first one is only noted, and looked at where the runner can act on it; the event loop takes
over while it runs. The second one ends the process at once, and the kernel ends the ranks with it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Notes signals between `__enter__` and `__exit__`, which gives back the handlers that were there. Main
    thread only; elsewhere it does nothing.
    """

    def __init__(self, *, end: Callable[[int], object] = os._exit) -> None:
        self.received: list[int] = []
        """Numbers in the order in which they came; the event loop's handlers add to it, too."""
        self._end = end
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in ENDING}
        try:
            self.note()
        except ValueError:  # not the main thread, which alone handles signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def note(self) -> None:
        """Take the signals over, at the start and again when the event loop has ended."""
        for number in self._before:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) > 1:
            self._end(128 + number)
