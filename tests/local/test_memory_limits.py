"""Ranks in control groups with the memory of a small pod: they finish, with the same bytes, within their budget."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.datasets import KINDS, Dataset, make
from dsort_api.messages import Observed
from dsort_api.spec import LEAST_BUDGET
from dsort_worker.budget import divide
from tests.support.controlgroups import ControlGroup, disk_folder
from tests.support.pods import Pods
from tests.support.running import digests, dsort, job

MIB: Final = 1 << 20
SHARDS: Final = {"images": 13, "small": 6, "pax": 6}
"""0.2 to 0.4 GB of each kind: several times the limits, with the output, so that the kernel has files to reclaim."""
SHARE: Final = 0.70
"""Of its limit that is a pod's budget by default."""
OVER: Final = 1.10
"""What a rank may take of its budget at its peak."""
LIMITS: Final = {"least": -(-LEAST_BUDGET * 10 // 7 // MIB) * MIB, "256": 256 * MIB, "512": 512 * MIB}
MOST_FLOWS: Final = 8 + 4
"""Answers that a rank asks for at once, and that it gives; the kernel counts twice the bytes of a buffer."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("control_groups")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On a disk: what lies in memory is charged to the groups, and cannot be reclaimed."""
    with disk_folder() as folder:
        yield folder


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset, and the output that any rank has to make of it."""

    dataset: Dataset
    wanted: dict[str, str]


@pytest.fixture(scope="module", params=list(SHARDS))
def case(folder: Path, request: pytest.FixtureRequest) -> Case:
    """Made once each, and sorted once without any limit."""
    kind: str = request.param
    dataset = make(KINDS[kind], cache=str(folder), shards=SHARDS[kind])
    target = folder / f"wanted-{kind}"
    assert dsort(shuffle(dataset, target), workers=1).code == 0
    return Case(dataset, digests(target))


def shuffle(dataset: Dataset, target: Path, *, short_circuit: bool = True, **more: Any) -> dict[str, Any]:
    return job(
        Path(dataset.folder),
        target,
        order={"kind": "Shuffle", "seed": 42},
        output={"recordsPerShard": dataset.kind.records_per_shard},
        workers={"shortCircuit": short_circuit},
        **more,
    )


@contextlib.contextmanager
def groups(limit: int, *, count: int) -> Iterator[list[ControlGroup]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ControlGroup(limit=limit)) for _ in range(count)]


def test_the_least_pod_is_small() -> None:
    assert LIMITS["least"] <= 160 * MIB


@pytest.mark.parametrize("mode", ["short circuit", "network"])
@pytest.mark.parametrize("limit", list(LIMITS))
def test_a_small_pod_finishes_within_its_budget(case: Case, limit: str, mode: str) -> None:
    budget = int(LIMITS[limit] * SHARE)
    with disk_folder() as folder, groups(LIMITS[limit], count=2) as pods:
        manifest = shuffle(case.dataset, folder / "out", short_circuit=mode == "short circuit")
        with Pods(
            manifest, folder / "pods", budget=budget, within=lambda index, line: pods[index].command(line)
        ) as running:
            running.start_all()
            assert [one.code for one in running.end_all()] == [0, 0]
        assert digests(folder / "out") == case.wanted
    for group in pods:
        assert group.oom_kills == 0
        assert group.samples > 20
        assert group.most_in_sockets <= MOST_FLOWS * 2 * divide(budget).socket
        assert group.peak.unreclaimable <= OVER * max(budget, LEAST_BUDGET), group.peak
    sent = sum(one.progress.bytes_sent for one in running.observed.values())
    assert (sent > case.dataset.size / 3) == (mode == "network"), "payload on the wire"


def forget(folder: str) -> None:
    """Have the kernel drop its pages of these files: whoever reads them next is charged for them."""
    for entry in os.scandir(folder):
        with open(entry.path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("case", ["images"], indirect=True)
def test_pages_of_files_hold_nobody_back(case: Case) -> None:
    """More than three times the limit, of which the group has read a part often enough for the kernel to call it active."""
    limit = 128 * MIB
    assert case.dataset.size > 3 * limit
    levels: list[tuple[int, int, int]] = []

    def hear(one: Observed) -> None:
        levels.append((one.flow.level, one.memory.unreclaimable, one.memory.working_set))

    with disk_folder() as folder, groups(limit, count=1) as (group,):
        forget(case.dataset.folder)
        shards = [os.path.join(case.dataset.folder, name) for name in sorted(os.listdir(case.dataset.folder))]
        subprocess.run(
            group.command(["cat", *shards, *shards[-2:] * 4]), stdout=subprocess.DEVNULL, check=True
        )
        marks = {"throttleAt": "60%", "resumeAt": "55%"}  # of which the kubelet's count is above both
        manifest = shuffle(case.dataset, folder / "out", memory=marks)
        with Pods(
            manifest,
            folder / "pods",
            pods=1,
            budget=int(limit * SHARE),
            within=lambda _, line: group.command(line),
            hear=hear,
        ) as running:
            running.start_all()
            assert running.end(0).code == 0
        assert digests(folder / "out") == case.wanted
    assert group.oom_kills == 0
    assert group.most > 0.98 * limit, "the kernel had no need to reclaim anything"
    assert group.most_working_set > 0.6 * limit, "by the kubelet's count it would not be held back, either"
    assert {level for level, _, _ in levels} == {0}
    assert 0 < max(unreclaimable for _, unreclaimable, _ in levels) < 0.5 * limit
    assert max(working_set for _, _, working_set in levels) > 0.6 * limit
