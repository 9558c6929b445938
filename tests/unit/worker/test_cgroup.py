"""The kernel's count of processes killed for want of memory, as containers of every kind see it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsort_worker.cgroup import oom_kills
from tests.support.cgroupfiles import POD, V1_MOUNTS, V2_MOUNTS, machine

CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
EVENTS = "low 0\nhigh 0\nmax 7\noom 4\noom_kill {}\noom_group_kill 9\n"


@pytest.mark.parametrize(
    ("group", "mounts", "files"),
    [
        # version 1, the mount shows the container's own folder
        (f"5:cpu,cpuacct:{POD}\n4:memory:{POD}\n0::/\n", V1_MOUNTS.format(shown=POD), {"memory/memory.oom_control": CONTROL.format(3)}),
        # version 1, a namespace of its own
        ("4:memory:/\n0::/\n", V1_MOUNTS.format(shown="/"), {"memory/memory.oom_control": CONTROL.format(3)}),
        # version 1, no container at all
        (f"4:memory:{POD}\n0::/\n", V1_MOUNTS.format(shown="/"), {f"memory{POD}/memory.oom_control": CONTROL.format(3), "memory/memory.oom_control": CONTROL.format(8)}),
        # version 1, the path is the host's and is not to be seen
        (f"4:memory:{POD}\n", V1_MOUNTS.format(shown="/"), {"memory/memory.oom_control": CONTROL.format(3)}),
        # version 2
        ("0::/\n", V2_MOUNTS.format(shown="/"), {"memory.events": EVENTS.format(3)}),
        (f"0::{POD}\n", V2_MOUNTS.format(shown=POD), {"memory.events": EVENTS.format(3)}),
        (f"0::{POD}\n", V2_MOUNTS.format(shown="/"), {f"{POD.strip('/')}/memory.events": EVENTS.format(3)}),
        ("0::/\n", V2_MOUNTS.format(shown="/../.."), {"memory.events": EVENTS.format(3)}),
    ],
)  # fmt: skip
def test_the_count_is_found_wherever_the_group_is_mounted(
    tmp_path: Path, group: str, mounts: str, files: dict[str, str]
) -> None:
    assert oom_kills(machine(tmp_path, group=group, mounts=mounts, files=files)) == 3


@pytest.mark.parametrize(
    "files",
    [{}, {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}],
    ids=["no such file", "a kernel that does not count"],
)
def test_a_machine_that_does_not_tell_has_killed_nobody(tmp_path: Path, files: dict[str, str]) -> None:
    assert (
        oom_kills(machine(tmp_path, group="4:memory:/\n", mounts=V1_MOUNTS.format(shown="/"), files=files))
        == 0
    )
    assert oom_kills(str(tmp_path / "nowhere")) == 0


def test_this_machine_tells() -> None:
    assert os.path.exists("/proc/self/cgroup")
    assert oom_kills() >= 0
