"""Several ranks in one pod: a process for every lane, and this one, which watches over them.

They are forked from a process that has imported everything, so they share those pages. One that fails ends the pod: its
exit code and its last words are the pod's, the others are told to end. A lane that the kernel killed for want of memory
looks to its container like any process that was killed, and the container is not marked; the control group's counter tells.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from dsort_worker.cgroup import oom_kills
from dsort_worker.lastwords import MOST_WORDS
from dsort_worker.termination import GRACE, SIGTERM_EXIT, die_with

OOM_EXIT: Final = 137
"""Exit code when the kernel killed a lane for want of memory, as of a container that it killed; used for nothing else."""

_FAULT_EXIT: Final = 1
"""Of a lane that another signal ended: InternalError."""

_KILL_AFTER: Final = GRACE + 3.0
"""Seconds after which a lane that was told to end is killed."""

_LOOK: Final = 1.0
"""Seconds between two looks when no signal comes."""

Say = Callable[[bytes], None]
"""Leaves a lane's last words, MOST_WORDS bytes at the most."""


class LanesEnd(NamedTuple):
    """How the pod ended. lane: the first that failed, with its last words, or signal, where a signal ended it."""

    code: int
    lane: int | None = None
    last_words: bytes = b""
    signal: int = 0


def run_lanes(
    be: Callable[[int, Say], int], *, lanes: int, oom_kills: Callable[[], int] = oom_kills
) -> LanesEnd:
    """Run `be(lane, say)` in a process for each lane until all have ended.

    Blocks, and takes over SIGTERM, SIGINT and SIGCHLD, so it belongs in a process's only thread.
    """
    return _Lanes(be, lanes=lanes, oom_kills=oom_kills).run()


class _Lanes:
    def __init__(self, be: Callable[[int, Say], int], *, lanes: int, oom_kills: Callable[[], int]) -> None:
        self._be = be
        self._lanes = lanes
        self._oom_kills = oom_kills
        self._killed_before = oom_kills()
        self._running: dict[int, int] = {}
        """Lane by process id."""
        self._words: dict[int, int] = {}
        """Where a lane's last words can be read."""
        self._first: LanesEnd | None = None
        self._terminated = False
        self._kill_at: float | None = None
        self._codes: list[int] = []

    def run(self) -> LanesEnd:
        # Blocked, they wait for sigtimedwait, also in a container's first process, for which SIGTERM has no default.
        signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        gc.freeze()  # a collection in a lane must not write to the pages that it shares
        try:
            for lane in range(self._lanes):
                self._start(lane, mask=before)
            while self._running:
                self._step(signals)
        finally:
            self._signal(signal.SIGKILL)
            for fd in self._words.values():
                os.close(fd)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._first is not None:
            return self._first
        return LanesEnd(SIGTERM_EXIT if any(self._codes) else 0)

    def _step(self, signals: set[signal.Signals]) -> None:
        came = signal.sigtimedwait(signals, _LOOK)
        if came is not None and came.si_signo == signal.SIGTERM:
            self._terminated = True
            self._end_all()
        self._reap()
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._signal(signal.SIGKILL)

    def _start(self, lane: int, *, mask: set[int | signal.Signals]) -> None:
        reads, writes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_lane(lambda: self._be(lane, lambda words: _say(writes, words)), parent=parent, mask=mask)
        os.close(writes)
        self._running[pid] = lane
        self._words[lane] = reads

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            lane = self._running.pop(
                pid, None
            )  # None: an orphan of this container's that came to its first process
            if lane is not None:
                self._ended(lane, os.waitstatus_to_exitcode(status))

    def _ended(self, lane: int, status: int) -> None:
        """status: as `os.waitstatus_to_exitcode`, negative for a signal."""
        code = status if status >= 0 else _FAULT_EXIT
        if status == -signal.SIGTERM:
            code = SIGTERM_EXIT
        elif status == -signal.SIGKILL and self._oom_kills() > self._killed_before:
            code = OOM_EXIT
        self._codes.append(code)
        # What comes of an order to end is not a failure of its own.
        if code and self._first is None and not self._terminated:
            self._first = LanesEnd(code, lane, self._last_words(lane), max(0, -status))
            self._end_all()

    def _last_words(self, lane: int) -> bytes:
        try:
            return os.read(self._words[lane], MOST_WORDS)
        except BlockingIOError:  # a process that the lane has left behind holds the other end
            return b""

    def _end_all(self) -> None:
        self._signal(signal.SIGTERM)
        if self._kill_at is None:
            self._kill_at = time.monotonic() + _KILL_AFTER

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._running:  # none of them is reaped, so the id is still the lane's
            os.kill(pid, number)


def _be_lane(be: Callable[[], int], *, parent: int, mask: set[int | signal.Signals]) -> NoReturn:
    """The child's side of the fork, which never returns into the supervisor's code."""
    code = _FAULT_EXIT
    try:
        die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = be()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else _FAULT_EXIT
    except BaseException:  # noqa: BLE001 - the child ends here, with the trace of what went wrong
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _say(fd: int, words: bytes) -> None:
    os.write(fd, words[:MOST_WORDS])
