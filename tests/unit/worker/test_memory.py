"""What counts as memory that is taken for good: in files of either version's control groups, and in real groups of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from dsort_worker.cgroup import group_memory, memory_pressure
from dsort_worker.memory import Gauge, Reading, peak_rss, read
from tests.support.cgroupfiles import POD, V1_MOUNTS, V2_MOUNTS, machine
from tests.support.controlgroups import ControlGroup, disk_folder

MIB = 1 << 20
MACHINE = {
    "/proc/meminfo": "MemTotal:           1000 kB\nMemFree:             500 kB\n",
    "/proc/self/status": "VmPeak:\t   9 kB\nVmRSS:\t     300 kB\nRssAnon:\t     100 kB\nRssFile:\t     180 kB\nRssShmem:\t      20 kB\n",
}
PRESSURE = "some avg10={} avg60=0.00 avg300=0.05 total=97652508\nfull avg10=9.99 avg60=0.00 avg300=0.00 total=21055292\n"
V1_STAT = (
    "cache 1\nactive_file 5\ninactive_file 6\nhierarchical_memory_limit {}\ntotal_shmem 70\n"
    "total_active_file 2000\ntotal_inactive_file 4000\n"
)
V2_STAT = "anon 1\nfile 6100\nshmem 100\nactive_file 2000\ninactive_file 4000\nslab 7\n"


def v1(limit: int, *, folder: str = "memory") -> dict[str, str]:
    return {f"{folder}/memory.usage_in_bytes": "9000\n", f"{folder}/memory.stat": V1_STAT.format(limit)}


def v2(limit: str, *, folder: str = "", usage: int = 9000) -> dict[str, str]:
    files = {"memory.current": f"{usage}\n", "memory.stat": V2_STAT, "memory.max": f"{limit}\n"}
    return {os.path.join(folder, name): text for name, text in files.items()}


NESTED = {
    **v2("max", folder=POD.strip("/")),
    "kubepods/burstable/pod7/memory.max": "20000\n",
    "kubepods/burstable/memory.max": "max\n",
    "kubepods/memory.max": "30000\n",
}


@pytest.mark.parametrize(
    ("group", "mounts", "files", "source", "limit"),
    [
        # version 1: the groups around are counted in by the kernel; the mount shows the container's own folder, or all
        (f"4:memory:{POD}\n0::/\n", V1_MOUNTS.format(shown=POD), v1(20000), "cgroup", 20000),
        (f"4:memory:{POD}\n", V1_MOUNTS.format(shown="/"), v1(20000, folder=f"memory{POD}"), "cgroup", 20000),
        # version 2: the smallest limit wins, wherever it stands
        ("0::/\n", V2_MOUNTS.format(shown="/"), v2("20000"), "cgroup2", 20000),
        (f"0::{POD}\n", V2_MOUNTS.format(shown="/"), NESTED, "cgroup2", 20000),
        (f"0::{POD}\n", V2_MOUNTS.format(shown="/"), {**NESTED, "kubepods/memory.max": "10000"}, "cgroup2", 10000),
        (f"0::{POD}\n", V2_MOUNTS.format(shown="/"), {**NESTED, **v2("10000", folder=POD.strip("/"))}, "cgroup2", 10000),
    ],
)  # fmt: skip
def test_a_group_with_a_limit_is_what_counts(
    tmp_path: Path, group: str, mounts: str, files: dict[str, str], source: str, limit: int
) -> None:
    root = machine(tmp_path, group=group, mounts=mounts, files={**files, **MACHINE})
    reading = read(root)
    assert (reading.source, reading.limit) == (source, limit)
    assert (reading.unreclaimable, reading.working_set, reading.rss) == (3000, 5000, 300 << 10)
    assert reading.percent == pytest.approx(100 * 3000 / limit)


V1_ROOT = {"group": "4:memory:/\n", "mounts": V1_MOUNTS.format(shown="/")}
V2_ROOT = {"group": "0::/\n", "mounts": V2_MOUNTS.format(shown="/")}


@pytest.mark.parametrize(
    ("place", "files"),
    [
        (V1_ROOT, v1(9223372036854771712)),
        (V1_ROOT, v1(1000 << 10)),  # all of the machine is no limit
        (V1_ROOT, {}),
        (V2_ROOT, v2("max")),
        (V2_ROOT, {"memory.stat": V2_STAT}),  # the outermost group has no figures of this kind
        ({"group": "", "mounts": ""}, {}),
    ],
    ids=["version 1", "as large as the machine", "no files", "version 2", "outermost", "no groups"],
)
def test_without_a_limit_it_is_the_process_and_the_machine(
    tmp_path: Path, place: dict[str, str], files: dict[str, str]
) -> None:
    root = machine(tmp_path, **place, files={**files, **MACHINE})
    assert read(root) == Reading(
        "process",
        limit=1000 << 10,
        unreclaimable=120 << 10,
        working_set=300 << 10,
        rss=300 << 10,
        pressure=None,
    )


def test_a_limit_holds_where_the_size_of_the_machine_is_not_known(tmp_path: Path) -> None:
    reading = read(machine(tmp_path, **V2_ROOT, files=v2("max")))
    assert (reading.source, reading.limit, reading.percent) == ("process", 0, 0.0)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("20000\n")
    assert read(str(tmp_path)).limit == 20000


def test_files_that_are_counted_late_leave_nothing_rather_than_less(tmp_path: Path) -> None:
    reading = read(machine(tmp_path, **V2_ROOT, files=v2("20000", usage=3999)))
    assert (reading.unreclaimable, reading.working_set) == (0, 0)


def test_without_proc_the_peak_is_all_that_is_known(tmp_path: Path) -> None:
    reading = read(str(tmp_path / "nowhere"))
    assert (reading.source, reading.limit, reading.pressure) == ("process", 0, None)
    assert 0 < reading.rss == reading.unreclaimable <= peak_rss()


@pytest.mark.parametrize(
    ("place", "files", "pressure"),
    [
        (V2_ROOT, {"memory.pressure": PRESSURE.format("3.25"), "/proc/pressure/memory": PRESSURE.format("1.00")}, 3.25),
        (V2_ROOT, {"/proc/pressure/memory": PRESSURE.format("1.00")}, 1.0),
        (V1_ROOT, {"/proc/pressure/memory": PRESSURE.format("0.00")}, 0.0),
        (V1_ROOT, {"/proc/pressure/memory": ""}, None),
        (V1_ROOT, {}, None),
    ],
    ids=["of the group", "of the machine", "version 1 has none", "switched off", "an old kernel"],
)  # fmt: skip
def test_pressure_is_that_of_the_group_where_it_is_told(
    tmp_path: Path, place: dict[str, str], files: dict[str, str], pressure: float | None
) -> None:
    root = machine(tmp_path, **place, files={**files, **MACHINE})
    assert memory_pressure(root) == read(root).pressure == pressure


def test_a_gauge_keeps_the_greatest() -> None:
    sizes = iter((5, 9, 7))
    gauge = Gauge(lambda: Reading("process", 10, next(sizes), 0, 0, None))
    assert [(gauge.sample().unreclaimable, gauge.peak_unreclaimable) for _ in range(3)] == [(5, 5), (9, 9), (7, 9)]  # fmt: skip


def test_this_machine_can_be_read() -> None:
    reading = read()
    assert MIB < reading.unreclaimable < reading.limit
    assert MIB < reading.rss <= peak_rss() + MIB  # the kernel counts both loosely


# Real groups.

HOG = """
import mmap, os, sys
from dsort_worker.memory import read
kept = []
for line in sys.stdin:
    what, path, size = line.split()
    size = int(size)
    if what == "anonymous":
        kept.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        kept[-1][::4096] = bytes(b"x") * (size // 4096)
    elif what == "memfd":
        kept.append(os.memfd_create("kept"))
        os.write(kept[-1], bytes(size))
    elif what == "write":
        with open(path, "wb") as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    elif what == "read":
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    now = read()
    print(now.source, now.limit, now.unreclaimable, now.working_set, now.rss, flush=True)
"""
LOOSE = 3 * MIB
"""By how much the kernel's counters may be off: they are kept for each processor, and added up in batches."""


@dataclass
class Hog:
    """A process in a group that does with memory as it is told, and reads its own."""

    process: subprocess.Popen[str]
    base: Reading = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.do("nothing")

    def do(self, what: str, *, path: Path | str = "-", size: int = 0) -> Reading:
        """Do it, and read."""
        ask, answer = self.process.stdin, self.process.stdout
        assert ask is not None
        assert answer is not None
        ask.write(f"{what} {path} {size}\n")
        ask.flush()
        source, *numbers = answer.readline().split()
        limit, unreclaimable, working_set, rss = map(int, numbers)
        kind: Any = source
        return Reading(kind, limit, unreclaimable, working_set, rss, None)


@contextmanager
def hog(group: ControlGroup) -> Iterator[Hog]:
    pipe: dict[str, int | IO[str]] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    line = group.command([sys.executable, "-c", HOG])
    with subprocess.Popen(line, text=True, **pipe) as process:  # type: ignore[call-overload]
        try:
            yield Hog(process)
        finally:
            process.kill()


needs_groups = pytest.mark.usefixtures("control_groups")
LIMIT = 160 * MIB


@needs_groups
def test_memory_of_processes_and_in_memfd_counts_and_files_do_not() -> None:
    with disk_folder() as folder, ControlGroup(limit=LIMIT) as group, hog(group) as process:
        assert process.base.source == (
            "cgroup" if (group.folder / "memory.usage_in_bytes").exists() else "cgroup2"
        )
        assert process.base.limit == LIMIT
        before = process.base.unreclaimable
        file = folder / "file"
        written = process.do("write", path=file, size=48 * MIB)
        assert written.unreclaimable < before + LOOSE + MIB
        once, twice = process.do("read", path=file), process.do("read", path=file)
        assert twice.unreclaimable < before + LOOSE + MIB
        assert (
            once.working_set < twice.working_set + LOOSE
        )  # what is read twice becomes active, and the kubelet counts it
        assert twice.working_set > before + 40 * MIB
        anonymous = process.do("anonymous", size=32 * MIB)
        assert anonymous.unreclaimable == pytest.approx(before + 32 * MIB, abs=LOOSE + MIB)
        in_memfd = process.do("memfd", size=24 * MIB)
        assert in_memfd.unreclaimable == pytest.approx(before + 56 * MIB, abs=LOOSE + 2 * MIB)
        assert (
            in_memfd.rss < process.base.rss + 40 * MIB
        )  # no process has it mapped: only the group knows of it


@needs_groups
def test_files_of_several_times_the_limit_leave_what_counts_as_it_was() -> None:
    with disk_folder() as folder, ControlGroup(limit=LIMIT) as group, hog(group) as process:
        for turn in range(4):
            path = folder / str(turn)
            process.do("write", path=path, size=128 * MIB)
            for _ in range(2):
                reading = process.do("read", path=path)
                assert reading.unreclaimable < process.base.unreclaimable + 16 * MIB
    assert group.oom_kills == 0


@needs_groups
def test_the_smallest_of_nested_limits_wins() -> None:
    with ControlGroup(limit=LIMIT) as outer:
        inner = outer.folder / "inner"
        inner.mkdir()
        name = "memory.limit_in_bytes"
        if not (inner / name).exists():
            (outer.folder / "cgroup.subtree_control").write_text("+memory")
            name = "memory.max"
        try:
            for limit, wins in ((2 * LIMIT, LIMIT), (LIMIT // 2, LIMIT // 2)):
                (inner / name).write_text(str(limit))
                line = [
                    "sh",
                    "-c",
                    'echo $$ > "$0/cgroup.procs" && exec "$@"',
                    str(inner),
                    sys.executable,
                    "-c",
                    HOG,
                ]
                told = subprocess.run(
                    line, input="nothing - 0\n", text=True, capture_output=True, check=True, timeout=60
                )
                assert int(told.stdout.split()[1]) == wins
        finally:
            inner.rmdir()


def test_there_is_no_group_below_a_folder_that_has_none(tmp_path: Path) -> None:
    assert group_memory(str(tmp_path)) is None
