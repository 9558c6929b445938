"""SIGTERM, from a process's first moment to its last.

The kernel gives the first process of a container no default for it: without a handler it would be lost, and the container
killed half a minute later. So one handler stays in place all the while, and only whom it tells changes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

SIGTERM_EXIT: Final = 143
"""Exit code of a process that SIGTERM ended before it was done; no failure."""

GRACE: Final = 5.0
"""Seconds that a rank has to end in order; then it ends as it is. What is on disk bears that at any point."""


class Termination:
    """Notes SIGTERM, and tells whoever listens now. Belongs in the main thread.

    Until somebody listens it ends the process at once. What listens runs within the signal's handler: it takes no lock.
    """

    def __init__(self) -> None:
        self.received = False
        self._listener: Callable[[], None] | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def tell(self, listener: Callable[[], None]) -> None:
        """Tell this one, from now on; at once if the signal has come."""
        self._listener = listener
        if self.received:
            listener()

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self.received = True
        if self._listener is None:
            os._exit(SIGTERM_EXIT)
        self._listener()
