"""Control groups with a memory limit, as a container has one, for processes of this machine.

A group is made below the one that the tests are in (version 1), or beside it (version 2, where only a group without processes
of its own may hand the memory controller on). It takes root, or a part of the tree that is the user's. Where there is
neither, `unavailable` says so in words.

What counts is unreclaimable memory: all that is charged to the group, the kernel's own and its sockets' buffers included, less
the pages of files on the two lists that the kernel reclaims from. Files on tmpfs are not on them: what ranks in a group write
has to lie on a disk (`disk_folder`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.running import wait_until

MIB: Final = 1 << 20
_NO_DISK: Final = {"tmpfs", "ramfs", "devtmpfs"}
_SAMPLE_SECONDS: Final = 0.004
_NUMBERS: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where groups are made. version: of the control groups, 1 or 2."""

    version: int
    parent: Path


def unavailable() -> str | None:
    """Why no group can be made here; None where one can."""
    try:
        with ControlGroup(limit=64 * MIB):
            return None
    except (OSError, LookupError) as error:
        return f"no control group with a memory limit can be made here: {error}"


def _place() -> _Place:
    """Raises LookupError where the kernel shows no memory controller that can be handed on."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for controllers, path in groups.items():
        if "memory" in controllers.split(","):
            for _, folder, kind, options, *_ in mounts:
                if kind == "cgroup" and "memory" in options.split(","):
                    return _Place(1, _shown(Path(folder), path))
    for _, folder, kind, *_ in mounts:
        if kind == "cgroup2":
            root = Path(folder)
            own = _shown(root, groups.get("", "/"))
            for parent in (own, *own.parents):
                if "memory" in (parent / "cgroup.subtree_control").read_text().split():
                    return _Place(2, parent)
                if parent == root:
                    break
    raise LookupError("no group hands a memory controller on")


def _shown(mount: Path, path: str) -> Path:
    """The group's folder; a path that the mount does not show can only be that of its root."""
    folder = mount / path.strip("/")
    return folder if folder.is_dir() else mount


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes of a group at one time. active, inactive: pages of files; anonymous: processes' own; sockets: buffers of sockets."""

    usage: int = 0
    active: int = 0
    inactive: int = 0
    anonymous: int = 0
    sockets: int = 0

    @property
    def unreclaimable(self) -> int:
        """What the kernel cannot take back without ending somebody."""
        return self.usage - self.active - self.inactive

    @property
    def working_set(self) -> int:
        """What the kubelet takes for it: active pages of files included."""
        return self.usage - self.inactive


@dataclass(slots=True)
class ControlGroup:
    """A group of this process's making; a context manager that watches it and removes it. limit: bytes; None: no limit."""

    limit: int | None
    folder: Path = field(init=False)
    peak: Sample = field(init=False, default=Sample())
    """The sample with the most unreclaimable memory."""
    most: int = field(init=False, default=0)
    """The greatest usage, pages of files included, that the kernel has seen."""
    most_in_sockets: int = field(init=False, default=0)
    """Bytes in the buffers of sockets, in the sample with the most of them."""
    most_working_set: int = field(init=False, default=0)
    """As the kubelet counts it, in the sample with the most of it."""
    oom_kills: int = field(init=False, default=0)
    samples: int = field(init=False, default=0)
    _version: int = field(init=False)
    _over: threading.Event = field(init=False, default_factory=threading.Event)
    _watcher: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        place = _place()
        self._version = place.version
        self.folder = place.parent / f"dsort-test-{os.getpid()}-{next(_NUMBERS)}"
        self.folder.mkdir()
        try:
            self._limit()
        except OSError:
            self.folder.rmdir()
            raise
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._watcher.join()
        self.oom_kills = self._oom_kills()
        peak = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        self.most = self._number(peak) if (self.folder / peak).exists() else self.peak.usage
        wait_until(self._removed, what=f"the last process of {self.folder} to end")

    def command(self, line: Sequence[str]) -> list[str]:
        """A command line that runs within the group from its first moment on."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.folder), *line]

    def add(self, pid: int) -> None:
        """Move a process into the group: what it allocates from now on is charged here."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def sample(self) -> Sample:
        """The group's memory now."""
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        total = "total_" if self._version == 1 else ""
        active, inactive = int(stat[f"{total}active_file"]), int(stat[f"{total}inactive_file"])
        if self._version == 2:
            anonymous, sockets = int(stat["anon"]) + int(stat["shmem"]), int(stat.get("sock", 0))
            return Sample(self._number("memory.current"), active, inactive, anonymous, sockets)
        anonymous = int(stat["total_rss"]) + int(stat["total_shmem"])
        # Version 1 counts the buffers of sockets aside; version 2 among the rest.
        sockets = self._number("memory.kmem.tcp.usage_in_bytes")
        usage = self._number("memory.usage_in_bytes") + sockets
        return Sample(usage, active, inactive, anonymous, sockets)

    def _limit(self) -> None:
        if self._version == 1:
            # Buffers of sockets are counted only once they have a limit.
            (self.folder / "memory.kmem.tcp.limit_in_bytes").write_text(str(1 << 40))
        if self.limit is None:
            return
        name = "memory.limit_in_bytes" if self._version == 1 else "memory.max"
        (self.folder / name).write_text(str(self.limit))
        swap = "memory.memsw.limit_in_bytes" if self._version == 1 else "memory.swap.max"
        if (self.folder / swap).exists():
            (self.folder / swap).write_text(str(self.limit if self._version == 1 else 0))

    def _number(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def _oom_kills(self) -> int:
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        found = re.search(r"^oom_kill (\d+)$", (self.folder / name).read_text(), flags=re.MULTILINE)
        return int(found[1]) if found else 0

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            sample = self.sample()
            self.samples += 1
            self.most_working_set = max(self.most_working_set, sample.working_set)
            self.most_in_sockets = max(self.most_in_sockets, sample.sockets)
            if sample.unreclaimable > self.peak.unreclaimable:
                self.peak = sample

    def _removed(self) -> bool:
        try:
            self.folder.rmdir()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def disk_folder() -> Iterator[Path]:
    """A folder of its own on a disk, removed afterwards. Raises LookupError where there is none."""
    for base in (tempfile.gettempdir(), "/var/tmp", "/tmp", str(Path.home())):
        if os.access(base, os.W_OK) and _file_system(base) not in _NO_DISK:
            folder = Path(tempfile.mkdtemp(prefix="dsort-test-", dir=base))
            try:
                yield folder
            finally:
                shutil.rmtree(folder)
            return
    raise LookupError("every temporary folder lies in memory")


def _file_system(path: str) -> str:
    """The type of the file system that a path lies on: that of the longest mount point above it, the last one mounted."""
    real = Path(path).resolve()
    kinds = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if Path(point) in (real, *real.parents):
            kinds[Path(point)] = kind
    if not kinds:
        return "unknown"  # within a chroot the mount of its root is not listed
    return kinds[max(kinds, key=lambda point: len(point.parts))]
