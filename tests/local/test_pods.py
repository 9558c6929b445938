"""The ranks of a job in pods: alone with their output, in lanes, ended in every phase, replaced, cleaned up after."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dsort_api.messages import Phase, Stop
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_cli.main import main
from dsort_worker.cgroup import groups
from dsort_worker.joblock import Hold, try_lock
from dsort_worker.lanes import Say, run_lanes
from tests.support.gates import PHASES, Gate
from tests.support.pods import Pods
from tests.support.reference import expected_shards
from tests.support.running import (
    check_result,
    children_of,
    contents,
    dsort,
    job,
    left_in,
    manifest_of,
    wait_until,
)

ORDER = {"kind": "Shuffle", "seed": 11}
OUTPUT = {"recordsPerShard": 12}
POINTS = [(point, index % 2) for index, point in enumerate((*PHASES, "committed", "published"))]
POINTS += [("manifest", 0)]
"""Everywhere that a rank can be met, and which of two."""
ENDS_WITHIN = 15.0
"""Seconds from SIGTERM to the end on a busy machine; a rank gives itself five."""


def shuffle(source: Path, target: Path, **more: Any) -> dict[str, Any]:
    return job(source, target, order=ORDER, output=OUTPUT, **more)


@pytest.fixture(scope="module")
def wanted(shards: list[Path]) -> list[bytes]:
    return expected_shards(shards, order=ORDER, output=OUTPUT)


def hidden(target: Path) -> list[str]:
    """What is in an output that is neither a result nor staged."""
    return [name for name in left_in(target) if not name.startswith(".dsort")]


# ------------------------------------------------------------------------------------------------------------ a whole job


@pytest.mark.parametrize(("pods", "lanes"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_pods_and_lanes_make_the_bytes_of_the_laptop_and_leave_nothing_else(
    source: Path, wanted: list[bytes], tmp_path: Path, pods: int, lanes: int
) -> None:
    target = tmp_path / "out"
    manifest = shuffle(source, target, workers={"shortCircuit": False})
    with Pods(manifest, tmp_path / "pods", pods=pods, lanes=lanes, measured=True) as running:
        running.start_all()
        ended = running.end_all()
    assert [(one.code, one.message) for one in ended] == [(0, "")] * pods
    assert contents(target) == wanted
    check_result(target)
    facts = manifest_of(target)["run"]
    assert (facts["id"], facts["ranks"]) == (running.uid, pods * lanes)
    lines = [line for one in ended for line in one.log]
    assert {line["rank"] for line in lines} == set(range(pods * lanes))
    assert {(line["job"], line["uid"], line["level"]) for line in lines} == {("test", running.uid, "info")}
    assert {line["message"] for line in lines} >= {f"phase {phase}" for phase in PHASES[1:]}
    if pods * lanes > 1:
        assert sum(one.progress.bytes_sent for one in running.observed.values()) > 0, "no payload on the wire"


def test_two_jobs_with_the_same_result_agree_and_the_second_touches_nothing(
    source: Path, wanted: list[bytes], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    files = []
    for number in range(2):
        with Pods(shuffle(source, target), tmp_path / f"pods{number}") as pods:
            pods.start_all()
            assert [one.code for one in pods.end_all()] == [0, 0]
        files.append({name: (target / name).stat().st_ino for name in left_in(target)})
    assert files[0] == files[1]
    check_result(target)


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    with Pods(shuffle(source, tmp_path / "out", dryRun=True), tmp_path / "pods") as pods:
        pods.start_all()
        assert [one.code for one in pods.end_all()] == [0, 0]
    outcome = pods.observed[0].outcome
    assert outcome is not None
    assert outcome.plan is not None
    assert (outcome.plan.totals.shards, outcome.plan.totals.records) == (17, 200)
    assert outcome.plan.shards == []  # there may be millions of them
    assert not (tmp_path / "out").exists()


def test_metrics_of_every_rank_are_served_while_it_works(source: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Create", 3)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods", lanes=2, more=["--metrics"]) as pods:
        pods.start_all({1: gate.environment})
        gate.reached()
        for rank in range(4):
            text = pods.scrape(rank)
            assert f'dsort_rank_memory_budget_bytes{{dsortjob="test",rank="{rank}"}} 1.34217728e+08' in text
            assert re.search(r"process_cpu_seconds_total \d", text)
        assert 'dsort_rank_phase_info{dsortjob="test",phase="Create",rank="3"} 1.0' in pods.scrape(3)
        gate.open()
        assert [one.code for one in pods.end_all()] == [0, 0]


# ---------------------------------------------------------------------------------------------------------------- SIGTERM


@pytest.mark.parametrize(("point", "rank"), POINTS)
def test_sigterm_in_each_phase_ends_a_pod_at_once_and_its_replacement_goes_on(
    source: Path, wanted: list[bytes], tmp_path: Path, point: str, rank: int
) -> None:
    target = tmp_path / "out"
    gate = Gate(tmp_path / "gate", point, rank)
    with Pods(shuffle(source, target), tmp_path / "pods") as pods:
        pods.start_all({rank: gate.environment})
        gate.reached()
        began = time.monotonic()
        pods.processes[rank].send_signal(signal.SIGTERM)
        gate.open()
        ended = pods.end(rank, within=ENDS_WITHIN)
        assert time.monotonic() - began < ENDS_WITHIN
        if ended.code == 0:  # it was done before it heard of it
            assert point in {"published", "manifest", "Publish"}
        else:
            assert (ended.code, ended.message) == (143, "")
            pods.start(rank)
        assert [one.code for one in pods.end_all()] == [0, 0]
    assert contents(target) == wanted
    check_result(target)


@pytest.mark.parametrize(("point", "rank"), POINTS[1::2])
def test_a_job_that_is_suspended_and_resumed_makes_the_same_bytes(
    source: Path, wanted: list[bytes], tmp_path: Path, point: str, rank: int
) -> None:
    target = tmp_path / "out"
    gate = Gate(tmp_path / "gate", point, rank)
    with Pods(shuffle(source, target), tmp_path / "pods", lanes=2) as pods:
        pods.start_all({0: gate.environment})
        gate.reached()
        for process in pods.processes.values():
            process.send_signal(signal.SIGTERM)
        gate.open()
        codes = [one.code for one in pods.end_all()]
        assert set(codes) <= {0, 143}
        for index, code in enumerate(codes):
            if code:
                pods.start(index)
        assert [one.code for one in pods.end_all()] == [0, 0]
    assert contents(target) == wanted
    check_result(target)


def test_sigterm_ends_a_rank_that_is_stuck(source: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Create", 1)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods") as pods:
        pods.start_all({1: gate.environment})
        gate.reached()
        pods.processes[1].send_signal(signal.SIGTERM)  # the gate stays closed
        assert pods.end(1, within=ENDS_WITHIN).code == 143
        pods.processes[0].send_signal(signal.SIGTERM)
        assert pods.end(0, within=ENDS_WITHIN).code == 143
        gate.open()
    assert hidden(tmp_path / "out") == []


def test_sigterm_ends_a_pod_that_nobody_drives(source: Path, tmp_path: Path) -> None:
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods", pods=1, lanes=2) as pods:
        supervisor = pods.start(0)
        wait_until(lambda: len(children_of(supervisor.pid)) == 2, what="the lanes")
        supervisor.send_signal(signal.SIGTERM)
        assert pods.end(0, within=ENDS_WITHIN).code == 143
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ failures and lanes


def test_a_pod_that_fails_says_why_in_its_last_words(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "out-000003.tar").write_bytes(b"mine")
    with Pods(shuffle(source, target), tmp_path / "pods", pods=1) as pods:
        pods.start_all()
        ended = pods.end(0)
    assert ended.code == EXIT_CODES[Reason.OUTPUT_EXISTS]
    assert (ended.words["reason"], ended.words["rank"]) == ("OutputExists", 0)
    assert "out-000003.tar exists already" in ended.words["message"]
    assert [line["level"] for line in ended.log if "out-000003" in line["message"]] == ["error"]


def test_the_first_lane_that_fails_ends_its_pod_with_its_code_and_words(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "out-000003.tar").write_bytes(b"mine")
    with Pods(shuffle(source, target), tmp_path / "pods", lanes=2) as pods:
        pods.start_all()
        ended = pods.end(0)
        assert ended.code == EXIT_CODES[Reason.OUTPUT_EXISTS]
        assert (ended.words["reason"], ended.words["rank"]) == ("OutputExists", 0)
        pods.processes[1].send_signal(signal.SIGTERM)  # as Kubernetes does when the job has failed
        assert pods.end(1, within=2 * ENDS_WITHIN).code in {143, EXIT_CODES[Reason.OUTPUT_EXISTS]}


def test_a_lane_that_is_killed_ends_its_pod(source: Path, wanted: list[bytes], tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Create", 1)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods", pods=1, lanes=3) as pods:
        pods.start_all({0: gate.environment})
        os.kill(gate.reached(), signal.SIGKILL)
        gate.open()
        ended = pods.end(0)
        assert ended.code == 1
        assert ended.words["reason"] == "InternalError"
        assert "rank 1 was ended by SIGKILL" in ended.words["message"]
        pods.start(0)
        assert pods.end(0).code == 0
    assert contents(tmp_path / "out") == wanted


@pytest.fixture
def limited() -> Iterator[Path]:
    """A control group with a limit of 64 MiB, of version 1 or 2; a process joins it by its `cgroup.procs`."""
    for group in groups():
        folder = Path(group.folder, f"dsort-test-{os.getpid()}")
        limit = folder / ("memory.limit_in_bytes" if group.kind == "cgroup" else "memory.max")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if limit.exists():
                limit.write_text(str(64 << 20))
                yield folder
                return
        finally:
            wait_until(partial(_empty, folder), what="an empty group")
            folder.rmdir()
    pytest.skip("no control group with a memory controller can be made here")


def _empty(group: Path) -> bool:
    return not (group / "cgroup.procs").read_text().split()


def test_a_lane_that_the_kernel_kills_for_want_of_memory_ends_its_pod_with_137(limited: Path) -> None:
    def be(lane: int, _: Say) -> int:
        if lane:
            bytearray(256 << 20)[:: 1 << 12] = bytes(1 << 16)
        signal.pause()
        return 0

    pid = os.fork()
    if pid == 0:
        (limited / "cgroup.procs").write_text("0")
        end = run_lanes(be, lanes=2)
        os._exit(0 if (end.code, end.lane) == (137, 1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_lanes_die_with_their_supervisor(source: Path, tmp_path: Path) -> None:
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods", pods=1, lanes=2) as pods:
        supervisor = pods.start(0)
        wait_until(lambda: len(children_of(supervisor.pid)) == 2, what="the lanes")
        lanes = children_of(supervisor.pid)
        supervisor.kill()
        wait_until(lambda: not any(_runs(pid) for pid in lanes), what="the lanes to be gone")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_order_to_stop_ends_every_pod_with_its_reason(source: Path, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Create", 1)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods") as pods:
        pods.start_all({1: gate.environment})
        gate.reached()
        pods.stop = Stop(reason=Reason.ABORTED, message="enough")
        pods.until(0, Phase.STOPPED)
        gate.open()
        assert [one.code for one in pods.end_all()] == [130, 130]
    assert hidden(tmp_path / "out") == []


@pytest.mark.parametrize("how", ["an order", "SIGTERM"])
def test_who_is_told_to_end_when_the_result_stands_is_done(
    source: Path, wanted: list[bytes], tmp_path: Path, how: str
) -> None:
    """Nobody has heard of it: rank 0 has just written the manifest."""
    gate = Gate(tmp_path / "gate", "written", 0)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods") as pods:
        pods.start_all({0: gate.environment})
        gate.reached()
        if how == "an order":
            pods.stop = Stop(reason=Reason.ABORTED, message="enough")
        else:
            for process in pods.processes.values():
                process.send_signal(signal.SIGTERM)
        assert pods.end(1, within=ENDS_WITHIN).code == 0
        gate.open()
        assert pods.end(0, within=ENDS_WITHIN).code == 0
        pods.leave_alone()  # its last answer may have come and not have been read yet
        assert {rank: one.phase for rank, one in pods.observed.items() if how == "an order"} in (
            {},
            {0: Phase.COMPLETE, 1: Phase.COMPLETE},
        )
    assert contents(tmp_path / "out") == wanted
    check_result(tmp_path / "out")


# ------------------------------------------------------------------------------------------------ published, and then alone


def test_a_rank_that_finds_the_manifest_of_its_job_asks_nobody(source: Path, tmp_path: Path) -> None:
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods") as pods:
        pods.start_all()
        assert [one.code for one in pods.end_all()] == [0, 0]
        for rank in (1, 0):  # each alone: there is no peer to be asked
            pods.observed.clear()
            pods.start(rank)
            ended = pods.end(rank, within=60)
            assert ended.code == 0
            assert not any("phase List" in line["message"] for line in ended.log)
    check_result(tmp_path / "out")


def test_a_rank_whose_rank_0_ended_without_a_word_ends_by_the_manifest(
    source: Path, wanted: list[bytes], tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate", "written", 0)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods") as pods:
        pods.start_all({0: gate.environment})
        os.kill(gate.reached(), signal.SIGKILL)
        gate.open()
        assert pods.end(1, within=60).code == 0
        assert pods.end(0).code == -signal.SIGKILL
        pods.start(0)
        assert pods.end(0, within=60).code == 0
    assert contents(tmp_path / "out") == wanted
    check_result(tmp_path / "out")


def test_ranks_work_on_while_nobody_drives_them(source: Path, wanted: list[bytes], tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "Scan", 1)
    with Pods(shuffle(source, tmp_path / "out"), tmp_path / "pods") as pods:
        pods.start_all({1: gate.environment})
        gate.reached()
        pods.leave_alone()
        gate.open()
        wait_until((tmp_path / "out" / "dsort-manifest.json").exists, what="the manifest")
        pods.drive()  # the operator is back, and hears how it ended
        assert [one.code for one in pods.end_all()] == [0, 0]
    assert contents(tmp_path / "out") == wanted


# ------------------------------------------------------------------------------------------------------- lock and clean-up


@pytest.mark.parametrize(("point", "rank"), POINTS)
def test_what_a_job_left_in_each_phase_is_taken_back(
    source: Path, tmp_path: Path, point: str, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made" / "out"
    gate = Gate(tmp_path / "gate", point, rank)
    with Pods(shuffle(source, target), tmp_path / "pods") as pods:
        pods.start_all({rank: gate.environment})
        gate.reached()
        pods.leave_alone()
        for process in pods.processes.values():
            process.kill()
            process.wait()
        gate.open()
        for _ in range(2):
            assert main(["clean", str(target), "--job", pods.uid]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "nothing of job" in said[-1]
    assert not (tmp_path / "made").exists(), left_in(tmp_path / "made")


def test_a_live_job_is_busy_for_everybody_else(source: Path, wanted: list[bytes], tmp_path: Path) -> None:
    target = tmp_path / "out"
    gate = Gate(tmp_path / "gate", "Create", 1)
    with Pods(shuffle(source, target), tmp_path / "pods", lanes=2) as pods:
        pods.start_all({0: gate.environment})
        gate.reached()
        folder = target / ".dsort" / pods.uid
        assert try_lock(str(folder), Hold.ALONE) is None
        assert main(["clean", str(target)]) == EXIT_CODES[Reason.JOB_BUSY]
        other = job(source, target, order=ORDER, output={"recordsPerShard": 30, "name": "other-%06d"})
        assert dsort(other, check=False).code == 0  # and leaves what the pods have staged alone
        (target / "dsort-manifest.json").unlink()
        gate.open()
        assert [one.code for one in pods.end_all()] == [0, 0]
    assert [(target / f"out-{number:06d}.tar").read_bytes() for number in range(len(wanted))] == wanted


def test_a_result_is_not_cleaned_away(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    with Pods(shuffle(source, target), tmp_path / "pods", pods=1) as pods:
        pods.start_all()
        assert pods.end(0).code == 0
    (target / ".dsort" / pods.uid).mkdir(parents=True)  # as if rank 0 had died before it tidied up
    before = left_in(target)
    assert main(["clean", str(target), "--job", pods.uid]) == EXIT_CODES[Reason.JOB_COMPLETE]
    assert "its result stays" in capsys.readouterr().err
    assert left_in(target) == [name for name in before if not name.startswith(".dsort")]
    check_result(target)


def test_cleaning_where_nothing_ever_was_is_no_error(tmp_path: Path) -> None:
    assert main(["clean", f"file://{tmp_path}/never", "--job", "uid"]) == 0
    assert main(["clean", "pvc://data/never/made", "--job", "uid", "--pvc", f"data={tmp_path}"]) == 0
    assert os.listdir(tmp_path) == []
