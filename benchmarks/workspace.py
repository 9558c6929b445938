"""Where a comparison runs, and how it says how far it is."""

from __future__ import annotations

import os
import shutil
import time

from benchmarks.datasets import Dataset


class Workspace:
    """An own folder on tmpfs (place `tmpfs`) or beside the cache (`disk`), gone when it is left."""

    def __init__(self, place: str, *, cache: str) -> None:
        base = "/dev/shm" if place == "tmpfs" else cache
        self._folder = os.path.join(base, f"dsort-bench-{os.getpid()}")

    def __enter__(self) -> str:
        os.mkdir(self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


def source_in(workspace: str, *, dataset: Dataset, place: str) -> str:
    """The input's folder: a copy on tmpfs; on disk the dataset itself, read once so that it is in the page cache."""
    if place == "tmpfs":
        return str(shutil.copytree(dataset.folder, os.path.join(workspace, "source")))
    for entry in os.scandir(dataset.folder):
        with open(entry.path, "rb", buffering=0) as shard:
            while shard.read(1 << 20):
                pass
    return dataset.folder


class Clock:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        """Print a line."""
        print(f"[{time.monotonic() - self._start:5.0f} s] {line}", flush=True)
