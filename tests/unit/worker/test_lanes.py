"""The supervisor of a pod's lanes: real processes, and every way in which one may end."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import pytest

from dsort_worker import lanes
from dsort_worker.lanes import LanesEnd, Say, run_lanes

DEADLINE = 30.0
Be = Callable[[int, Say], int]


_up = -1
"""Where the lanes of a pod say that they are up."""


def never(_: int, __: Say) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.write(_up, b".")
    while True:
        signal.pause()


@dataclass
class Pod:
    """A supervisor in a process of its own, as in a container."""

    pid: int
    result: int
    ready: int
    count: int

    def lanes_are_up(self) -> None:
        for _ in range(self.count):
            assert select.select([self.ready], [], [], DEADLINE)[0], "no lane came up"
            os.read(self.ready, 1)

    def end(self) -> LanesEnd:
        assert select.select([self.result], [], [], DEADLINE)[0], "it did not end"
        end: LanesEnd = pickle.loads(os.read(self.result, 65536))
        return end


@contextmanager
def pod(be: Be, *, count: int = 3, oom: Callable[[], int] = lambda: 0) -> Iterator[Pod]:
    global _up
    result, gives = os.pipe()
    ready, _up = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.write(gives, pickle.dumps(run_lanes(be, lanes=count, oom_kills=oom)))
        finally:
            os._exit(0)
    os.close(gives)
    try:
        yield Pod(pid, result, ready, count)
    finally:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
        for fd in (result, ready, _up):
            os.close(fd)


def test_all_lanes_that_succeed_make_a_pod_that_does() -> None:
    with pod(lambda lane, _: 0) as supervisor:
        assert supervisor.end() == LanesEnd(0)


@pytest.mark.parametrize("code", [1, 12, 130])
def test_the_first_failure_ends_all_with_its_code_and_its_words(code: int) -> None:
    def be(lane: int, say: Say) -> int:
        if lane != 1:
            never(lane, say)
        say(b"why")
        return code

    with pod(be) as supervisor:
        assert supervisor.end() == LanesEnd(code, 1, b"why")


def test_words_that_were_never_said_are_none() -> None:
    with pod(lambda lane, _: 5 * lane, count=2) as supervisor:
        assert supervisor.end() == LanesEnd(5, 1)


def test_a_lane_that_ends_well_leaves_the_others_in_peace() -> None:
    begin = time.monotonic()

    def be(lane: int, _: Say) -> int:
        while lane and time.monotonic() < begin + 0.3:
            select.select([], [], [], 0.01)
        return 0

    with pod(be) as supervisor:
        assert supervisor.end() == LanesEnd(0)
    assert time.monotonic() >= begin + 0.3


def test_sigterm_is_passed_on_and_is_no_failure() -> None:
    def be(lane: int, say: Say) -> int:
        say(b"not to be heard")
        return never(lane, say)

    with pod(be) as supervisor:
        supervisor.lanes_are_up()
        os.kill(supervisor.pid, signal.SIGTERM)
        assert supervisor.end() == LanesEnd(143)


def test_lanes_that_complete_in_spite_of_sigterm_complete_the_pod() -> None:
    def be(_: int, __: Say) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        os.write(_up, b".")
        signal.sigwait({signal.SIGTERM})
        return 0

    with pod(be) as supervisor:
        supervisor.lanes_are_up()
        os.kill(supervisor.pid, signal.SIGTERM)
        assert supervisor.end() == LanesEnd(0)


def test_a_lane_that_does_not_hear_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_KILL_AFTER", 0.2)

    def deaf(_: int, __: Say) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(_up, b".")
        while True:
            signal.pause()

    with pod(deaf) as supervisor:
        supervisor.lanes_are_up()
        os.kill(supervisor.pid, signal.SIGTERM)
        assert supervisor.end() == LanesEnd(143)


@pytest.mark.parametrize(
    ("number", "oom_kills", "end"),
    [
        (signal.SIGKILL, [3, 4], LanesEnd(137, 0, b"", signal.SIGKILL)),
        (signal.SIGKILL, [3, 3], LanesEnd(1, 0, b"", signal.SIGKILL)),
        (signal.SIGSEGV, [3, 4], LanesEnd(1, 0, b"", signal.SIGSEGV)),
        (signal.SIGTERM, [3, 4], LanesEnd(143, 0, b"", signal.SIGTERM)),
    ],
)
def test_what_the_kernel_did_is_told_from_its_counter(
    number: signal.Signals, oom_kills: list[int], end: LanesEnd
) -> None:
    def be(lane: int, say: Say) -> int:
        if lane == 0:
            signal.signal(number, signal.SIG_DFL) if number is not signal.SIGKILL else None
            os.kill(os.getpid(), number)
        return never(lane, say)

    left = list(oom_kills)
    with pod(be, oom=lambda: left.pop(0) if len(left) > 1 else left[0]) as supervisor:
        assert supervisor.end() == end


def test_an_orphan_is_reaped_and_is_no_lane() -> None:
    def be(lane: int, say: Say) -> int:
        if lane == 0:
            import ctypes

            ctypes.CDLL(None).prctl(
                36, 1, 0, 0, 0
            )  # PR_SET_CHILD_SUBREAPER, where this is not the first process
            return 0
        return 0

    def supervise() -> LanesEnd:
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        if os.fork() == 0:  # ends with a code of its own, and is reaped by the supervisor
            os._exit(9)
        return run_lanes(be, lanes=2, oom_kills=lambda: 0)

    pid = os.fork()
    if pid == 0:
        os._exit(0 if supervise() == LanesEnd(0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_nobody_caught_is_a_failure_with_a_trace(capfd: pytest.CaptureFixture[str]) -> None:
    def be(lane: int, _: Say) -> int:
        if lane:
            raise SystemExit(7)
        raise ZeroDivisionError("here")

    with pod(be, count=1) as supervisor:
        assert supervisor.end() == LanesEnd(1, 0)
    assert "ZeroDivisionError: here" in capfd.readouterr().err
    with pod(lambda *_: sys.exit(7), count=1) as supervisor:
        assert supervisor.end() == LanesEnd(7, 0)
