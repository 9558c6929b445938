"""What people use today, each as the command line of a whole process.

Every one of them writes shards of as many records as the input has, so that all do the same work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_HERE: Final = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True, slots=True)
class Task:
    """Shuffle the shards in `source` into the new folder `target`, `records` in each shard. scratch: empty, own."""

    source: str
    target: str
    scratch: str
    records: int


@dataclass(frozen=True, slots=True)
class Competitor:
    """A way to do the task, or its yardstick."""

    name: str
    note: str
    command: Callable[[Task], list[str]]


def _copy(task: Task) -> list[str]:
    return ["cp", "-r", task.source, task.target]


def _copy_and_sync(task: Task) -> list[str]:
    return ["sh", "-c", 'cp -r "$1" "$2" && sync "$2"/*', "sh", task.source, task.target]


def _tar_and_shuf(task: Task) -> list[str]:
    return ["sh", f"{_HERE}/tar_shuf.sh", task.source, task.target, task.scratch, str(task.records)]


def _script(name: str) -> Callable[[Task], list[str]]:
    return lambda task: [sys.executable, f"{_HERE}/{name}", task.source, task.target, str(task.records)]


COPY: Final = Competitor("cp -r", "copies, shuffles nothing: the yardstick", _copy)

COPY_AND_SYNC: Final = Competitor(
    "cp -r + sync", "the copy, on the disk when it ends, as dsort's output is", _copy_and_sync
)

SLOW_COMPETITORS: Final = (
    Competitor("GNU tar + shuf", "extract, shuffle the records' names, pack from a list", _tar_and_shuf),
    Competitor("tarfile script", "index with tarfile, shuffle, copy members", _script("tarfile_script.py")),
    Competitor(
        "webdataset",
        "shuffle buffer of 10,000 records and ShardWriter: not a whole shuffle",
        _script("webdataset_script.py"),
    ),
)
