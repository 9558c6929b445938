"""A rank whose control group runs short of memory: it holds back by itself, at once, and gets its work done in any case."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dsort_api.messages import HIGHEST_LEVEL
from tests.support.controlgroups import ControlGroup
from tests.support.gates import Gate
from tests.support.pods import Pods
from tests.support.reference import expected_shards
from tests.support.running import check_result, contents, job, wait_until

MIB = 1 << 20
LIMIT = 400 * MIB
ORDER = {"kind": "Shuffle", "seed": 11}
OUTPUT = {"recordsPerShard": 12}
HOG = """
import mmap, sys
from dsort_worker.memory import read
kept = []
for line in sys.stdin:
    percent = float(line)
    while read().percent < percent:
        kept.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        kept[-1].write(bytes(1 << 20))
    if not percent:
        kept.clear()
    print(flush=True)
"""
"""Fills its group up to a percentage of the limit; 0 gives all back."""

pytestmark = pytest.mark.usefixtures("control_groups")


@contextmanager
def hog(group: ControlGroup) -> Iterator[Callable[[int], None]]:
    line = group.command([sys.executable, "-c", HOG])
    with subprocess.Popen(line, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def fill(percent: int) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{percent}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "\n"

        try:
            yield fill
        finally:
            process.kill()


@pytest.mark.parametrize("relieved", [True, False], ids=["for a while", "to the end"])
def test_a_rank_holds_back_while_memory_is_short_and_the_bytes_are_the_same(
    source: Path, shards: list[Path], tmp_path: Path, *, relieved: bool
) -> None:
    manifest: dict[str, Any] = job(
        source, tmp_path / "out", order=ORDER, output=OUTPUT, workers={"shortCircuit": False}
    )
    gate = Gate(tmp_path / "gate", "Create", 0)
    with (
        ControlGroup(limit=LIMIT) as group,
        hog(group) as fill,
        Pods(
            manifest,
            tmp_path / "pods",
            budget=64 * MIB,
            within=lambda index, line: group.command(line) if index == 0 else line,
        ) as pods,
    ):
        pods.start_all({0: gate.environment})
        gate.reached()
        assert pods.observed[0].flow.level == 0
        fill(90)
        wait_until(lambda: pods.observed[0].flow.level == HIGHEST_LEVEL, what="the highest level")
        memory = pods.observed[0].memory
        assert memory.limit == LIMIT
        assert 0.85 * LIMIT < memory.unreclaimable <= memory.peak_unreclaimable <= LIMIT
        assert memory.rss < LIMIT / 2, "it is the group that counts, not the rank alone"
        assert pods.observed[1].flow.level == 0, "the other has memory"
        if relieved:
            fill(0)
            wait_until(lambda: pods.observed[0].flow.level == 0, what="full speed")
            assert pods.observed[0].memory.peak_unreclaimable > 0.85 * LIMIT
        gate.open()
        assert [one.code for one in pods.end_all()] == [0, 0]
    assert group.oom_kills == 0
    assert contents(tmp_path / "out") == expected_shards(shards, order=ORDER, output=OUTPUT)
    check_result(tmp_path / "out")
