"""Real runs with ranks as processes: how they end, and what is left of them, which is nothing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dsort_api.messages import Phase
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_cli.board import Board, RankProcess
from dsort_operator.control import ControlClient, Link
from tests.support.measuring import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DSORT = [sys.executable, "-P", "-m", "dsort_cli"]
PATIENCE = 90.0


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A small job: 3 shards of 20 records, shuffled into shards of 7."""
    (tmp_path / "in").mkdir()
    for shard in range(3):
        with tarfile.open(tmp_path / "in" / f"a-{shard}.tar", "w") as archive:
            for record in range(20):
                member = tarfile.TarInfo(f"{shard}-{record:02}.txt")
                member.size = 100 * record
                archive.addfile(member, io.BytesIO(b"x" * member.size))
    return write_job(tmp_path)


def write_job(folder: Path, **spec: Any) -> Path:
    document = {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "input": {"url": f"file://{folder}/in"},
            "output": {"url": f"file://{folder}/out", "name": "o-%04d", "recordsPerShard": 7},
            "order": {"kind": "Shuffle", "seed": 1},
            "workers": {"count": 2},
            **spec,
        },
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(document))
    return path


def dsort(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DSORT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        env=measured(),
    )


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`, by age."""
    try:
        return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return []


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < until, f"waited too long for {what}"
        time.sleep(0.005)
    return result


@contextmanager
def started(job: Path, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], int, list[int]]]:
    """A run that is under way, the process id of its nursery and those of its ranks, which are stopped: see
    `go_on`.
    """
    command = [*DSORT, "run", "-f", str(job), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            (nursery,) = wait_for(lambda: children(run.pid), "the nursery")
            ranks = wait_for(lambda: two if len(two := children(nursery)) == 2 else None, "the ranks")
            for pid in ranks:
                os.kill(pid, signal.SIGSTOP)
            yield run, nursery, ranks
        finally:
            if run.poll() is None:
                run.kill()


def go_on(ranks: list[int]) -> None:
    for pid in ranks:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def long_job(job: Path) -> Path:
    """The job with 20,000 records more, so that it is not over before it was looked at."""
    for shard in range(4):
        with open(job.parent / "in" / f"b-{shard}.tar", "wb") as file:
            member = tarfile.TarInfo("x.txt")
            for record in range(5_000):
                member.name = f"b{shard}/{record}.txt"
                file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.write(bytes(1024))
    return job


def test_a_run_publishes_and_says_where_the_manifest_is(job: Path) -> None:
    run = dsort("run", "-f", job)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (
        0,
        f"manifest {job.parent}/out/dsort-manifest.json",
    )
    assert "60 records" in run.stdout
    names = sorted(os.listdir(job.parent / "out"))
    assert names == ["dsort-manifest.json", *(f"o-{number:04}.tar" for number in range(9))]


def test_json_is_all_that_stands_on_standard_output(job: Path) -> None:
    run = dsort("run", "-f", job, "--json")
    events = [json.loads(line) for line in run.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "result"]
    assert events[-1]["records"] == 60
    assert run.stderr == ""


def test_quiet_is_quiet(job: Path) -> None:
    run = dsort("run", "-f", job, "--quiet")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_reader_who_leaves_does_not_end_the_job(job: Path) -> None:
    for arguments in (["--json"], []):
        read, write = os.pipe()
        os.close(read)
        run = subprocess.run(
            [*DSORT, "run", "-f", str(job), *arguments], stdout=write, stderr=write, timeout=PATIENCE
        )
        os.close(write)
        assert run.returncode in {0, 1}
        assert (job.parent / "out" / "dsort-manifest.json").exists()
        assert not (job.parent / "out" / ".dsort").exists()
        shutil.rmtree(job.parent / "out")


def test_a_second_run_finds_the_first_ones_result(job: Path) -> None:
    assert dsort("run", "-f", job).returncode == 0
    again = dsort("run", "-f", job, "--workers", 1)
    assert again.returncode == 0
    assert "already complete: 60 records" in again.stdout
    assert not (job.parent / "out" / ".dsort").exists()


def test_a_plan_moves_and_makes_nothing(job: Path) -> None:
    plan = dsort("plan", "-f", job, "--json")
    result = json.loads(plan.stdout.splitlines()[-1])
    assert [shard["records"] for shard in result["plan"]["shards"]] == [7] * 8 + [4]
    assert "o-0008.tar" in dsort("plan", "-f", job).stdout
    assert sorted(os.listdir(job.parent)) == ["in", "job.yaml"]


def test_what_is_planned_is_what_a_run_makes(job: Path) -> None:
    plan = json.loads(dsort("plan", "-f", job, "--json").stdout.splitlines()[-1])["plan"]["shards"]
    assert dsort("run", "-f", job).returncode == 0
    manifest = json.loads((job.parent / "out" / "dsort-manifest.json").read_text())
    made = [{key: shard[key] for key in ("name", "bytes", "records")} for shard in manifest["outputs"]]
    assert made == plan


def test_warnings_name_twenty_and_say_where_all_of_them_are(job: Path) -> None:
    with tarfile.open(job.parent / "in" / "c.tar", "w") as archive:
        for name in [f"{number}.txt" for number in range(30)] * 2:
            archive.addfile(tarfile.TarInfo(name))
    write_job(job.parent, records={"duplicates": "Warn"})
    run = dsort("run", "-f", job, "--quiet")
    assert run.returncode == 0
    *named, last = run.stderr.splitlines()
    assert len(named) == 20
    assert all(text.startswith("warning: shard c.tar: member ") for text in named)
    assert last.startswith("warning: 30 findings in all; every one is named in ")
    (findings,) = (job.parent / "out").glob("dsort-findings-*")
    assert len(findings.read_text().splitlines()) == 30


def test_bad_input_is_one_line_its_exit_code_and_no_output_folder(job: Path) -> None:
    path = job.parent / "in" / "a-1.tar"
    path.write_bytes(path.read_bytes()[:5000])
    run = dsort("run", "-f", job, "--quiet")
    assert run.returncode == EXIT_CODES[Reason.CORRUPT_SHARD]
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")
    assert "a-1.tar" in line
    assert sorted(os.listdir(job.parent)) == ["in", "job.yaml"]


def test_an_error_is_an_event_as_well(job: Path) -> None:
    write_job(job.parent, order={"kind": "Sideways"})
    run = dsort("run", "-f", job, "--json")
    (event,) = map(json.loads, run.stdout.splitlines())
    assert (event["event"], event["reason"], event["exitCode"]) == ("error", "InvalidSpec", run.returncode)
    assert run.stderr.startswith("error: spec.order.kind")


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_a_signal_ends_everything_and_leaves_nothing(long_job: Path, number: int, exit_code: int) -> None:
    with started(long_job) as (run, nursery, ranks):
        run.send_signal(number)
        go_on(ranks)
        _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == exit_code
    assert err.splitlines()[-1].startswith("error: stopped by SIG")
    assert all(gone(pid) for pid in [nursery, *ranks])
    assert sorted(os.listdir(long_job.parent)) == ["in", "job.yaml"]


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_a_ctrl_c_during_start_up_leaves_nothing(long_job: Path, delay: float) -> None:
    command = [*DSORT, "run", "-f", str(long_job)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        nursery = wait_for(lambda: children(run.pid), "the nursery")
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(max(delay, 0.001))
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    assert all(gone(pid) for pid in nursery)
    assert sorted(os.listdir(long_job.parent)) == ["in", "job.yaml"]


def test_a_killed_runner_takes_every_process_with_it_and_its_job_can_go_on(long_job: Path) -> None:
    with started(long_job) as (run, nursery, ranks):
        run.kill()
        run.communicate()
        wait_for(lambda: all(gone(pid) for pid in [nursery, *ranks]), "the ranks to end")
    assert os.listdir(long_job.parent / "out") == [".dsort"]
    assert dsort("run", "-f", long_job).returncode == 0
    assert ".dsort" not in os.listdir(long_job.parent / "out")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_started_again(long_job: Path, rank: int) -> None:
    with started(long_job, "--json") as (run, _, ranks):
        os.kill(ranks[rank], signal.SIGKILL)
        go_on([ranks[1 - rank]])
        out, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    events = [json.loads(line) for line in out.splitlines()]
    (restarted,) = [event for event in events if event["event"] == "restarted"]
    assert "SIGKILL" in restarted["how"]
    assert events[-1]["records"] == 20_060


def test_a_restart_too_many_keeps_what_was_staged(long_job: Path) -> None:
    write_job(long_job.parent, backoffLimit=0)
    with started(long_job, "--quiet") as (run, _, ranks):
        os.kill(ranks[1], signal.SIGKILL)
        go_on(ranks[:1])
        _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == EXIT_CODES[Reason.BACKOFF_LIMIT_EXCEEDED]
    line = err.splitlines()[-1]
    assert "SIGKILL" in line
    assert "run the same job again to continue" in line
    assert os.listdir(long_job.parent / "out") == [".dsort"]
    cleaned = dsort("clean", long_job.parent / "out")
    assert (cleaned.returncode, cleaned.stdout[:7]) == (0, "removed")
    assert not (long_job.parent / "out").exists(), "the run had made it"


def test_a_nursery_that_is_killed_ends_the_run(long_job: Path) -> None:
    with started(long_job, "--quiet") as (run, nursery, ranks):
        os.kill(nursery, signal.SIGKILL)
        go_on(ranks)  # one that was stopped before it could ask the kernel to end with its parent
        _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == EXIT_CODES[Reason.INTERNAL]
    assert "ended unexpectedly" in err
    wait_for(lambda: all(gone(pid) for pid in ranks), "the ranks to end")


def test_the_deadline_ends_a_job(long_job: Path) -> None:
    write_job(long_job.parent, activeDeadlineSeconds=1)
    with started(long_job, "--quiet") as (run, _, ranks):
        _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == EXIT_CODES[Reason.DEADLINE_EXCEEDED]
    assert "activeDeadlineSeconds" in err
    assert all(gone(pid) for pid in ranks)


def test_under_nohup_a_run_outlives_its_terminal(long_job: Path) -> None:
    command = ["nohup", *DSORT, "run", "-f", str(long_job), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(lambda: children(run.pid), "the nursery")
        run.send_signal(signal.SIGHUP)
        assert run.wait(PATIENCE) == 0


def test_a_second_ctrl_c_does_not_wait(long_job: Path) -> None:
    with started(long_job, "--quiet") as (run, _, ranks):
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        while run.poll() is None and time.monotonic() < began + 4:
            run.send_signal(signal.SIGINT)
            time.sleep(0.05)
        run.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 4.5
    assert run.returncode == 130
    assert all(gone(pid) for pid in ranks)


def test_a_job_that_runs_is_busy_and_is_not_cleaned(long_job: Path) -> None:
    with started(long_job) as (run, _, ranks):
        cleaned = dsort("clean", long_job.parent / "out")
        assert cleaned.returncode == EXIT_CODES[Reason.JOB_BUSY]
        second = dsort("run", "-f", long_job, "--quiet")
        assert second.returncode == EXIT_CODES[Reason.JOB_BUSY]
        go_on(ranks)
        run.communicate(timeout=PATIENCE)
    assert run.returncode == 0


IN_ONE_PROCESS = """
import os, sys
from dsort_cli.main import main
def left():
    return len(os.listdir("/proc/self/fd")), open("/proc/self/task/%d/children" % os.getpid()).read()
sys.stdout = open(os.devnull, "w")
counts = []
for number in range(int(sys.argv[2])):
    assert main(["run", "-f", sys.argv[1], "--quiet"]) == 0
    counts.append(left())
assert set(counts[1:]) == {counts[0]}, counts
assert counts[0][1] == "", counts
"""


def test_many_runs_in_one_process_leave_no_file_socket_or_process(job: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    run = subprocess.run(
        [sys.executable, "-P", "-c", IN_ONE_PROCESS, str(job), "8"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert os.listdir(tmp_path / "temporary") == []


def test_a_worker_that_cannot_be_imported_is_one_line(job: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "aiohttp.py").write_text("raise ImportError('no aiohttp here')\n")
    run = subprocess.run(
        [*DSORT, "plan", "-f", str(job), "--quiet"],
        env={**os.environ, "PYTHONPATH": str(broken)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 1
    assert "no aiohttp here" in run.stderr.splitlines()[-1]


def test_a_worker_in_the_foreground_is_driven_to_the_end(job: Path, tmp_path: Path) -> None:
    spec = json.loads(job.read_text())["spec"]
    definition = tmp_path / "definition.json"
    definition.write_text(json.dumps({"id": "j", "name": "n", "spec": spec, "ranks": 1}))
    command = [*DSORT, "worker", "--rank", "0", "--job", str(definition), "--log-format", "text"]
    environment = {**os.environ, "DSORT_TOKEN": "secret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stderr is not None
        url = worker.stderr.readline().split()[-1].removesuffix("/v1/control")
        assert asyncio.run(_drive(url)) is Phase.COMPLETE
        assert worker.wait(PATIENCE) == 0
    assert (tmp_path / "out" / "dsort-manifest.json").exists()


async def _drive(url: str) -> Phase:
    board = Board(memory_budget=64 << 20, wait_seconds=5.0)
    async with ControlClient(token="secret") as client:
        link = Link(url, client=client, wishes=board, hear=lambda _: board.renew_peers())
        board.ranks[0] = RankProcess(0, asked=0.0, heard=0.0, link=link)
        async with asyncio.timeout(PATIENCE):
            await link.run()
    assert link.observed is not None
    return link.observed.phase
