"""Findings: what a declared reaction passed over, by name.

Each rank names its own in a file beside the output, one JSON object a line, which the manifest names: lists of names never
pass through rank 0. The first few also go to the driver, who prints them as warnings.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from dataclasses import asdict, dataclass

from dsort_api.messages import Warning as Notice
from dsort_worker.staging import place
from dsort_worker.state import RankState


@dataclass(frozen=True, slots=True)
class Finding:
    """One culprit. kind: the field of the spec whose reaction applies; offset: bytes in the shard; member: escaped text."""

    kind: str
    shard: str
    member: str
    offset: int
    detail: str

    @property
    def message(self) -> str:
        """One line for a person."""
        member = f": member {self.member}" if self.member else ""
        return f"shard {self.shard}{member}: {self.detail}"


class FindingsLog:
    """Collects a rank's findings; may be used from several threads.

    path: the file, in the staging folder; None keeps only what the driver is told. folder: the output folder.
    """

    def __init__(self, state: RankState, *, path: str | None, folder: str) -> None:
        self._state = state
        self._folder = folder
        self.path = path
        self.count = 0
        self._lock = threading.Lock()
        self._lines: list[str] = []

    def report(self, finding: Finding) -> None:
        """Take a finding."""
        self._state.warn(Notice(kind=finding.kind, message=finding.message))
        with self._lock:
            self.count += 1
            if self.path is not None:
                self._lines.append(json.dumps(asdict(finding)))
                if len(self._lines) >= 4096:
                    self._write()

    def close(self) -> None:
        """Flush to disk."""
        with self._lock:
            if self.path is not None and self.count:
                self._write()
                fd = os.open(self.path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    @property
    def name(self) -> str | None:
        """The file's name beside the output; None where there is nothing to name."""
        return f"dsort-findings-{self._state.rank:05d}.jsonl" if self.count else None

    def publish(self) -> None:
        """Give the file its name beside the output, in place of the list of an older life of this rank."""
        if self.path is None or self.name is None:
            return
        final = os.path.join(self._folder, self.name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(final)
        place(self.path, final)
        if not os.path.exists(
            self.path
        ):  # it was moved; a copy stays, by which it can be told from a stranger's
            shutil.copyfile(final, self.path)

    def _write(self) -> None:
        if self.path is None or not self._lines:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n".join(self._lines) + "\n")
        self._lines.clear()
