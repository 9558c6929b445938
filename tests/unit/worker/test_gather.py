"""Gather and its slices: each slice at its place, and a shard that is not as it was pinned is told by name."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.reasons import DSortError, Reason
from dsort_worker.gather import Slices, gather, gathering
from dsort_worker.listing import pin
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.sources import FilePart, ShardPart

SIZE = 5000


def content(shard: int) -> bytes:
    return np.random.default_rng(shard).bytes(SIZE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(6):
        (folder / f"{shard}.tar").write_bytes(content(shard))
    return folder


def files_of(root: Path, *, capacity: int = 256) -> ShardFiles:
    names = sorted(os.listdir(root))
    return ShardFiles([pin(str(root), name) for name in names], root=str(root), capacity=capacity)


def slices_of(entries: list[tuple[int, int, int]]) -> Slices:
    columns = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    return Slices(columns[0], columns[1], columns[2])


ENTRIES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, SIZE - 300), st.integers(0, 300)), max_size=30)


@given(ENTRIES, st.integers(1, 7), st.randoms(use_true_random=False))
def test_slices_go_to_their_places(
    root: Path, entries: list[tuple[int, int, int]], capacity: int, random: object
) -> None:
    order = list(range(len(entries)))
    random.shuffle(order)  # type: ignore[attr-defined]
    places, at = [0] * len(entries), 0
    for number in order:
        places[number] = at
        at += entries[number][2]
    out = bytearray(at)
    files = files_of(root, capacity=capacity)
    gather(files, slices_of(entries), memoryview(out), np.array(places, dtype=np.int64))
    files.close()
    assert bytes(out) == b"".join(content(s)[o : o + n] for s, o, n in (entries[number] for number in order))


@given(st.lists(ENTRIES, max_size=6), st.integers(1, 7))
def test_parts_are_gathered_one_after_the_other_whatever_number_of_files_may_be_open(
    root: Path, parts: list[list[tuple[int, int, int]]], capacity: int
) -> None:
    entries = [entry for part in parts for entry in part]
    lengths = [[length for _, _, length in part] for part in parts]
    places = [at for part in lengths for at in itertools.accumulate(part[:-1], initial=0) if part]
    out = bytearray(max((sum(part) for part in lengths), default=0))
    files = files_of(root, capacity=capacity)
    with gathering(
        files, slices_of(entries), memoryview(out), np.array(places, dtype=np.int64)
    ) as gather_part:
        first = 0
        for part in parts:
            gather_part(first, first + len(part))
            first += len(part)
            whole = b"".join(content(shard)[offset : offset + length] for shard, offset, length in part)
            assert bytes(out[: len(whole)]) == whole
    files.close()


@given(ENTRIES, st.data())
def test_any_part_of_slices_is_that_part_of_their_bytes(
    root: Path, entries: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    whole = b"".join(content(shard)[offset : offset + length] for shard, offset, length in entries)
    files = files_of(root)
    part = ShardPart(files, slices_of(entries))
    assert part.size == len(whole)
    low, high = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    if low < high:
        out = bytearray(high - low)
        part.read(low, high, memoryview(out))
        assert bytes(out) == whole[low:high]
    files.close()


def test_reads_that_come_in_parts_are_put_together(root: Path) -> None:
    preadv = os.preadv

    def at_most_seven(fd: int, buffers: tuple[memoryview], offset: int) -> int:
        return preadv(fd, [buffers[0][:7]], offset)

    out = bytearray(100)
    with mock.patch.object(os, "preadv", at_most_seven):
        gather(files_of(root), slices_of([(2, 10, 100)]), memoryview(out), np.array([0]))
    assert bytes(out) == content(2)[10:110]


def test_a_shard_that_ends_early_has_changed(root: Path) -> None:
    files = files_of(root)
    with pytest.raises(DSortError, match=r"shard 3\.tar changed .* it ends at 5000") as caught:
        gather(files, slices_of([(3, SIZE - 100, 200)]), memoryview(bytearray(200)), np.array([0]))
    assert caught.value.reason is Reason.INPUT_CHANGED
    files.close()


def test_a_shard_that_cannot_be_read_is_named_with_the_place(root: Path) -> None:
    files = files_of(root)
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    with (
        mock.patch.object(os, "preadv", side_effect=broken),
        pytest.raises(DSortError, match=r"shard 4\.tar: at offset 512: Input/output error") as caught,
    ):
        gather(files, slices_of([(4, 512, 10)]), memoryview(bytearray(10)), np.array([0]))
    assert caught.value.reason is Reason.INPUT_UNREADABLE
    files.close()


def test_slices_are_no_copy_of_those_they_are_a_part_of() -> None:
    slices = slices_of([(0, 0, 10), (1, 5, 10)])
    part = slices.within(3, 12, np.cumsum(slices.length))
    assert (part.offset.tolist(), part.length.tolist()) == ([3, 5], [7, 2])
    assert slices.offset.tolist() == [0, 5]
    assert slices.length.tolist() == [10, 10]


@given(
    st.binary(max_size=30),
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 50)), max_size=5),
    st.data(),
)
def test_a_header_and_sections_of_a_file_are_one_stream(
    header: bytes, sections: list[tuple[int, int]], data: st.DataObject
) -> None:
    file = bytes(range(250))
    whole = header + b"".join(file[offset : offset + size] for offset, size in sections)
    read = memory_file(file)
    part = FilePart(read, header, sections)
    assert part.size == len(whole)
    low, high = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    out = bytearray(high - low)
    part.read(low, high, memoryview(out))
    os.close(read)
    assert bytes(out) == whole[low:high]


def memory_file(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


def test_a_scratch_file_that_became_shorter_is_told() -> None:
    fd = memory_file(b"abc")
    with pytest.raises(OSError, match="shorter than it was"):
        FilePart(fd, b"", [(0, 4)]).read(0, 4, memoryview(bytearray(4)))
    os.close(fd)
