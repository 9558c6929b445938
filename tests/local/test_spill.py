"""Many tiny records and little memory: rows go to disk, and nothing else is different."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from dsort_api.reasons import EXIT_CODES, Reason
from dsort_worker.budget import LEAST_BUDGET, divide
from dsort_worker.rows import ROW_COST
from tests.support.controlgroups import ControlGroup, disk_folder
from tests.support.gates import Gate
from tests.support.pods import Pods
from tests.support.running import comparable, digests, dsort, job, left_in
from tests.support.tinyshards import make_tiny_shards

MIB: Final = 1 << 20
SHARDS: Final = 12
RECORDS: Final = 10_000
"""In each of them: of the ranks that any test here has none can hold its part with the least budget."""
MANY: Final = 600_000
"""Records of which the rows would not fit into the least pod."""
PODS: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "None": ({"kind": "None"}, 2),
    "Shuffle": ({"kind": "Shuffle", "seed": 3}, 3),
    "Key": ({"kind": "Key"}, 2),
    "Key, descending": ({"kind": "Key", "descending": True}, 3),
    "MD5": ({"kind": "MD5"}, 1),
}
"""Order, and number of ranks."""

pytestmark = pytest.mark.slow


def of(source: Path, target: Path, order: dict[str, Any], **more: Any) -> dict[str, Any]:
    return job(source, target, order=order, records={"collisions": "Ignore"}, **more)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Shards, and what becomes of them where there is memory for everything."""

    source: Path
    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def wanted(self, order: dict[str, Any], **more: Any) -> Path:
        name = repr((order, more))
        if name not in self._made:
            target = self.folder / f"wanted-{len(self._made)}"
            assert dsort(of(self.source, target, order, **more), workers=1, memory="2Gi").code == 0
            self._made[name] = target
        return self._made[name]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_shards(folder / "in", shards=SHARDS, records=RECORDS)
    return Inputs(folder / "in", folder)


def test_the_least_budget_does_not_hold_a_third_of_the_records() -> None:
    assert divide(LEAST_BUDGET).rows < SHARDS * RECORDS * ROW_COST / 3


@pytest.mark.parametrize("exchange", ["short circuit", "network"])
@pytest.mark.parametrize("kind", list(PODS))
def test_the_least_budget_makes_the_same_bytes(
    inputs: Inputs, tmp_path: Path, kind: str, exchange: str
) -> None:
    order, pods = PODS[kind]
    # Shards of a size that nothing divides evenly: ranks build the ends of shards that begin on others.
    output = {"shardSize": 7 * MIB + 512}
    wanted = inputs.wanted(order, output=output)
    manifest = of(inputs.source, tmp_path / "out", order, output=output)
    manifest["spec"]["workers"] = {"shortCircuit": exchange == "short circuit"}
    with Pods(manifest, tmp_path / "pods", pods=pods, budget=LEAST_BUDGET) as running:
        running.start_all()
        assert [one.code for one in running.end_all()] == [0] * pods
    assert digests(tmp_path / "out") == digests(wanted)
    assert comparable(tmp_path / "out") == comparable(wanted)
    rows = SHARDS * RECORDS * 40 / pods
    for one in running.observed.values():
        # Once by the scan, once merged; then, where there are others, as it comes and merged again.
        assert one.memory.spilled > rows * 1.5
    assert [left_in(tmp_path / "pods" / f"scratch-{index}") for index in range(pods)] == [[]] * pods


@pytest.mark.parametrize("output", [{"shardCount": 1}, {"recordsPerShard": 9_999}])
def test_one_shard_of_all_records_and_many_of_few(
    inputs: Inputs, tmp_path: Path, output: dict[str, int]
) -> None:
    """The rows of all other ranks belong to the first one's only shard; none of the cells fits into memory."""
    order = {"kind": "Shuffle"}
    wanted = inputs.wanted(order, output=output)
    manifest = of(inputs.source, tmp_path / "out", order, output=output)
    with Pods(manifest, tmp_path / "pods", pods=3, budget=LEAST_BUDGET) as running:
        running.start_all()
        assert [one.code for one in running.end_all()] == [0, 0, 0]
    assert digests(tmp_path / "out") == digests(wanted)
    assert comparable(tmp_path / "out") == comparable(wanted)


