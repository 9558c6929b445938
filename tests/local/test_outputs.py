"""Shards as the packing rules say, the plan, verify and clean, with real ranks (cases 13, 17)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import Item, write_tar
from tests.support.gates import Gate
from tests.support.reference import expected_shards
from tests.support.running import Command, House, contents, job, left_in, manifest_of, shards_in


@pytest.mark.parametrize("name", ["part-{00..10}", "part-@10.tar", "p{0..10}-x"])
def test_case_13_as_many_shards_as_the_name_has_numbers(
    house: House, source: Path, shards: list[Path], tmp_path: Path, name: str
) -> None:
    house.run(job(source, tmp_path / "out", order={"kind": "Shuffle"}, output={"name": name}), workers=3)
    assert len(shards_in(tmp_path / "out")) == 11
    found = [
        path.read_bytes()
        for _, path in sorted(shards_in(tmp_path / "out").items(), key=lambda entry: number_in(entry[0]))
    ]
    assert found == expected_shards(shards, order={"kind": "Shuffle"}, output={"shardCount": 11})


def number_in(name: str) -> int:
    return int("".join(char for char in name if char.isdigit()))


def test_ranges_of_names_multiply_the_rightmost_fastest(
    house: House, source: Path, shards: list[Path], tmp_path: Path
) -> None:
    house.run(
        job(source, tmp_path / "out", output={"name": "p{02..06..2}-{0..2}", "shardCount": 8}), workers=2
    )
    names = [
        "p02-0.tar",
        "p02-1.tar",
        "p02-2.tar",
        "p04-0.tar",
        "p04-1.tar",
        "p04-2.tar",
        "p06-0.tar",
        "p06-1.tar",
    ]
    assert list(shards_in(tmp_path / "out")) == names
    assert contents(tmp_path / "out") == expected_shards(shards, order={}, output={"shardCount": 8})


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_cells_without_records_make_no_gap_in_the_numbers(house: House, tmp_path: Path, workers: int) -> None:
    sizes = [100, 90_000, 100, 100, 200_000, 100]
    path = write_tar(
        tmp_path / "in" / "0.tar", [Item(f"{n}.bin", bytes(size)) for n, size in enumerate(sizes)]
    )
    house.run(job(tmp_path / "in", tmp_path / "out", output={"shardSize": "8Ki"}), workers=workers)
    expected = expected_shards([path], order={}, output={"shardSize": 8192})
    assert len(expected) == 3
    assert contents(tmp_path / "out") == expected
    assert list(shards_in(tmp_path / "out")) == [f"out-{n:06d}.tar" for n in range(3)]


PACKINGS: list[dict[str, Any]] = [
    {"shardSize": "100Ki"},
    {"recordsPerShard": 7},
    {"shardCount": 4},
    {"name": "x-{1..9}"},
]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: next(iter(packing)))
def test_the_plan_is_what_a_run_makes(
    house: House, source: Path, tmp_path: Path, packing: dict[str, Any]
) -> None:
    manifest = job(source, tmp_path / "out", order={"kind": "MD5"}, output=packing)
    planned = house.run(manifest, command="plan", workers=2)
    assert not (tmp_path / "out").exists()
    dry = house.run({**manifest, "spec": {**manifest["spec"], "dryRun": True}}, workers=3)
    assert not (tmp_path / "out").exists()
    house.run(manifest, workers=2)
    document = manifest_of(tmp_path / "out")
    wanted = [(shard["name"], shard["bytes"], shard["records"]) for shard in document["outputs"]]
    for run in (planned, dry):
        assert run.result["state"] == "Planned"
        shards = run.result["plan"]["shards"]
        assert [(shard["name"], shard["bytes"], shard["records"]) for shard in shards] == wanted
        counts = run.result["plan"]["counts"]
        assert counts["recordsIn"] == 200
        assert counts["shardsListed"] == document["counts"]["shardsListed"] > 0


def test_verify_takes_what_a_run_made_and_finds_what_was_changed(
    house: House, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    house.run(job(source, target, order={"kind": "Shuffle"}, output={"shardCount": 5}), workers=2)
    assert house.call(["verify", str(target)]).code == 0
    deep = house.call(["verify", str(target), "--deep", str(source), "--json"])
    assert deep.code == 0
    assert json.loads(deep.stdout)["comparedRecords"] == 200
    shard = target / "out-000002.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    for line in (["verify", str(target)], ["verify", f"file://{target}", "--deep", str(source)]):
        run = house.call(line)
        assert run.code == 15
        assert "out-000002.tar" in run.error


def test_clean_removes_what_a_dead_job_left(house: House, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    gate = Gate(tmp_path / "gate", "published", 0)
    with Command(job(source, target, output={"shardCount": 5}), {"workers": 2}, gate.environment) as command:
        gate.reached()
        busy = house.call(["clean", str(target)])
        assert busy.code == 16
        command.process.send_signal(signal.SIGKILL)
        command.end()
    gate.open()
    assert list(target.glob("*.tar"))
    assert house.call(["clean", str(target)]).code == 0
    assert left_in(target) == []
