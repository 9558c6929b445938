"""The writer of shards: bytes in order, the checksum of the file, and a commit only when it is on disk."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash

from dsort_api.reasons import DSortError, Reason
from dsort_worker import shardwriter
from dsort_worker.shardwriter import OutputShard, ShardWriter
from dsort_worker.staging import Staging

DEADLINE = 30.0


@pytest.fixture
def closers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(str(tmp_path), job="job", epoch="e1")
    staging.create()
    return staging


def content(number: int, size: int) -> bytes:
    return np.random.default_rng(number).bytes(size)


def shard(number: int, size: int) -> OutputShard:
    return OutputShard(number, f"out-{number}.tar", size, number + 1, 2 * number + 1)


@pytest.mark.parametrize("step", [1000, 4096, 10_000])
def test_shards_are_written_in_pieces_and_committed_whole(
    staging: Staging, closers: ThreadPoolExecutor, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shardwriter, "_PIECE", 700)
    monkeypatch.setattr(shardwriter, "_FLUSH_STEP", 2000)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:300]))  # as a full pipe or disk may do
    committed: list[int] = []
    writer = ShardWriter(
        staging, closers=closers, behind=2, on_commit=lambda one: committed.append(one.number)
    )
    shards = [shard(number, 5000 + 512 * number) for number in range(5)]
    for one in shards:
        data = content(one.number, one.size)
        for low in range(0, one.size, step):
            writer.write(one, memoryview(data)[low : low + step])
    writer.finish()
    writer.abandon()
    assert sorted(committed) == [0, 1, 2, 3, 4]
    for one, commit in zip(shards, staging.commits(), strict=True):
        data = Path(staging.staged_path(commit.staged)).read_bytes()
        assert data == content(one.number, one.size)
        assert commit.checksum == xxhash.xxh3_128_hexdigest(data)
        assert (commit.number, commit.name, commit.bytes) == (one.number, one.name, one.size)
        assert (commit.records, commit.members) == (one.records, one.members)


def test_no_commit_before_the_bytes_are_on_disk_and_few_wait_for_it(
    staging: Staging, closers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushing, go_on = threading.Semaphore(0), threading.Event()
    fsync = os.fsync

    def slow(fd: int) -> None:
        flushing.release()
        assert go_on.wait(DEADLINE)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    writer = ShardWriter(staging, closers=closers, behind=2, on_commit=lambda _: None)
    third = threading.Event()

    def write() -> None:
        for number in range(3):
            writer.write(shard(number, 512), memoryview(bytes(512)))
        third.set()

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(3):
        assert flushing.acquire(timeout=DEADLINE)
    assert list(staging.commits()) == []
    assert not third.is_set()  # two may wait behind the one that is written
    go_on.set()
    thread.join(DEADLINE)
    writer.finish()
    assert [commit.number for commit in staging.commits()] == [0, 1, 2]


def test_a_shard_that_is_not_whole_is_not_committed(staging: Staging, closers: ThreadPoolExecutor) -> None:
    before = len(os.listdir("/proc/self/fd"))
    writer = ShardWriter(staging, closers=closers, behind=2, on_commit=lambda _: None)
    writer.write(shard(0, 1024), memoryview(bytes(512)))
    writer.finish()
    writer.abandon()
    writer.abandon()
    assert list(staging.commits()) == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_full_disk_is_told_with_the_file(
    staging: Staging, closers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = ShardWriter(staging, closers=closers, behind=1, on_commit=lambda _: None)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(DSortError, match=r"stage/0000000.\.e1: No space left") as caught:
            for number in range(3):
                writer.write(shard(number, 512), memoryview(bytes(512)))
            writer.finish()
        writer.abandon()
        closers.shutdown()
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE
    assert list(staging.commits()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_replacement_starts_the_file_anew(staging: Staging, closers: ThreadPoolExecutor) -> None:
    path = Path(staging.staged_path(staging.staged_name(0)))
    path.write_bytes(bytes(4096))  # the same epoch tried before and failed
    writer = ShardWriter(staging, closers=closers, behind=1, on_commit=lambda _: None)
    writer.write(shard(0, 5), memoryview(b"short"))
    writer.finish()
    assert path.read_bytes() == b"short"
