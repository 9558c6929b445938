"""Verify an output: is every shard still what the manifest says, and (deep) are its records those of the
inputs?

The first reads each shard once, checksums it and counts its records. The second needs no manifest to be
believed: it indexes inputs and outputs anew and compares the multisets of their records by the hash of each
record's bytes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import xxhash
from pydantic import ValidationError

from dsort_api.manifest import Manifest, OutputShardRecord
from dsort_api.problems import describe, summary
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Reaction, RecordReactions
from dsort_worker.readbuffer import read_buffer
from dsort_worker.regular import open_regular, read_regular
from dsort_worker.staging import FOLDER, MANIFEST
from dsort_worker.tarscan import Grouping, ShardIndex, scan_tar

Item = TypeVar("Item")
Result = TypeVar("Result")

BUFFER: Final = 4 << 20
"""Bytes read at a time. One buffer a thread, reused: fresh memory would cost more than the reading."""

MOST_THREADS: Final = 4

IGNORE_ALL: Final = RecordReactions(
    duplicates=Reaction.IGNORE,
    unsupported=Reaction.IGNORE,
    trailing_data=Reaction.IGNORE,
    collisions=Reaction.IGNORE,
    corrupt_shards=Reaction.IGNORE,
)
"""To index what is there without acting on it: which records are left out is the same for Warn and Ignore."""


class Difference(NamedTuple):
    """One thing that is not as it should be: the shard (or file) and, in words, what is wrong with it."""

    shard: str
    detail: str

    @property
    def message(self) -> str:
        """One line for a person."""
        what = "" if self.shard == MANIFEST else "shard "
        return f"{what}{self.shard}: {self.detail}"


@dataclass(slots=True)
class Verification:
    """What was checked and what was found. `bytes` were read in `seconds`."""

    output: str
    manifest: Manifest
    shards: int = 0
    records: int = 0
    bytes: int = 0
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)

    def demand(self) -> None:
        """Raise DSortError VerificationFailed that names the first difference, if there is any."""
        if self.differences:
            more = f" (and {len(self.differences) - 1} more)" if len(self.differences) > 1 else ""
            raise DSortError(
                Reason.VERIFICATION_FAILED,
                f"{self.output}: {self.differences[0].message}{more}; the output is not as it was written",
            )


def verify_output(output: str, *, inputs: Iterable[str] = ()) -> Verification:
    """Check the shards in the folder `output` against the manifest there: names, sizes, checksums.

    `inputs` are folders whose pinned shards may lie beside the outputs. Raises DSortError VerificationFailed naming the first difference; InputUnreadable when there is no
    manifest, or something cannot be read.
    """
    found = check_shards(output, read_manifest(output), inputs=inputs)
    found.demand()
    return found


def read_manifest(output: str) -> Manifest:
    """The manifest in the folder `output`. Raises DSortError InputUnreadable when there is none,
    VerificationFailed when it is damaged.
    """
    path = os.path.join(output, MANIFEST)
    try:
        return Manifest.model_validate_json(read_regular(path))
    except OSError as error:
        raise DSortError(
            Reason.INPUT_UNREADABLE,
            f"{path}: {error.strerror}; only an output that a job completed has a manifest",
        ) from None
    except ValidationError as error:
        raise DSortError(
            Reason.VERIFICATION_FAILED,
            f"{path}: no valid manifest: {summary(describe(error.errors(include_url=False)))}",
        ) from None


def check_shards(output: str, manifest: Manifest, *, inputs: Iterable[str] = ()) -> Verification:
    """Compare names, sizes and checksums with the manifest; every difference is in the result.

    `inputs` are folders whose pinned shards may lie beside the outputs. Raises DSortError InputUnreadable
    when a file cannot be read.
    """
    began = time.monotonic()
    found = Verification(output, manifest)
    found.differences += [Difference(MANIFEST, one) for one in manifest.contradictions()]
    found.differences += _unexpected(output, manifest, inputs)
    buffers = threading.local()

    def check(shard: OutputShardRecord) -> tuple[int, Difference | None]:
        if not hasattr(buffers, "view"):
            buffers.view = read_buffer(BUFFER)
        return _check_shard(output, shard, buffers.view)

    for shard, (size, difference) in zip(manifest.outputs, _in_threads(check, manifest.outputs), strict=True):
        found.shards += 1
        found.records += shard.records
        found.bytes += size
        if difference is not None:
            found.differences.append(difference)
    found.seconds = time.monotonic() - began
    return found


def count_records(found: Verification) -> None:
    """Index every shard that is there and compare records and members with the manifest; adds to `found`.

    Where records of one key share shards, their members are counted alone: nobody can tell those records apart.
    """
    began = time.monotonic()
    shared = bool(found.manifest.counts.collisions)
    known = {difference.shard for difference in found.differences}

    def check(shard: OutputShardRecord) -> Difference | None:
        if shard.name in known:  # one line a shard, the first thing that is wrong with it
            return None
        try:
            index = index_shard(
                found.output, shard.name, grouping=Grouping.WRITTEN if shared else Grouping.RECORDS
            )
        except DSortError as error:
            return Difference(shard.name, error.message)
        counts = (shard.records if shared else len(index.offset), int(index.members.sum()))
        if counts == (shard.records, shard.members):
            return None
        return Difference(
            shard.name,
            f"{counts[0]} records of {counts[1]} members, the manifest says {shard.records} of {shard.members}",
        )

    found.differences += [
        difference for difference in _in_threads(check, found.manifest.outputs) if difference
    ]
    found.seconds += time.monotonic() - began


def index_shard(
    folder: str, name: str, *, want_keys: bool = False, grouping: Grouping = Grouping.RECORDS
) -> ShardIndex:
    """The index of one shard as it is now. Raises DSortError as `scan_tar` does, InputUnreadable when it
    cannot be opened.
    """
    with _Opened(os.path.join(folder, name)) as fd:
        return scan_tar(
            fd,
            name=name,
            size=os.fstat(fd).st_size,
            records=IGNORE_ALL,
            want_keys=want_keys,
            report=lambda _: None,
            cancelled=lambda: False,
            grouping=grouping,
        )


def _check_shard(output: str, shard: OutputShardRecord, buffer: memoryview) -> tuple[int, Difference | None]:
    """Bytes read, and what is wrong with the shard."""
    path = os.path.join(output, shard.name)
    if not os.path.lexists(path):
        return 0, Difference(shard.name, "is missing")
    with _Opened(path) as fd:
        size = os.fstat(fd).st_size
        if size != shard.bytes:
            return 0, Difference(shard.name, f"{size} bytes, the manifest says {shard.bytes}")
        checksum = xxhash.xxh3_128()
        read = 0
        while count := _read(fd, buffer, path):
            checksum.update(buffer[:count])
            read += count
    expected = shard.checksum.removeprefix("xxh128:")
    if checksum.hexdigest() == expected:
        return read, None
    return read, Difference(
        shard.name, f"checksum xxh128:{checksum.hexdigest()}, the manifest says xxh128:{expected}"
    )


def _unexpected(output: str, manifest: Manifest, inputs: Iterable[str]) -> list[Difference]:
    """Archives that lie among the outputs and that the manifest does not know: a reader would take them for
    shards.
    """
    expected = {shard.name for shard in manifest.outputs}
    pinned = {
        os.path.realpath(os.path.join(folder, shard.name)) for folder in inputs for shard in manifest.inputs
    }
    folders = {os.path.dirname(name) for name in expected} | {""}
    result = []
    for folder in sorted(folders):
        try:
            names = sorted(os.listdir(os.path.join(output, folder)))
        except FileNotFoundError:
            continue  # its shards are missing, and said to be
        for name in names:
            relative = os.path.join(folder, name)
            if not name.endswith(".tar") or relative in expected or name == FOLDER:
                continue
            if os.path.realpath(os.path.join(output, relative)) not in pinned:
                result.append(Difference(relative, "is not in the manifest"))
    return result


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """Results in the order of the items. Reading and checksums let go of the interpreter, so two threads are
    twice as fast.
    """
    workers = max(1, min(MOST_THREADS, os.cpu_count() or 1))
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        yield from pool.map(work, items)


class _Opened:
    """An open file by its descriptor. Raises DSortError InputUnreadable."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int:
        try:
            self._fd = open_regular(self._path)
        except OSError as error:
            raise DSortError(Reason.INPUT_UNREADABLE, f"{self._path}: {error.strerror}") from None
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _read(fd: int, buffer: memoryview, path: str) -> int:
    try:
        return os.readv(fd, [buffer])
    except OSError as error:
        raise DSortError(Reason.INPUT_UNREADABLE, f"{path}: {error.strerror}") from None
