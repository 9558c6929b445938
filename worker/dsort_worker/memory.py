"""How much memory there is, and how much of it is taken for good.

What counts is memory that the kernel cannot take back without ending somebody. Of a control group that is all that is charged
to it, less the pages of files: those that are read are read twice and become active, so that the kubelet's working set, which
leaves out the inactive ones only, would call a job short of memory that is only fast. Pages of tmpfs and memfd are no cache.
"""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

from dsort_worker.cgroup import group_memory, memory_pressure


class Reading(NamedTuple):
    """Bytes, at one time. source: what limit, unreclaimable and working_set are of: the control group of the process, where it
    has a limit, else the process itself and all memory of the machine. limit: 0 where none is known.

    working_set: as the kubelet counts it. rss: resident memory of the process. pressure: percent of the last ten seconds in
    which somebody waited for memory; None where the kernel does not tell.
    """

    source: Literal["cgroup2", "cgroup", "process"]
    limit: int
    unreclaimable: int
    working_set: int
    rss: int
    pressure: float | None

    @property
    def percent(self) -> float:
        """How much of the limit is taken for good; 0.0 where no limit is known."""
        return 100 * self.unreclaimable / self.limit if self.limit else 0.0


def read(root: str = "/") -> Reading:
    """The memory of now. root: the folder below which `proc` lies."""
    status = _kibibytes(os.path.join(root, "proc/self/status"))
    rss = status.get("VmRSS") or peak_rss()  # no /proc: the peak is all that this system tells
    total = _kibibytes(os.path.join(root, "proc/meminfo")).get("MemTotal", 0)
    group = group_memory(root)
    if group is None or group.limit is None or 0 < total <= group.limit:
        return Reading(
            source="process",
            limit=total,
            unreclaimable=status.get("RssAnon", rss) + status.get("RssShmem", 0),
            working_set=rss,
            rss=rss,
            pressure=memory_pressure(root),
        )
    # The files' counters lag behind the charge a little, so neither may come out below nothing.
    return Reading(
        source=group.kind,
        limit=group.limit,
        unreclaimable=max(0, group.usage - group.active_file - group.inactive_file),
        working_set=max(0, group.usage - group.inactive_file),
        rss=rss,
        pressure=memory_pressure(root),
    )


def peak_rss() -> int:
    """The most resident memory that the process ever had, as the kernel counts it (bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _kibibytes(path: str) -> dict[str, int]:
    """The lines `Name:  N kB` of a file, in bytes."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return {}
    return {name: int(size) << 10 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


class Gauge:
    """Readings, and the greatest so far. Any thread may take one."""

    def __init__(self, take: Callable[[], Reading] = read) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._peak = 0

    def sample(self) -> Reading:
        """The memory of now."""
        reading = self._take()
        with self._lock:
            self._peak = max(self._peak, reading.unreclaimable)
        return reading

    @property
    def peak_unreclaimable(self) -> int:
        """The most unreclaimable memory of all samples (bytes)."""
        with self._lock:
            return self._peak
