"""Every reader of the field sees the same members in the output as in the input (item 2, case 12)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.datasets import (
    DIALECTS,
    Item,
    make_shards,
    odd_items,
    tarfile_bytes,
    without_times,
    write_tar,
)
from tests.support.readers import by_command, by_tarfile, by_webdataset
from tests.support.reference import expected_shards
from tests.support.running import House, contents, job, manifest_of, shards_in


@pytest.mark.parametrize("dialect", ["gnu", "pax"])
def test_item_2_readers_see_equal_multisets_of_path_sha256_mode_and_mtime(
    house: House, tmp_path: Path, gnu_tar: str, bsdtar: str, dialect: str
) -> None:
    paths = make_shards(tmp_path / "in", shards=3, records=20, dialect=dialect)
    house.run(
        job(tmp_path / "in", tmp_path / "out", order={"kind": "Shuffle"}, output={"recordsPerShard": 13}),
        workers=2,
    )
    outputs = list(shards_in(tmp_path / "out").values())
    before = by_tarfile(paths)
    assert before.total() == 180
    assert by_tarfile(outputs) == before
    assert by_command([gnu_tar, "-p", "--no-same-owner"], outputs) == before
    assert by_command([bsdtar, "-p", "--no-same-owner"], outputs) == before
    assert (
        by_webdataset(outputs)
        == by_webdataset(paths)
        == Counter(without_times(fact) for fact in before.elements())
    )


@pytest.mark.parametrize("network", [False, True], ids=["short-circuit", "network"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_case_12_dialects_survive_byte_for_byte(
    house: House, tmp_path: Path, gnu_tar: str, bsdtar: str, dialect: str, network: bool
) -> None:
    odd = odd_items(dialect)
    paths = [write_tar(tmp_path / "in" / "0.tar", odd, dialect=dialect)]
    paths.append(write_tar(tmp_path / "in" / "1.tar", [Item("other.txt", b"o", mtime=1)], dialect=dialect))
    before = by_tarfile(paths)
    assert before.total() == len(odd) + 1
    order = {"kind": "Key"}
    house.run(
        job(tmp_path / "in", tmp_path / "out", order=order, output={"recordsPerShard": 4}),
        workers=2,
        network=network,
    )
    assert contents(tmp_path / "out") == expected_shards(paths, order=order, output={"recordsPerShard": 4})
    outputs = list(shards_in(tmp_path / "out").values())
    assert by_tarfile(outputs) == before
    assert by_command([gnu_tar, "-p", "--no-same-owner"], outputs) == before
    assert by_command([bsdtar, "-p", "--no-same-owner"], outputs) == before


def test_case_12_archives_of_another_writer(house: House, tmp_path: Path) -> None:
    paths = []
    for number, layout in enumerate((0, 1, 2)):  # tarfile's USTAR, GNU and PAX
        names = ["ünïcode.txt", "p/" * 60 + "long.txt", "plain.a", "plain.b"]
        items = [
            Item(name, name.encode() * 50, mtime=1_700_000_000.25 if layout == 2 else 1) for name in names
        ]
        path = tmp_path / "in" / f"{number}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tarfile_bytes(items, layout=layout))
        paths.append(path)
    manifest = job(
        tmp_path / "in",
        tmp_path / "out",
        order={"kind": "MD5"},
        output={"shardCount": 2},
        records={"collisions": "Ignore"},
    )
    house.run(manifest, workers=3)
    assert contents(tmp_path / "out") == expected_shards(
        paths, order={"kind": "MD5"}, output={"shardCount": 2}
    )
    assert manifest_of(tmp_path / "out")["counts"]["membersOut"] == 12
