"""What a rank allocates beside its budget's buffers: little, and no more of it for larger records, shards and bodies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks import drive
from dsort_api.messages import JobDefinition
from dsort_api.spec import DSortJob
from tests.support.datasets import Item, write_tar
from tests.support.measuring import unmeasured
from tests.support.running import PATIENCE, ROOT, check_result, job

MIB = 1 << 20
BUDGET = 96 * MIB
RECORDS = 150
SHARDS = 8


def traced(folder: Path, *, record: int) -> list[dict[str, Any]]:
    """What two ranks that exchange everything over the network see of their allocations. record: bytes."""
    payload = os.urandom(record)
    for shard in range(SHARDS):
        names = (f"{shard}/{number:04d}.bin" for number in range(RECORDS))
        write_tar(folder / "in" / f"{shard}.tar", (Item(name, payload) for name in names))
    manifest = job(
        folder / "in",
        folder / "out",
        order={"kind": "Shuffle", "seed": 1},
        output={"recordsPerShard": RECORDS},
        workers={"shortCircuit": False},
    )
    spec = DSortJob.model_validate(manifest).spec
    definition = JobDefinition(id="traced", name="traced", spec=spec, ranks=2).model_dump_json(by_alias=True)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.tracedrank", str(rank)],
            cwd=ROOT,
            env=unmeasured(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write(definition)
            rank.stdin.close()
        urls = [rank.stdout.readline().strip() for rank in ranks if rank.stdout]
        drive(urls, budget=BUDGET)
        ends = [json.loads(rank.stdout.readline()) for rank in ranks if rank.stdout]
        assert [rank.wait(PATIENCE) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            assert rank.stdout is not None
            rank.stdout.close()
    check_result(folder / "out")
    return ends


@pytest.mark.slow
def test_nothing_beside_the_buffers_is_large_or_grows_with_records_shards_and_bodies(tmp_path: Path) -> None:
    """Shards of 6 and of 48 MB, records of 40 and of 320 KB: bodies of several MB in either case."""
    small = traced(tmp_path / "small", record=40_000)
    large = traced(tmp_path / "large", record=320_000)
    for one in (*small, *large):
        assert one["looks"] > 2
        assert one["largest"] <= MIB + 4096, one  # with the header of a Python object
    for before, after in zip(small, large, strict=True):
        assert after["peak"] <= before["peak"] + MIB, (before, after)
