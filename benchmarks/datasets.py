"""Benchmark datasets: the same bytes on every machine.

Three kinds, for three costs. `images` is payload: few large records. `small` is headers: many records of two small
members. `pax` is what webdataset and Ray write: an extended header before every member. A dataset of fewer shards is the
beginning of the larger one, since everything comes from one stream of random numbers.

    python -m benchmarks.datasets images small pax --shards 4 --cache DIR
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

_SEED: Final = 12345
_MTIME: Final = 1_700_000_000
_MTIME_IN_PAX: Final = _MTIME + 0.25
"""A fraction of a second does not fit a plain header: it forces the extended one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the records of a dataset look like. payload: least and greatest (excluded) bytes of the first member."""

    name: str
    shards: int
    records_per_shard: int
    payload: tuple[int, int]
    extension: str
    tar_format: int


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("images", 64, 322, (50_000, 150_000), "jpg", tarfile.USTAR_FORMAT),
        Kind("small", 32, 6250, (2_048, 6_144), "bin", tarfile.USTAR_FORMAT),
        Kind("pax", 32, 2000, (8_000, 24_000), "jpg", tarfile.PAX_FORMAT),
    )
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A made dataset: its folder holds the shards and nothing else."""

    kind: Kind
    folder: str
    shards: int
    size: int
    """Bytes of all shards."""

    @property
    def name(self) -> str:
        """`images`, or `images/8` when it is not of the usual number of shards."""
        return self.kind.name if self.shards == self.kind.shards else f"{self.kind.name}/{self.shards}"

    @property
    def records(self) -> int:
        """Records of all shards."""
        return self.shards * self.kind.records_per_shard


def make(kind: Kind, *, cache: str, shards: int | None = None) -> Dataset:
    """Make the dataset in the cache folder, or take what is there. shards: None for the kind's own number."""
    count = kind.shards if shards is None else shards
    folder = os.path.realpath(os.path.join(cache, f"{kind.name}-{count}"))
    if not os.path.isdir(folder):
        aside = f"{folder}.{os.getpid()}"
        os.makedirs(aside)
        for name, members in _shards(kind, count):
            with open(os.path.join(aside, name), "wb") as shard:
                _write_tar(shard, members, tar_format=kind.tar_format)
        os.rename(aside, folder)
    size = sum(entry.stat().st_size for entry in os.scandir(folder))
    return Dataset(kind=kind, folder=folder, shards=count, size=size)


def _shards(kind: Kind, count: int) -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
    random = np.random.Generator(np.random.PCG64(_SEED))
    for shard in range(count):
        yield f"in-{shard:05d}.tar", _members(kind, shard, random)


def _members(kind: Kind, shard: int, random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Names and payloads of one shard's members. The order of the calls of `random` is part of the dataset."""
    for record in range(kind.records_per_shard):
        key = f"s{shard:04d}_{record:06d}"
        yield f"{key}.{kind.extension}", random.bytes(int(random.integers(*kind.payload)))
        if kind.name == "images":
            caption = "c" * int(random.integers(40, 300))
            yield f"{key}.json", json.dumps({"key": key, "caption": caption, "h": 224}).encode()
        if kind.name == "pax":
            yield f"{key}.txt", b"c" * int(random.integers(40, 300))
        else:
            yield f"{key}.cls", str(int(random.integers(0, 1000))).encode()


def _write_tar(shard: io.BufferedWriter, members: Iterator[tuple[str, bytes]], *, tar_format: int) -> None:
    with tarfile.open(fileobj=shard, mode="w", format=tar_format) as archive:
        for name, payload in members:
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            member.mtime = _MTIME_IN_PAX if tar_format == tarfile.PAX_FORMAT else _MTIME
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(payload))


def default_cache() -> str:
    """Where datasets and results are kept: outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "dsort-bench")


def main() -> None:
    """Make datasets and say where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.datasets", description=__doc__.splitlines()[0]
    )
    parser.add_argument("kinds", nargs="+", choices=list(KINDS))
    parser.add_argument("--shards", type=int, help="fewer or more than the kind's own number")
    parser.add_argument("--cache", default=default_cache())
    options = parser.parse_args()
    for name in options.kinds:
        dataset = make(KINDS[name], cache=options.cache, shards=options.shards)
        print(f"{dataset.folder}: {dataset.shards} shards, {dataset.records} records, {dataset.size} bytes")


if __name__ == "__main__":
    main()
