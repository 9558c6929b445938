"""However a run ends, by a signal, a dead rank or a kill, it leaves a whole result or nothing (case 8, the last lines)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsort_api.reasons import EXIT_CODES, Reason
from tests.support.controlgroups import ControlGroup
from tests.support.datasets import make_shards
from tests.support.gates import PHASES, Gate
from tests.support.reference import expected_shards
from tests.support.running import (
    PATIENCE,
    Command,
    check_ended,
    check_result,
    children_of,
    contents,
    dsort,
    findings_in,
    job,
    left_in,
    manifest_of,
    wait_until,
)

ORDER = {"kind": "Shuffle", "seed": 11}
OUTPUT = {"recordsPerShard": 12}
POINTS = [(point, rank) for point in (*PHASES, "committed", "published") for rank in (0, 1)] + [
    ("manifest", 0)
]
"""Everywhere that a rank can be met before there is a result."""
WRITTEN = ("written", 0)
"""Just behind."""
EACH_POINT = [pair for index, pair in enumerate(POINTS) if pair[1] == index // 2 % 2 or pair[0] == "manifest"]
"""Every point once, met by the one rank or the other."""


def shuffle(source: Path, target: Path, **more: Any) -> dict[str, Any]:
    return job(source, target, order=ORDER, output=OUTPUT, **more)


@pytest.fixture(scope="module")
def wanted(shards: list[Path]) -> list[bytes]:
    return expected_shards(shards, order=ORDER, output=OUTPUT)


# ------------------------------------------------------------------------------------------------------ Ctrl-C (case 8)


@pytest.mark.parametrize(("point", "rank"), [*EACH_POINT, WRITTEN])
def test_case_8_cancel_in_each_phase_leaves_nothing(
    source: Path, tmp_path: Path, point: str, rank: int
) -> None:
    manifest = shuffle(source, tmp_path / "made" / "out")
    gate = Gate(tmp_path / "gate", point, rank)
    with Command(manifest, {"workers": 2, "network": rank == 1}, gate.environment) as command:
        gate.reached()
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does: to every process
        gate.open()
        run = command.end(within=30)
    assert run.code in {130, 0}
    if run.code == 0:  # the ranks were publishing, and were done before the order to stop reached them
        assert point in {"Publish", "published", "manifest", "written"}
        check_result(tmp_path / "made" / "out")
        return
    assert "SIGINT" in run.error
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("moment", ["its first child is there", "its ranks are asked for"])
def test_case_8_cancel_right_after_start_leaves_nothing(source: Path, tmp_path: Path, moment: str) -> None:
    with Command(shuffle(source, tmp_path / "out"), {"workers": 3}) as command:
        if moment == "its first child is there":
            wait_until(lambda: children_of(command.process.pid), what="a child")
        else:
            command.until("started")
        os.killpg(command.process.pid, signal.SIGINT)
        run = command.end(within=30)
    assert run.code == 130
    assert not (tmp_path / "out").exists()


def test_case_8_sigterm_ends_a_run_as_ctrl_c_does(source: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Create")
    with Command(shuffle(source, tmp_path / "out"), {"workers": 2}, gate.environment) as command:
        gate.reached()
        command.process.terminate()
        gate.open()
        run = command.end(within=30)
    assert run.code == 143
    assert "SIGTERM" in run.error
    assert not (tmp_path / "out").exists()


def test_case_8_a_rank_that_hangs_is_killed_and_a_second_ctrl_c_does_it_at_once(
    source: Path, tmp_path: Path
) -> None:
    seconds = []
    for signals in (1, 2):
        gate = Gate(tmp_path / f"gate{signals}", "Create", 1)
        with Command(shuffle(source, tmp_path / "out"), {"workers": 2}, gate.environment) as command:
            gate.reached()  # and it stays there: the gate is not opened
            began = time.monotonic()
            for _ in range(signals):
                os.killpg(command.process.pid, signal.SIGINT)
                command.until("progress")
            run = command.end(within=40)
            seconds.append(time.monotonic() - began)
        gate.open()
        assert run.code == 130
        assert not (tmp_path / "out").exists()
    assert seconds[1] < seconds[0]


def test_files_of_others_in_the_output_folder_survive_a_cancel(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    gate = Gate(tmp_path / "gate", "published")
    with Command(shuffle(source, target), {"workers": 2}, gate.environment) as command:
        gate.reached()
        assert len(left_in(target)) > 1
        command.process.send_signal(signal.SIGINT)
        gate.open()
        run = command.end(within=30)
    if run.code:
        assert left_in(target) == ["notes.txt"]
    assert (target / "notes.txt").read_text() == "mine"


# ---------------------------------------------------------------------------------------------------- a rank is killed


@pytest.mark.parametrize(("point", "rank"), [*POINTS, WRITTEN])
def test_a_rank_killed_in_each_phase_is_replaced_and_the_bytes_are_equal(
    source: Path, wanted: list[bytes], tmp_path: Path, point: str, rank: int
) -> None:
    gate = Gate(tmp_path / "gate", point, rank)
    with Command(
        shuffle(source, tmp_path / "out"), {"workers": 2, "network": rank == 1}, gate.environment
    ) as command:
        os.kill(gate.reached(), signal.SIGKILL)
        gate.open()
        run = command.end()
    assert run.result["restarts"] >= 1
    assert contents(tmp_path / "out") == wanted
    check_result(tmp_path / "out")


def test_two_of_three_ranks_killed_are_replaced(source: Path, wanted: list[bytes], tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Create", 0)
    with Command(
        shuffle(source, tmp_path / "out"), {"workers": 3, "network": True}, gate.environment
    ) as command:
        held = gate.reached()
        for pid in sorted(command.ranks(3), key=lambda pid: pid == held)[1:]:
            os.kill(pid, signal.SIGKILL)
        gate.open()
        run = command.end()
    assert run.result["restarts"] >= 2
    assert contents(tmp_path / "out") == wanted
    check_result(tmp_path / "out")


def test_a_rank_0_that_is_replaced_names_what_is_missing_again(source: Path, tmp_path: Path) -> None:
    missing = {"shards": ["in-{0000..0006}.tar"], "missingShards": "Warn"}
    manifest = shuffle(source, tmp_path / "out", input=missing)
    gate = Gate(tmp_path / "gate", "Scan", 0)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        os.kill(gate.reached(), signal.SIGKILL)
        gate.open()
        run = command.end()
    assert run.result["restarts"] == 1
    names = ["in-0005.tar", "in-0006.tar"]
    assert run.warnings[:2] == [f"shard {name}: is missing" for name in names]
    assert [finding["shard"] for finding in findings_in(tmp_path / "out")] == names


def test_too_many_deaths_fail_the_job_and_the_next_run_continues(
    source: Path, wanted: list[bytes], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    manifest = shuffle(source, target, backoffLimit=0)
    gate = Gate(tmp_path / "gate", "committed", 1)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        os.kill(gate.reached(), signal.SIGKILL)
        gate.open()
        run = command.end()
    assert run.code == EXIT_CODES[Reason.BACKOFF_LIMIT_EXCEEDED]
    assert "SIGKILL" in run.error
    assert [name for name in left_in(target) if not name.startswith(".dsort")] == []
    committed = {path.stat().st_ino for path in (target / ".dsort").glob("*/stage/*")}
    assert committed
    again = dsort(manifest, workers=2)
    assert again.result["state"] == "Complete"
    assert contents(target) == wanted
    assert {path.stat().st_ino for path in target.glob("*.tar")} & committed, "nothing was taken over"


HOG = """
import mmap
from dsort_worker.cgroup import oom_kills
kept = []
while not oom_kills():
    kept.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    kept[-1].write(bytes(1 << 20))
