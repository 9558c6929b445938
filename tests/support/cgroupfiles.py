"""The files in which a kernel tells of control groups, as containers of every kind see them, below a folder of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Final

POD: Final = "/kubepods/burstable/pod7/abc"
"""Path of a container's group on its host."""
V1_MOUNTS: Final = """\
22 1 0:20 / /proc rw - proc proc rw
31 25 0:27 {shown} /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 {shown} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
"""
"""Of version 1, with an empty hierarchy of version 2 beside it."""
V2_MOUNTS: Final = """\
22 1 0:20 / /proc rw - proc proc rw
33 25 0:29 {shown} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""


def machine(root: Path, *, group: str, mounts: str, files: dict[str, str]) -> str:
    """Make the files. group, mounts: of /proc/self; files: by their paths below /sys/fs/cgroup, or from / on."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(group)
    (root / "proc" / "self" / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / name.strip("/") if name.startswith("/") else root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)
