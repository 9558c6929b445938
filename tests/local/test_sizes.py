"""Shards and records larger than the memory budget, and very many very small ones (item 5)."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.datasets import END, Item, header, member, padded
from tests.support.reference import expected_shards, shuffle_key
from tests.support.running import Run, digests, dsort, job, manifest_of, shards_in

MIB = 1 << 20
LEAST = "64Mi"
ALLOWANCE = 24 * MIB
"""What a rank's resident memory may be over its budget: pages of the interpreter and libraries that it shares with others."""


MANIFEST_ENTRY = 3 << 10
"""What rank 0 takes for each output shard while it writes the manifest."""

# Each run is a command of its own: ranks are forked from it, and share no more with it than they do for users.


def check_memory(run: Run, *, budget: int) -> None:
    allowed = budget + ALLOWANCE + run.result["shards"] * MANIFEST_ENTRY
    assert max(run.result["peakRss"]) < allowed, run.result["peakRss"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shards of 50 MB in records of a megabyte; each byte of a record depends on its number."""
    folder = tmp_path_factory.mktemp("large")
    paths = []
    for shard in range(3):
        path = folder / f"{shard}.tar"
        with path.open("wb") as file:
            for number in range(50):
                data = hashlib.shake_128(b"%d-%d" % (shard, number)).digest(4096) * 250
                file.write(member(Item(f"{shard}-{number}.bin", data), dialect="ustar"))
            file.write(END)
        paths.append(path)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("network", [False, True], ids=["short-circuit", "network"])
def test_item_5_a_shard_larger_than_the_budget(large: list[Path], tmp_path: Path, network: bool) -> None:
    order = {"kind": "Shuffle", "seed": 5}
    run = dsort(
        job(large[0].parent, tmp_path / "out", order=order, output={"name": "one"}),
        workers=2,
        memory=LEAST,
        network=network,
    )
    (whole,) = expected_shards(large, order=order, output={"shardCount": 1})
    assert len(whole) > 150_000_000
    assert digests(tmp_path / "out") == {"one.tar": hashlib.sha256(whole).hexdigest()}
    check_memory(run, budget=64 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("network", [False, True], ids=["short-circuit", "network"])
def test_item_5_a_record_larger_than_the_budget(tmp_path: Path, network: bool) -> None:
    (tmp_path / "in").mkdir()
    piece = hashlib.shake_128(b"large").digest(MIB)
    parts = []
    for shard in range(2):
        with (tmp_path / "in" / f"{shard}.tar").open("wb") as file:
            file.write(member(Item(f"small{shard}.txt", b"s"), dialect="ustar"))
            if shard:
                file.write(header(b"large.bin", 96 * MIB, magic=b"ustar\x0000"))
                for _ in range(96):
                    file.write(piece)
                file.write(member(Item("large.cls", b"7"), dialect="ustar"))
            file.write(END)
        parts.append(tmp_path / "in" / f"{shard}.tar")
    manifest = job(
        tmp_path / "in",
        tmp_path / "out",
        order={"kind": "Key", "descending": True},
        output={"recordsPerShard": 2},
    )
    run = dsort(manifest, workers=2, memory=LEAST, network=network)
    expected = expected_shards(
        parts, order={"kind": "Key", "descending": True}, output={"recordsPerShard": 2}
    )
    assert list(digests(tmp_path / "out").values()) == [hashlib.sha256(data).hexdigest() for data in expected]
    check_memory(run, budget=64 * MIB)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100,000 records of 100 bytes in 10 shards, by number."""
    folder = tmp_path_factory.mktemp("crowd")
    for shard in range(10):
        with (folder / f"{shard}.tar").open("wb") as file:
            for number in range(shard * 10_000, (shard + 1) * 10_000):
                file.write(small_member(number))
            file.write(END)
    return folder


def small_member(number: int) -> bytes:
    return header(b"%06d.txt" % number, 100, magic=b"ustar\x0000") + padded(b"%0100d" % number)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("network", "workers"), [(False, 3), (True, 2)], ids=["short-circuit", "network"])
def test_item_5_a_hundred_thousand_records_of_100_bytes(
    crowd: Path, tmp_path: Path, network: bool, workers: int
) -> None:
    manifest = job(crowd, tmp_path / "out", order={"kind": "Shuffle", "seed": 3}, output={"shardCount": 7})
    run = dsort(manifest, workers=workers, memory=LEAST, network=network)
    assert run.result["records"] == 100_000
    order = sorted(range(100_000), key=lambda number: shuffle_key(3, number // 10_000, number % 10_000))
    found = hashlib.sha256()
    for path in shards_in(tmp_path / "out").values():
        found.update(path.read_bytes()[:-1024])
    expected = hashlib.sha256()
    for number in order:
        expected.update(small_member(number))
    assert found.digest() == expected.digest()
    check_memory(run, budget=64 * MIB)


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: 20,000 files flushed to a disk measure the disk."""
    import tempfile

    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path, prefix="dsort-bench-test-"
    ) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_item_5_twenty_thousand_shards_of_one_record(fast_folder: Path) -> None:
    (fast_folder / "in").mkdir()
    for shard in range(4):
        with (fast_folder / "in" / f"{shard}.tar").open("wb") as file:
            for number in range(shard * 5000, (shard + 1) * 5000):
                file.write(small_member(number))
            file.write(END)
    target = fast_folder / "out"
    manifest = job(
        fast_folder / "in", target, order={"kind": "Key", "descending": True}, output={"recordsPerShard": 1}
    )
    run = dsort(manifest, workers=2, memory=LEAST)
    assert run.result["shards"] == 20_000
    for number in range(20_000):
        assert (target / f"out-{number:06d}.tar").read_bytes() == small_member(19_999 - number) + END
    assert manifest_of(target)["counts"]["recordsOut"] == 20_000
    check_memory(run, budget=64 * MIB)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_item_5_five_thousand_input_shards_of_one_record(fast_folder: Path) -> None:
    (fast_folder / "in").mkdir()
    for number in range(5000):
        (fast_folder / "in" / f"{number:06d}.tar").write_bytes(small_member(number) + END)
    manifest = job(fast_folder / "in", fast_folder / "out", order={"kind": "Shuffle"}, output={"name": "one"})
    dsort(manifest, workers=2, memory=LEAST, network=True)
    with tarfile.open(fast_folder / "out" / "one.tar") as archive:
        names = archive.getnames()
    expected = sorted(range(5000), key=lambda number: shuffle_key(0, number, 0))
    assert names == [f"{number:06d}.txt" for number in expected]
