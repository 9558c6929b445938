"""Signals that ask the runner to end, from its first moment to its last.

A signal that raises wherever the program happens to be may do so within an import or a clean-up, where nobody
expects it. So the first one is only noted, and looked at where the runner can act on it. While an event loop
drives the ranks it is told of each; otherwise the second one ends the process at once, and the kernel ends the
ranks with it. One handler stays in place all the while: the event loop's own would leave a moment without any
when they are taken away.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Notes signals from `__enter__` on. `__exit__` gives back the handlers that were there, unless the process
    is about to end (`give_back` is False): a late signal would end it with another exit code. Main thread
    only; elsewhere it does nothing.
    """

    def __init__(self, *, give_back: bool = True, end: Callable[[int], object] = os._exit) -> None:
        self.received: list[int] = []
        """Numbers in the order in which they came."""
        self.listener: Callable[[int], object] | None = None
        """Called with each number, within the handler; then no signal ends the process."""
        self._give_back = give_back
        self._end = end
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in ENDING}
        if self._before[signal.SIGHUP] is signal.SIG_IGN:
            del self._before[signal.SIGHUP]  # nohup: the run is to outlive its terminal
        try:
            for number in self._before:
                signal.signal(number, self._on_signal)
        except ValueError:  # not the main thread, which alone handles signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        if self._give_back:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if self.listener is not None:
            self.listener(number)
        elif len(self.received) > 1:
            self._end(128 + number)
