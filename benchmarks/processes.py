"""Run a command as a whole process tree and account for all of it.

The commands that are measured start processes that start processes, and not every parent waits for its children. So this
process makes itself the reaper of orphans: each of them ends here, and its resources are counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_POLL_SECONDS: Final = 0.04
_LINGER_SECONDS: Final = 20.0


class CommandFailed(Exception):
    """A measured command ended with another exit code than 0."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of a command took. Everything but `seconds` is of the whole tree of its processes."""

    seconds: float
    """From before the command's start until it was gone."""

    user_seconds: float
    system_seconds: float
    minor_faults: int
    major_faults: int
    peak_rss: int
    """Bytes of the largest single process: the kernel's own high-water mark, as last seen."""

    peaks: tuple[int, ...]
    """Bytes of every process that lived long enough to be seen, the largest first."""


def measure(command: Sequence[str], *, environment: Mapping[str, str]) -> Usage:
    """Run the command and account for it; this process must have no other children. Raises CommandFailed."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        descriptor = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            while not poll.poll(_POLL_SECONDS * 1000):
                _look(peaks)
            seconds = time.perf_counter() - start
        finally:
            os.close(descriptor)
        ended = _reap(peaks)
        status = ended.pop(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status[0])
        usages = [status[1], *(usage for _, usage in ended.values())]
        if process.returncode:
            output.seek(0)
            tail = output.read().decode(errors="replace")[-2000:]
            raise CommandFailed(f"exit code {process.returncode}: {' '.join(command)}\n{tail}")
    return Usage(
        seconds=seconds,
        user_seconds=sum(usage.ru_utime for usage in usages),
        system_seconds=sum(usage.ru_stime for usage in usages),
        minor_faults=sum(usage.ru_minflt for usage in usages),
        major_faults=sum(usage.ru_majflt for usage in usages),
        # Not ru_maxrss: a process inherits that of its parent, and this one is larger than `cp`.
        peak_rss=max(peaks.values(), default=0),
        peaks=tuple(sorted(peaks.values(), reverse=True)),
    )


def _start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} does not start: {error.strerror}") from error


def _reap(peaks: dict[int, int]) -> dict[int, tuple[int, resource.struct_rusage]]:
    """Wait for the command and for whatever it left behind."""
    ended: dict[int, tuple[int, resource.struct_rusage]] = {}
    deadline = time.monotonic() + _LINGER_SECONDS
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid:
            ended[pid] = (status, usage)
        elif time.monotonic() > deadline:
            raise CommandFailed(f"processes are left behind: {sorted(_descendants(os.getpid()))}")
        else:
            _look(peaks)
            time.sleep(_POLL_SECONDS)


def _look(peaks: dict[int, int]) -> None:
    """Note the high-water mark of every process below this one."""
    for pid in _descendants(os.getpid()):
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines,
        ):
            for line in lines:
                if line.startswith("VmHWM:"):
                    peaks[pid] = max(peaks.get(pid, 0), int(line.split()[1]) * 1024)


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as line,
            ):
                for child in map(int, line.read().split()):
                    yield child
                    yield from _descendants(child)
