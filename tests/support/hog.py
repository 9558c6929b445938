"""A process that takes memory of the container that it runs in: a program of its own, with Python's library alone.

hog.py hold [DIR]  on standard input, a line with a percentage: take memory until so much of the container's limit is used that
                   the kernel cannot take back, and stay there, whatever the others do. 0 gives all back. Ends with its input
hog.py overflow    make every process that is here the kernel's first choice, and take memory without end

Says what is used, about twice a second: {"used": bytes, "limit": bytes}. DIR: the control group, where this is no container.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
from typing import Final

CHUNK: Final = 2 << 20
STEP: Final = 4
"""Chunks that are taken at once."""
PAUSE: Final = 0.4
FOREVER: Final = 1 << 60
GROUP: Final = sys.argv[2] if len(sys.argv) > 2 else ""


def read(path: str) -> str:
    """The text of a file; "" where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def figures() -> tuple[int, int]:
    """Bytes of this container that the kernel cannot take back, and its limit."""
    for folder, usage, prefix in (
        (GROUP or "/sys/fs/cgroup/memory", "memory.usage_in_bytes", "total_"),
        (GROUP or "/sys/fs/cgroup", "memory.current", ""),
    ):
        used = read(f"{folder}/{usage}")
        if used:
            lines = (line.split() for line in read(f"{folder}/memory.stat").splitlines())
            stat = {name: int(value) for name, value in lines}
            limit = stat.get("hierarchical_memory_limit") or int(read(f"{folder}/memory.max"))
            cached = stat[f"{prefix}active_file"] + stat[f"{prefix}inactive_file"]
            return int(used) - cached, limit
    raise SystemExit("no control group shows its memory here")


def take() -> mmap.mmap:
    """Memory that is really there."""
    chunk = mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    chunk.write(b"x" * CHUNK)
    return chunk


def expose_others() -> None:
    """Make them the first to be killed."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/oom_score_adj", "w", encoding="ascii") as file:
                    file.write("1000")
            except OSError:  # it has ended
                continue


def tell(used: int, limit: int) -> None:
    """Say what is used."""
    print(json.dumps({"used": used, "limit": limit}), flush=True)


def hold() -> None:
    """Take and give back as it is told."""
    chunks: list[mmap.mmap] = []
    share = 0.0
    while True:
        used, limit = figures()
        tell(used, limit)
        missing = min(STEP, int((limit * share / 100 - used) / CHUNK))
        if missing > 0:
            chunks += [take() for _ in range(missing)]
        for _ in range(min(len(chunks), -missing if share else FOREVER)):
            chunks.pop().close()
        if select.select([sys.stdin], [], [], 0.0 if missing > 0 else PAUSE)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            share = float(line)


def overflow() -> None:
    """Until the container ends. In many small processes, so that the largest, which the kernel takes, is another."""
    expose_others()
    while True:
        tell(*figures())
        if not os.fork():
            held = [take() for _ in range(STEP)]
            signal.pause()
            held.clear()


if __name__ == "__main__":
    {"hold": hold, "overflow": overflow}[sys.argv[1]]()
