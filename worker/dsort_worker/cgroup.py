"""What the kernel says of the memory of this process's control group, in either version of them.

Paths as a container sees them: with a namespace of its own the group is the root of its mount; without one, the mount shows
the group's own folder and /proc/self/cgroup the path on the host (see cgroups(7), "the mountinfo trick" of many runtimes).
"""

from __future__ import annotations

import os
import re
from typing import Final

_COUNTERS: Final = {"cgroup": "memory.oom_control", "cgroup2": "memory.events"}
"""File with a line `oom_kill N`, by type of file system: version 1 and version 2."""


def oom_kills(root: str = "/") -> int:
    """How many processes of this control group the kernel has killed for want of memory; 0 where it does not tell.

    root: the folder below which `proc` lies.
    """
    for kind, folder in _folders(root):
        match = re.search(
            r"^oom_kill (\d+)$", _read(os.path.join(folder, _COUNTERS[kind])), flags=re.MULTILINE
        )
        if match:
            return int(match[1])
    return 0


def _folders(root: str) -> list[tuple[str, str]]:
    """Type of file system and folder of this process's group for every hierarchy that has a memory controller."""
    groups = {"cgroup": "", "cgroup2": ""}
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            groups["cgroup"] = path
        elif number == "0":
            groups["cgroup2"] = path
    folders = []
    for line in _read(os.path.join(root, "proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, shown, mounted, *_ = before.split(" ")
        kind, _, options = after.split(" ", 2)
        if (kind == "cgroup" and "memory" in options.split(",")) or kind == "cgroup2":
            below = groups[kind].removeprefix(shown.rstrip("/")).strip("/")
            folder = os.path.join(root, mounted.strip("/"))
            # A group that this mount does not show can only be the one at its root.
            here = os.path.join(folder, below)
            folders.append((kind, here if os.path.isdir(here) else folder))
    return folders


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
