"""What the kernel says of the memory of this process's control group, in either version of them.

Paths as a container sees them: with a namespace of its own the group is the root of its mount; without one, the mount shows
the group's own folder and /proc/self/cgroup the path on the host (see cgroups(7), "the mountinfo trick" of many runtimes).
The files are those of the kernel's admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
from typing import Final, Literal, NamedTuple

Kind = Literal["cgroup", "cgroup2"]
"""Type of the file system: version 1, version 2."""

_COUNTERS: Final[dict[Kind, str]] = {"cgroup": "memory.oom_control", "cgroup2": "memory.events"}
"""File with a line `oom_kill N`."""
_USAGE: Final[dict[Kind, str]] = {"cgroup": "memory.usage_in_bytes", "cgroup2": "memory.current"}
"""File with all bytes charged to the group and those below it: processes, files, tmpfs, and the kernel's own."""
_OF_ALL: Final[dict[Kind, str]] = {"cgroup": "total_", "cgroup2": ""}
"""How the lines of memory.stat begin that count the groups below, too."""


class Group(NamedTuple):
    """A control group with a memory controller. folder: its files; mount: folder of the outermost group that can be seen."""

    kind: Kind
    folder: str
    mount: str


class GroupMemory(NamedTuple):
    """Bytes of a group. limit: the least of its own and of those around it, None where none has one.

    active_file, inactive_file: pages of files, without tmpfs, on the two lists that the kernel reclaims them from.
    """

    kind: Kind
    limit: int | None
    usage: int
    active_file: int
    inactive_file: int


def oom_kills(root: str = "/") -> int:
    """How many processes of this control group the kernel has killed for want of memory; 0 where it does not tell.

    root: the folder below which `proc` lies.
    """
    for group in groups(root):
        counts = _counts(os.path.join(group.folder, _COUNTERS[group.kind]))
        if "oom_kill" in counts:
            return counts["oom_kill"]
    return 0


def group_memory(root: str = "/") -> GroupMemory | None:
    """The memory of this process's group now; None where there is no group that counts it."""
    for group in groups(root):
        usage = _number(os.path.join(group.folder, _USAGE[group.kind]))
        stat = _counts(os.path.join(group.folder, "memory.stat"))
        if usage is None or not stat:
            continue
        of_all = _OF_ALL[group.kind]
        return GroupMemory(
            kind=group.kind,
            limit=stat.get("hierarchical_memory_limit") if group.kind == "cgroup" else _least_max(group),
            usage=usage,
            active_file=stat.get(f"{of_all}active_file", 0),
            inactive_file=stat.get(f"{of_all}inactive_file", 0),
        )
    return None


def memory_pressure(root: str = "/") -> float | None:
    """Percent of the last ten seconds in which some process of this group waited for memory; of the whole machine, where there
    are no such figures of the group; None where the kernel has none (see its accounting/psi.rst).
    """
    files = [
        os.path.join(group.folder, "memory.pressure") for group in groups(root) if group.kind == "cgroup2"
    ]
    for path in [*files, os.path.join(root, "proc/pressure/memory")]:
        found = re.search(r"^some avg10=([0-9.]+) ", _read(path), flags=re.MULTILINE)
        if found:
            return float(found[1])
    return None


def groups(root: str = "/") -> list[Group]:
    """This process's group in every hierarchy that has, or may have, a memory controller."""
    paths = {"cgroup": "", "cgroup2": ""}
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            paths["cgroup"] = path
        elif number == "0":
            paths["cgroup2"] = path
    found = []
    for line in _read(os.path.join(root, "proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, shown, mounted, *_ = before.split(" ")
        kind, _, options = after.split(" ", 2)
        mount = os.path.join(root, mounted.strip("/"))
        if kind == "cgroup" and "memory" in options.split(","):
            found.append(Group("cgroup", _folder(mount, shown, paths[kind]), mount))
        elif kind == "cgroup2":
            found.append(Group("cgroup2", _folder(mount, shown, paths[kind]), mount))
    return found


def _folder(mount: str, shown: str, path: str) -> str:
    """A group that this mount does not show can only be the one at its root."""
    here = os.path.join(mount, path.removeprefix(shown.rstrip("/")).strip("/"))
    return here if os.path.isdir(here) else mount


def _least_max(group: Group) -> int | None:
    limits = []
    folder = group.folder
    while True:
        limits.append(_number(os.path.join(folder, "memory.max")))
        if folder == group.mount or len(folder) <= len(group.mount):
            return min((limit for limit in limits if limit is not None), default=None)
        folder = os.path.dirname(folder)


def _number(path: str) -> int | None:
    """The number that a file holds; None where there is no file, or another word in it, such as max."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _counts(path: str) -> dict[str, int]:
    """The lines of a name and a number of a file."""
    found = re.findall(r"^(\w+) (\d+)$", _read(path), flags=re.MULTILINE)
    return {name: int(number) for name, number in found}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
