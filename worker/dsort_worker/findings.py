"""Findings: what a declared reaction passed over, by name.

Each rank names its own in a file beside the output, one JSON object a line, which the manifest names: lists of names never
pass through rank 0. The first few also go to the driver, who prints them as warnings.
"""

from __future__ import annotations

import json
import os
import threading
from typing import NamedTuple

from dsort_api.messages import Warning as Notice
from dsort_worker.staging import FINDINGS, Staging, unwritable
from dsort_worker.state import RankState


class Finding(NamedTuple):
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
        shard = "output shard" if self.kind == "collisions" else "shard"
        return f"{shard} {self.shard}{member}: {self.detail}"

    def as_json(self) -> dict[str, str | int]:
        """Its line in the file."""
        return {
            "kind": self.kind,
            "shard": self.shard,
            "member": self.member,
            "offset": self.offset,
            "detail": self.detail,
        }


class FindingsLog:
    """Collects a rank's findings; may be used from several threads.

    staging: where the file goes; None keeps only what the driver is told. Raises DSortError OutputUnwritable where it cannot
    be written.
    """

    def __init__(self, state: RankState, *, staging: Staging | None) -> None:
        self._state = state
        self._staging = staging
        self._path = staging.findings_path(state.rank) if staging is not None else None
        self.count = 0
        self._lock = threading.Lock()
        self._lines: list[str] = []

    def report(self, finding: Finding) -> None:
        """Take a finding."""
        self._state.warn(Notice(kind=finding.kind, message=finding.message))
        with self._lock:
            self.count += 1
            if self._path is not None:
                self._lines.append(json.dumps(finding.as_json()))
                if len(self._lines) >= 4096:
                    self._write()

    def close(self) -> None:
        """Flush to disk."""
        with self._lock:
            if self._path is not None and self.count:
                self._write()
                with unwritable(self._path), open(self._path, "ab") as file:
                    os.fsync(file.fileno())

    @property
    def name(self) -> str | None:
        """The file's name beside the output; None where there is nothing to name."""
        return f"{FINDINGS}{self._state.rank:05d}.jsonl" if self.count else None

    def publish(self) -> None:
        """Give the file its name beside the output. Raises DSortError OutputExists where somebody else's has it."""
        if self._staging is not None and self._path is not None and self.name is not None:
            self._staging.publish_findings(self._path, self.name)

    def _write(self) -> None:
        if self._path is None or not self._lines:
            return
        with unwritable(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write("\n".join(self._lines) + "\n")
        self._lines.clear()
