"""How a process is ended from outside: by SIGTERM, from its first moment to its last, and with its parent.

The kernel gives the first process of a container no default for it: without a handler it would be lost, and the container
killed half a minute later. So one handler stays in place all the while, and only whom it tells changes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

SIGTERM_EXIT: Final = 143
"""Exit code of a process that SIGTERM ended before it was done; no failure."""

GRACE: Final = 5.0
"""Seconds that a rank has to end in order; then it ends as it is. What is on disk bears that at any point."""

_PR_SET_PDEATHSIG: Final = 1
"""See prctl(2)."""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends; exit 1 when it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


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