def test_memory_for_everything_spills_nothing(inputs: Inputs, tmp_path: Path) -> None:
    manifest = of(inputs.source, tmp_path / "out", {"kind": "Key"}, output={"shardCount": 5})
    with Pods(manifest, tmp_path / "pods", budget=256 * MIB) as running:
        running.start_all()
        assert [one.code for one in running.end_all()] == [0, 0]
    assert [one.memory.spilled for one in running.observed.values()] == [0, 0]


@pytest.mark.usefixtures("control_groups")
@pytest.mark.timeout(400)
def test_however_many_records_there_are_a_small_pod_stays_within_its_budget() -> None:
    """With all rows in memory each of the two would take a half more than the budget."""
    limit = LEAST_BUDGET * 10 // 7
    assert MANY / 2 * ROW_COST > LEAST_BUDGET / 2
    with disk_folder() as folder, ControlGroup(limit=limit) as first, ControlGroup(limit=limit) as second:
        make_tiny_shards(folder / "in", shards=MANY // RECORDS, records=RECORDS)
        groups = (first, second)
        manifest = of(folder / "in", folder / "out", {"kind": "Key"}, output={"shardCount": 5})
        with Pods(
            manifest,
            folder / "pods",
            budget=LEAST_BUDGET,
            within=lambda index, line: groups[index].command(line),
        ) as running:
            running.start_all()
            assert [running.end(index, within=300).code for index in range(2)] == [0, 0]
        assert all(one.memory.spilled > MANY / 2 * 40 for one in running.observed.values())
    for group in groups:
        assert group.oom_kills == 0
        assert group.peak.unreclaimable <= 1.10 * LEAST_BUDGET, group.peak


@pytest.mark.parametrize("point", ["spilled", "merged"])
def test_a_rank_that_is_killed_while_it_spills_is_replaced(
    inputs: Inputs, tmp_path: Path, point: str
) -> None:
    order, output = {"kind": "Key"}, {"shardCount": 5}
    wanted = inputs.wanted(order, output=output)
    gate = Gate(tmp_path / "gate", point, 1)
    manifest = of(inputs.source, tmp_path / "out", order, output=output)
    with Pods(manifest, tmp_path / "pods", budget=LEAST_BUDGET) as running:
        running.start_all({1: gate.environment})
        os.kill(gate.reached(), signal.SIGKILL)
        assert running.end(1).code in {-signal.SIGKILL, 128 + signal.SIGKILL}
        assert left_in(tmp_path / "pods" / "scratch-1") == []  # nothing to clean up, however it ends
        gate.open()
        running.start(1)
        assert [one.code for one in running.end_all()] == [0, 0]
    assert digests(tmp_path / "out") == digests(wanted)
    assert running.observed[1].memory.spilled > 0


def _mounts() -> bool:
    """Whether this user may mount a file system that nobody else sees."""
    if shutil.which("unshare") is None:
        return False
    line = [*_apart(), "mount -t tmpfs none /mnt"]
    return subprocess.run(line, check=False, capture_output=True, timeout=20).returncode == 0


def _apart() -> list[str]:
    return ["unshare", "-m" if os.getuid() == 0 else "-rm", "sh", "-c"]


@pytest.mark.skipif(not _mounts(), reason="this user may not mount file systems")
def test_a_full_scratch_folder_is_named_with_what_to_do(inputs: Inputs, tmp_path: Path) -> None:
    scratch = tmp_path / "pods" / "scratch-1"

    def small(index: int, line: list[str]) -> list[str]:
        """Pod 1 has a scratch volume of one MiB."""
        if index == 0:
            return line
        return [*_apart(), f'mount -t tmpfs -o size=1m none {scratch} && exec "$0" "$@"', *line]

    manifest = of(inputs.source, tmp_path / "out", {"kind": "Key"}, output={"shardCount": 5})
    with Pods(manifest, tmp_path / "pods", budget=LEAST_BUDGET, within=small) as running:
        running.start(0)
        running.start(1)
        running.drive()
        ended = running.end(1)
        running.processes[0].terminate()
        running.end(0)
    assert ended.code == EXIT_CODES[Reason.OUTPUT_UNWRITABLE]
    message = ended.words["message"]
    assert message.startswith(f"scratch folder {scratch}: No space left on device; ")
    assert "--scratch" in message
    assert "memory budget" in message
