"""Soak: job after job in the same two processes, in both exchange modes. Memory stays where it is, and faults in no pages anew.

    python -m benchmarks.soak                         # ten minutes, half of them in each mode
    python -m benchmarks.soak --seconds 40 --json FILE

Each of the two processes is a rank, again and again: what a job leaves behind (buffers, threads, connections, arenas of malloc)
would show. After each job a process says its resident memory, the peak of that job, and its page faults; the first third of the
jobs is warm-up. After it, resident memory may lie by bounds.yaml's share away from its median, and grow by as much from the first
half to the second, as may the greatest peak; the faults of both processes, their start included, may be bounds.yaml's number per
GB (10^9 bytes) of input.

Exit code 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import yaml

from benchmarks.datasets import KINDS, Dataset, make
from benchmarks.ranks import TOKEN, drive
from dsort_api.messages import JobDefinition
from dsort_api.spec import load_job
from dsort_worker.main import RankSettings, run_rank

_BOUNDS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bounds.yaml")
_MODES: Final = ("short circuit", "network")
_RANKS: Final = 2
_LEAST_JOBS: Final = 12
"""In each mode. Fewer say nothing: four of them are warm-up."""


@dataclass(frozen=True, slots=True)
class After:
    """A process after one of its jobs. rss, peak: bytes, the peak that of this job; faults: pages since its start."""

    rss: int
    peak: int
    faults: int


@dataclass(slots=True)
class Soaked:
    """A series of jobs in one mode. ranks: for each of them its process after each job."""

    mode: str
    size: int
    """Bytes of one job's input."""
    ranks: list[list[After]] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """How many there were."""
        return len(self.ranks[0])

    @property
    def faults_per_gb(self) -> float:
        """Page faults of all ranks, their start included, for 10^9 bytes of input."""
        return sum(rank[-1].faults for rank in self.ranks) / (self.jobs * self.size) * 1e9

    def warm(self, rank: int) -> list[After]:
        """The jobs after the warm-up."""
        return self.ranks[rank][self.jobs // 3 :]

    def growth(self, rank: int) -> float:
        """By what share resident memory in the second half of the warm jobs is above the first, median to median."""
        values = [after.rss for after in self.warm(rank)]
        half = len(values) // 2
        return statistics.median(values[half:]) / statistics.median(values[:half]) - 1.0

    def spread(self, rank: int) -> float:
        """By what share the resident memory after a warm job is away from their median, at the most."""
        values = [after.rss for after in self.warm(rank)]
        middle = statistics.median(values)
        return max(max(values) / middle, 2.0 - min(values) / middle) - 1.0

    def peak_growth(self, rank: int) -> float:
        """By what share the greatest peak in the second half of the warm jobs is above that in the first."""
        values = [after.peak for after in self.warm(rank)]
        half = len(values) // 2
        return max(values[half:]) / max(values[:half]) - 1.0


def soak(mode: str, *, dataset: Dataset, folder: str, seconds: float, budget: int) -> Soaked:
    """Run jobs for so long, `_LEAST_JOBS` at the least. folder: for what is written. Raises SystemExit when one fails."""
    result = Soaked(mode, dataset.size, [[] for _ in range(_RANKS)])
    with _processes(short_circuit=mode == "short circuit") as processes:
        until = time.monotonic() + seconds
        while time.monotonic() < until or result.jobs < _LEAST_JOBS:
            target = os.path.join(folder, "out")
            job = _job(dataset, target=target, number=result.jobs).model_dump_json(by_alias=True)
            for process in processes:
                _tell(process, job)
            drive([_hear(process) for process in processes], budget=budget)
            for process, after in zip(processes, result.ranks, strict=True):
                after.append(After(**json.loads(_hear(process))))
            shutil.rmtree(target)
    return result


def judge(result: Soaked, bounds: dict[str, Any]) -> list[str]:
    """One line for every bound that does not hold."""
    broken = []
    for rank in range(_RANKS):
        for share, what in (
            (result.growth(rank), "resident memory grew by"),
            (result.spread(rank), "resident memory is away from its median by"),
            (result.peak_growth(rank), "the peak grew by"),
        ):
            if share > bounds["share"]:
                broken.append(f"{result.mode}, rank {rank}: {what} {share:.1%}")
    if result.faults_per_gb > bounds["faults_per_gb"]:
        broken.append(f"{result.mode}: {result.faults_per_gb:,.0f} page faults per GB")
    return broken


def _job(dataset: Dataset, *, target: str, number: int) -> JobDefinition:
    spec = load_job(
        {
            "apiVersion": "dsort.dev/v1alpha1",
            "kind": "DSortJob",
            "metadata": {"name": "soak"},
            "spec": {
                "input": {"url": f"file://{dataset.folder}"},
                "output": {
                    "url": f"file://{target}",
                    "name": "out-%06d",
                    "recordsPerShard": dataset.kind.records_per_shard,
                },
                "order": {"kind": "Shuffle", "seed": number},
            },
        },
        strict=True,
    ).spec
    return JobDefinition(id=f"soak-{number}", name="soak", spec=spec, ranks=_RANKS)


@contextmanager
def _processes(*, short_circuit: bool) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--as-rank", str(rank)]
            + (["--short-circuit"] if short_circuit else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(_RANKS)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit("a rank ended before its time")
    return line


def _as_rank(rank: int, *, short_circuit: bool) -> int:
    """Be a rank for every job that standard input names, and say after each what the process takes."""
    for line in sys.stdin:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the high-water mark begins anew: proc(5)
        settings = RankSettings(
            rank=rank,
            job=JobDefinition.model_validate_json(line),
            token=TOKEN,
            short_circuit=short_circuit,
        )
        if code := run_rank(settings, on_ready=lambda url: print(url, flush=True)):
            return code
        with open("/proc/self/status", encoding="ascii") as file:
            status = dict(entry.split(":", 1) for entry in file)
        rss, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps(asdict(After(rss, peak, usage.ru_minflt + usage.ru_majflt))), flush=True)
    return 0


def main() -> int:
    """Soak in both modes, say what was seen, and hold it against the bounds."""
    options = _options()
    if options.as_rank is not None:
        return _as_rank(options.as_rank, short_circuit=options.short_circuit)
    with open(_BOUNDS, encoding="utf-8") as file:
        bounds = yaml.safe_load(file)["soak"]
    results = []
    with tempfile.TemporaryDirectory(prefix="dsort-soak-") as folder:
        dataset = make(KINDS[options.kind], cache=folder, shards=options.shards)
        for mode in options.modes:
            share = options.seconds / len(options.modes)
            result = soak(mode, dataset=dataset, folder=folder, seconds=share, budget=options.memory << 20)
            print(describe(result), flush=True)
            results.append(result)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([{**asdict(one), "faults_per_gb": one.faults_per_gb} for one in results], file)
    broken = [line for result in results for line in judge(result, bounds)]
    for line in broken:
        print(f"bound: {line}", file=sys.stderr)
    return 1 if broken else 0


def describe(result: Soaked) -> str:
    """A line about a series."""
    ranks = ", ".join(
        f"rank {rank}: {statistics.median(after.rss for after in result.warm(rank)) / 2**20:.0f} MiB "
        f"(growth {result.growth(rank):+.1%}, at most {result.spread(rank):.1%} away), "
        f"peak {max(after.peak for after in result.warm(rank)) / 2**20:.0f} MiB "
        f"(growth {result.peak_growth(rank):+.1%})"
        for rank in range(_RANKS)
    )
    return (
        f"{result.mode}: {result.jobs} jobs of {result.size / 1e9:.2f} GB; {ranks}; "
        f"{result.faults_per_gb:,.0f} page faults per GB"
    )


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="in all (default %(default).0f)")
    parser.add_argument("--modes", nargs="+", choices=_MODES, default=list(_MODES))
    parser.add_argument("--kind", choices=list(KINDS), default="images")
    parser.add_argument("--shards", type=int, default=8, help="of the input (default %(default)s)")
    parser.add_argument(
        "--memory", type=int, default=256, help="budget of a rank in MiB (default %(default)s)"
    )
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--as-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--short-circuit", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
