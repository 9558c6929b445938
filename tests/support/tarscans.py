"""Scans of archives that exist in memory only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dsort_api.spec import Reaction, RecordReactions
from dsort_worker.findings import Finding
from dsort_worker.tarscan import BLOCK, ShardIndex, scan_tar

WARN = RecordReactions(duplicates=Reaction.WARN, unsupported=Reaction.WARN, trailing_data=Reaction.WARN)
IGNORE = RecordReactions(
    duplicates=Reaction.IGNORE, unsupported=Reaction.IGNORE, trailing_data=Reaction.IGNORE
)
ABORT = RecordReactions(trailing_data=Reaction.ABORT)


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    """A file of these bytes, by its descriptor."""
    fd = os.memfd_create("shard")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


@dataclass
class Scan:
    """An index with the bytes of its records, and what was reported."""

    index: ShardIndex
    data: bytes
    findings: list[Finding] = field(default_factory=list)

    @property
    def keys(self) -> list[bytes]:
        """The keys of the records, in order of place."""
        packed = self.index.keys.tobytes()
        ends = self.index.key_length.cumsum().tolist()
        return [packed[low:high] for low, high in zip([0, *ends], ends, strict=False)]

    @property
    def records(self) -> list[bytes]:
        """The bytes of the records, in order of place."""
        result = []
        for number, count in enumerate(self.index.slices.tolist()):
            offset = int(self.index.offset[number])
            pairs = [(offset, int(self.index.length[number]))]
            if count > 1:
                pairs = self.index.extra[offset : offset + count].tolist()
            assert sum(length for _, length in pairs) == self.index.length[number]
            result.append(b"".join(self.data[low * BLOCK : (low + length) * BLOCK] for low, length in pairs))
        return result

    def check_sums(self) -> None:
        """Nothing is lost: kept and left out make up what was met."""
        counts = self.index.counts
        assert counts.records == len(self.index.offset) + counts.records_left_out
        assert counts.members == int(self.index.members.sum()) + counts.members_left_out


def scan(data: bytes, *, records: RecordReactions = WARN, want_keys: bool = True) -> Scan:
    """Scan an archive, check its sums and its columns, and return what was found."""
    findings: list[Finding] = []
    with opened(data) as fd:
        index = scan_tar(
            fd, name="shard.tar", size=len(data), records=records, want_keys=want_keys,
            report=findings.append, cancelled=lambda: False,
        )  # fmt: skip
    found = Scan(index, data, findings)
    found.check_sums()
    return found