"""
"""Takes memory until the kernel has killed somebody."""


@pytest.mark.usefixtures("control_groups")
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_rank_killed_for_want_of_memory_is_replaced_with_less_or_says_what_to_change(
    source: Path, wanted: list[bytes], tmp_path: Path, restarts: int
) -> None:
    gate = Gate(tmp_path / "gate", "Create", 1)
    manifest = shuffle(source, tmp_path / "out", backoffLimit=restarts)
    with (
        ControlGroup(limit=800 << 20) as group,
        Command(manifest, {"workers": 2, "memory": "80Mi"}, gate.environment, group.command) as command,
    ):
        Path(f"/proc/{gate.reached()}/oom_score_adj").write_text("1000")
        hog = subprocess.run(group.command([sys.executable, "-c", HOG]), check=False, timeout=PATIENCE)
        assert hog.returncode in {
            0,
            -signal.SIGKILL,
        }  # the largest of all, it may be killed as well, after the rank
        gate.open()
        run = command.end()
    if restarts:
        (event,) = [event for event in run.events if event["event"] == "restarted"]
        assert event["how"] == "was killed for want of memory, and has a budget of 64.00 MiB now"
        assert contents(tmp_path / "out") == wanted
    else:
        assert run.code == EXIT_CODES[Reason.MEMORY_LIMIT_EXCEEDED]
        assert run.error.startswith(
            "rank 1 was killed for want of memory, as often as spec.backoffLimit allows"
        )
        assert dsort(manifest, workers=1).result["state"] == "Complete"


def test_a_nursery_that_is_killed_ends_the_run_in_words(
    source: Path, wanted: list[bytes], tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate", "Create", 0)
    with Command(shuffle(source, tmp_path / "out"), {"workers": 2}, gate.environment) as command:
        gate.reached()
        (nursery,) = children_of(command.process.pid)
        os.kill(nursery, signal.SIGKILL)
        run = command.end()
    assert run.code == 1
    assert "forked from" in run.error
    assert dsort(shuffle(source, tmp_path / "out")).result["state"] == "Complete"
    assert contents(tmp_path / "out") == wanted


# ------------------------------------------------------------------------------------------------ the run is killed


@pytest.mark.parametrize(("point", "rank"), EACH_POINT)
def test_a_run_killed_in_each_phase_is_completed_by_the_next(
    source: Path, wanted: list[bytes], tmp_path: Path, point: str, rank: int
) -> None:
    target = tmp_path / "out"
    gate = Gate(tmp_path / "gate", point, rank)
    with Command(shuffle(source, target), {"workers": 2}, gate.environment) as command:
        gate.reached()
        command.process.kill()
        command.end()
    gate.open()
    assert not (target / "dsort-manifest.json").exists()
    # Another number of ranks is no other job.
    run = dsort(shuffle(source, target), workers=2 if rank else 3)
    assert run.result["state"] == "Complete"
    assert contents(target) == wanted
    check_result(target)


def killed_when_written(manifest: dict[str, Any], folder: Path) -> None:
    """Run the job, and kill it when its manifest is there and what it staged is, too."""
    gate = Gate(folder, "written", 0)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        gate.reached()
        command.process.kill()
        command.end()
    gate.open()


def test_a_run_killed_at_its_very_end_is_complete_if_its_output_still_is(
    source: Path, wanted: list[bytes], tmp_path: Path
) -> None:
    manifest, target = shuffle(source, tmp_path / "out"), tmp_path / "out"
    killed_when_written(manifest, tmp_path / "gate")
    assert dsort(manifest, workers=2).result["state"] == "AlreadyComplete"
    assert contents(target) == wanted
    check_result(target)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_its_very_end_whose_output_was_damaged_since_is_not_complete(
    source: Path, tmp_path: Path, workers: int
) -> None:
    manifest, target = shuffle(source, tmp_path / "out"), tmp_path / "out"
    killed_when_written(manifest, tmp_path / "gate")
    (target / "out-000003.tar").unlink()
    run = dsort(manifest, workers=workers)
    assert run.code == EXIT_CODES[Reason.VERIFICATION_FAILED]
    assert "out-000003.tar: is missing" in run.error


def test_a_result_that_was_moved_away_is_made_again_whatever_was_left_of_its_run(
    source: Path, wanted: list[bytes], tmp_path: Path
) -> None:
    manifest, target = shuffle(source, tmp_path / "out"), tmp_path / "out"
    killed_when_written(manifest, tmp_path / "gate")
    (tmp_path / "elsewhere").mkdir()
    for path in target.iterdir():
        if path.name != ".dsort":
            path.rename(tmp_path / "elsewhere" / path.name)
    assert dsort(manifest, workers=2).result["state"] == "Complete"
    assert contents(target) == contents(tmp_path / "elsewhere") == wanted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_check_of_an_earlier_result_that_is_broken_off_says_nothing_of_it(
    source: Path, wanted: list[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    manifest, target = shuffle(source, tmp_path / "out"), tmp_path / "out"
    dsort(manifest, workers=2)
    (target / "out-000003.tar").unlink()
    gate = Gate(tmp_path / "gate", "List", 0)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        gate.reached()
        command.process.send_signal(number)
        gate.open()
        run = command.end(within=30)
    assert run.code == 128 + number
    assert number.name in run.error
    assert contents(target) == wanted[:3] + wanted[4:]
    assert (target / "dsort-manifest.json").exists()


def test_what_a_killed_run_left_is_taken_back_by_the_next_job_of_another_spec(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    gate = Gate(tmp_path / "gate", "published", 1)
    with Command(shuffle(source, target), {"workers": 2}, gate.environment) as command:
        gate.reached()
        command.process.kill()
        command.end()
    gate.open()
    assert list(target.glob("*.tar"))
    other = job(source, target, output={"name": "other-%03d", "shardCount": 3})
    assert dsort(other, workers=2).result["shards"] == 3
    assert sorted(left_in(target)) == ["dsort-manifest.json", *(f"other-{n:03d}.tar" for n in range(3))]


# ------------------------------------------------------------------------------------------------------ other endings


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(512))


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def replaced(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes()[::-1])
    new.rename(path)


@pytest.mark.parametrize(
    "change", [appended, rewritten, replaced, Path.unlink], ids=lambda change: change.__name__
)
@pytest.mark.parametrize(
    ("point", "network"), [("Scan", False), ("Create", False), ("Create", True), ("Publish", False)]
)
def test_an_input_that_changed_mid_job_fails_it(
    tmp_path: Path, change: Callable[[Path], None], point: str, network: bool
) -> None:
    paths = make_shards(tmp_path / "in", shards=4, records=20)
    manifest = shuffle(tmp_path / "in", tmp_path / "out")
    gate = Gate(tmp_path / "gate", point, 0)
    with Command(manifest, {"workers": 2, "network": network}, gate.environment) as command:
        gate.reached()
        change(paths[0] if point == "Scan" else paths[3])
        gate.open()
        run = command.end()
    assert run.code == EXIT_CODES[Reason.INPUT_CHANGED], run
    assert "in-000" in run.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("network", [False, True])
def test_an_input_that_changed_while_a_slower_rank_still_read_it_fails_the_job(
    tmp_path: Path, network: bool
) -> None:
    """Though the rank whose share it is has written all of its own shards before."""
    paths = make_shards(tmp_path / "in", shards=4, records=20)
    manifest = job(tmp_path / "in", tmp_path / "out", output={"recordsPerShard": 20})
    gate = Gate(tmp_path / "gate", "Create", 0)
    with Command(manifest, {"workers": 2, "network": network}, gate.environment) as command:
        gate.reached()
        # Two of four shards: it needs nothing of rank 0 for them.
        wait_until(lambda: len(list((tmp_path / "out").glob(".dsort/*/commits/*.json"))) == 2, what="rank 1")
        rewritten(paths[3])
        gate.open()
        run = command.end()
    assert run.code == EXIT_CODES[Reason.INPUT_CHANGED], run
    assert "in-0003.tar changed while the job ran" in run.error
    assert not (tmp_path / "out").exists()


def test_a_corrupt_input_that_was_left_out_and_has_changed_since_fails_the_job(tmp_path: Path) -> None:
    paths = make_shards(tmp_path / "in", shards=4, records=20)
    paths[1].write_bytes(b"no archive")
    manifest = shuffle(tmp_path / "in", tmp_path / "out", records={"corruptShards": "Warn"})
    gate = Gate(tmp_path / "gate", "Create", 0)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        gate.reached()
        replaced(paths[1])
        gate.open()
        run = command.end()
    assert run.code == EXIT_CODES[Reason.INPUT_CHANGED], run
    assert "in-0001.tar changed while the job ran" in run.error


def test_a_deadline_ends_the_job(source: Path, tmp_path: Path) -> None:
    manifest = shuffle(source, tmp_path / "out", activeDeadlineSeconds=2)
    gate = Gate(tmp_path / "gate", "Order", 1)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        run = command.end(within=60)  # it would wait at the gate for ever, or had not come so far
    gate.open()
    assert run.code == EXIT_CODES[Reason.DEADLINE_EXCEEDED]
    assert "activeDeadlineSeconds" in run.error
    assert [name for name in left_in(tmp_path / "out") if not name.startswith(".dsort")] == []


def test_the_same_job_again_after_success_says_so(source: Path, tmp_path: Path) -> None:
    manifest = shuffle(source, tmp_path / "out")
    first = dsort(manifest, workers=2)
    files = {path.name: path.stat() for path in (tmp_path / "out").iterdir()}
    again = dsort(manifest, workers=1, memory="64Mi")
    assert (first.result["state"], again.result["state"]) == ("Complete", "AlreadyComplete")
    assert again.result["records"] == first.result["records"] == 200
    assert {path.name: path.stat() for path in (tmp_path / "out").iterdir()} == files
    in_words = dsort(manifest, more=())
    assert "already complete" in in_words.stdout
    assert in_words.code == 0


def test_the_same_job_again_finds_its_output_beside_its_input(tmp_path: Path) -> None:
    make_shards(tmp_path, shards=3, records=20)
    manifest = shuffle(tmp_path, tmp_path, input={"shards": ["in-{0000..0002}.tar"]})
    first, again = (dsort(manifest, check=False, workers=2) for _ in range(2))
    assert (first.result["state"], again.result["state"]) == ("Complete", "AlreadyComplete")


def test_the_same_job_again_checks_the_output(source: Path, tmp_path: Path) -> None:
    manifest = shuffle(source, tmp_path / "out")
    dsort(manifest)
    with (tmp_path / "out" / "out-000003.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"\xff\x00\xff")
    run = dsort(manifest)
    assert run.code == EXIT_CODES[Reason.VERIFICATION_FAILED]
    assert "out-000003.tar" in run.error


def test_a_job_that_runs_already_is_busy(source: Path, wanted: list[bytes], tmp_path: Path) -> None:
    manifest = shuffle(source, tmp_path / "out")
    gate = Gate(tmp_path / "gate", "Create", 0)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        gate.reached()
        second = dsort(manifest, check=False)
        assert second.code == EXIT_CODES[Reason.JOB_BUSY]
        assert "another process" in second.error
        gate.open()
        assert command.end().result["state"] == "Complete"
    assert contents(tmp_path / "out") == wanted


def test_progress_is_seen_by_phase_and_ends_with_a_result(source: Path, tmp_path: Path) -> None:
    manifest = shuffle(source, tmp_path / "out")
    gate = Gate(tmp_path / "gate", "Publish", 0)
    with Command(manifest, {"workers": 2}, gate.environment) as command:
        gate.reached()
        assert command.until("started")["ranks"] == 2
        gate.open()
        run = command.end()
    kinds = [event["event"] for event in run.events]
    assert kinds[-1] == "result"
    assert set(kinds) <= {"progress", "result"}
    assert len(run.result["peakRss"]) == 2
    assert manifest_of(tmp_path / "out")["run"]["ranks"] == 2
    check_ended(manifest, run)
