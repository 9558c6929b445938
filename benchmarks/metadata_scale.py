"""The cost of metadata: ten million records that exist as rows only, planned by two ranks, without a byte of payload.

    python -m benchmarks.metadata_scale               # Shuffle and Key, with an empty run for the constant
    python -m benchmarks.metadata_scale --records 1000000 --orders Key --ranks 3 --budget 256

Real ranks (processes, control and data endpoints, the row exchange), whose scan is given a synthetic index of each shard.
The job is a dry run: it ends when every output shard is known. What is measured is each rank's high-water mark of resident
memory; the same job with one record a rank is subtracted, and the rest divided by the number of records. Each order is planned
once more with the least budget (--budget), where rows go to disk: there the anonymous memory of each rank is what counts.

Exit code 1 when a bound of benchmarks/bounds.yaml does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import IO, Any, Final

import numpy as np
import yaml

from benchmarks.ranks import TOKEN, drive
from dsort_api.messages import PROTOCOL, JobDefinition
from dsort_api.spec import load_job
from dsort_worker.budget import LEAST_BUDGET
from dsort_worker.main import RankSettings, run_rank
from dsort_worker.order import mix_array
from dsort_worker.tarscan import ScanCounts, ShardIndex

_BOUNDS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bounds.yaml")
_PLENTY: Final = 8 << 30
"""Bytes of each rank's budget where all rows are to stay in memory."""

_SAMPLED: Final = 0.01
"""Seconds from one look at the ranks' memory to the next."""
_SHARD_RECORDS: Final = 10_000
_BLOCKS: Final = 10
"""512-byte blocks of each record: two small members."""
_KEY_BYTES: Final = 14
"""`n0123/01234567`: a class's folder and a number, so that thousands of keys share their first eight bytes."""
_OUTPUT_SHARDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Planned:
    """How planning went. seconds: from the first order to the plan; peaks: bytes of each rank."""

    seconds: float
    peaks: tuple[int, ...]
    processor_seconds: float
    """Of all ranks, start-up included: what planning costs on a machine that has other work as well."""

    phases: dict[str, float]
    """Seconds of rank 0 by phase."""

    anonymous: tuple[int, ...]
    """The most anonymous memory of each rank, bytes: what is resident less the pages of files."""

    spilled: int
    """Bytes of metadata that went to disk for want of memory, of all ranks together."""

    @property
    def memory(self) -> int:
        """Bytes of all ranks together."""
        return sum(self.peaks)


def plan(records: int, *, order: str, ranks: int, budget: int = _PLENTY) -> Planned:
    """Let real ranks plan a job over a synthetic index. Raises SystemExit when a rank fails."""
    with tempfile.TemporaryDirectory(prefix="dsort-metadata-") as folder:
        source = os.path.join(folder, "source")
        os.mkdir(source)
        shards = max(ranks, -(-records // _SHARD_RECORDS))
        for shard in range(shards):
            with open(os.path.join(source, f"in-{shard:06d}.tar"), "wb") as file:
                file.truncate(_SHARD_RECORDS * _BLOCKS * 512)  # a hole: shards are shared out by their sizes
        job = _job(folder, order=order, ranks=ranks)
        processes = [
            _start(rank, job=job, scratch=folder, per_shard=-(-records // shards)) for rank in range(ranks)
        ]
        try:
            return _drive(processes, budget=budget)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _job(folder: str, *, order: str, ranks: int) -> JobDefinition:
    job = load_job(
        {
            "apiVersion": "dsort.dev/v1alpha1",
            "kind": "DSortJob",
            "metadata": {"name": "metadata-scale"},
            "spec": {
                "input": {"url": f"file://{folder}/source"},
                "output": {"url": f"file://{folder}/out", "name": "out-%06d", "shardCount": _OUTPUT_SHARDS},
                "order": {"kind": order},
                "records": {"collisions": "Ignore"},
                "dryRun": True,
            },
        },
        strict=True,
    )
    return JobDefinition(
        protocol=PROTOCOL, id="metadata-scale", name="metadata-scale", spec=job.spec, ranks=ranks
    )


def _start(rank: int, *, job: JobDefinition, scratch: str, per_shard: int) -> subprocess.Popen[str]:
    """A rank as a process of its own: it prints its control url, and at its end what it took."""
    command = [sys.executable, "-m", "benchmarks.metadata_scale", "--as-rank", str(rank)]
    process = subprocess.Popen(
        [*command, "--scratch", scratch, "--per-shard", str(per_shard)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json(by_alias=True))
    process.stdin.close()
    return process


def _as_rank(options: argparse.Namespace) -> int:
    job = JobDefinition.model_validate_json(sys.stdin.read())
    count = options.per_shard
    with_keys = str(job.spec.order.kind) == "Key"

    def index(ordinal: int) -> ShardIndex:
        return _synthetic_index(ordinal, count=count, with_keys=with_keys)

    settings = RankSettings(
        rank=options.as_rank, job=job, token=TOKEN, scratch=options.scratch, indexer=index
    )
    code = run_rank(settings, on_ready=lambda url: print(url, flush=True))
    with open("/proc/self/status", encoding="ascii") as lines:
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(peak, usage.ru_utime + usage.ru_stime, flush=True)
    return code


def _synthetic_index(ordinal: int, *, count: int, with_keys: bool) -> ShardIndex:
    numbers = np.arange(count, dtype=np.uint32)
    place = numbers.astype(np.uint64) + np.uint64(ordinal * count)
    keys = _keys(place) if with_keys else np.empty(0, dtype=np.uint8)
    return ShardIndex(
        offset=numbers * np.uint32(_BLOCKS),
        length=np.full(count, _BLOCKS, dtype=np.uint32),
        slices=np.ones(count, dtype=np.uint32),
        members=np.full(count, 2, dtype=np.uint32),
        key_hash=mix_array(place),
        extra=np.empty((0, 2), dtype=np.uint32),
        keys=keys,
        key_length=np.full(count if with_keys else 0, _KEY_BYTES, dtype=np.uint32),
        counts=ScanCounts(members=2 * count, records=count),
    )


def _keys(place: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The packed keys of records, `n0123/01234567`: no two are equal, and neighbours in a shard are far apart in order."""
    number = (
        place * np.uint64(48_271) % np.uint64(99_999_989)
    )  # a prime: a permutation of the numbers below it
    text = np.empty((len(place), _KEY_BYTES), dtype=np.uint8)
    text[:] = np.frombuffer(b"n0000/00000000", dtype=np.uint8)
    for column in range(8):
        text[:, 13 - column] += (number // np.uint64(10**column) % np.uint64(10)).astype(np.uint8)
    for column in range(4):
        text[:, 4 - column] += (number // np.uint64(10**column) % np.uint64(10)).astype(np.uint8)
    return text.reshape(-1)


def _drive(processes: list[subprocess.Popen[str]], *, budget: int) -> Planned:
    ended = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        watch = threads.submit(_most_anonymous, [process.pid for process in processes], ended)
        try:
            driven = drive([_line(process.stdout) for process in processes], budget=budget)
        finally:
            ended.set()
        anonymous = watch.result()
    ends = [_line(process.stdout).split() for process in processes]
    return Planned(
        driven.seconds,
        peaks=tuple(int(peak) for peak, _ in ends),
        processor_seconds=sum(float(processor) for _, processor in ends),
        phases=driven.phases,
        anonymous=anonymous,
        spilled=sum(one.memory.spilled for one in driven.last),
    )


def _most_anonymous(pids: list[int], ended: threading.Event) -> tuple[int, ...]:
    """The most anonymous memory that each process was seen with until `ended`, bytes."""
    most = [0] * len(pids)
    while not ended.wait(_SAMPLED):
        for number, pid in enumerate(pids):
            with open(f"/proc/{pid}/status", encoding="ascii") as lines:
                found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
            most[number] = max([most[number], *found])
    return tuple(most)


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline().strip()
    if not line:
        raise SystemExit("a rank ended before its time")
    return line


def main() -> int:
    """Plan each order, with an empty run for the constant, and hold the figures against the bounds."""
    with open(_BOUNDS, encoding="utf-8") as file:
        bounds = yaml.safe_load(file)["metadata_scale"]
    options = _options(bounds["records"])
    if options.as_rank is not None:
        return _as_rank(options)
    broken = []
    figures = []
    for order in options.orders:
        empty = plan(options.ranks, order=order, ranks=options.ranks)
        planned = plan(options.records, order=order, ranks=options.ranks)
        little = plan(options.records, order=order, ranks=options.ranks, budget=options.budget << 20)
        per_record = (planned.memory - empty.memory) / options.records
        allowed = bounds["bytes_per_record"] + (_KEY_BYTES if order == "Key" else 0)
        print(
            f"{order}: {options.records} records, {options.ranks} ranks: planned in {planned.seconds:.1f} s "
            f"({planned.processor_seconds:.1f} s of processor time), "
            f"{per_record:.0f} bytes per record ({', '.join(f'{peak / 2**20:.0f}' for peak in planned.peaks)} MiB, "
            f"empty {', '.join(f'{peak / 2**20:.0f}' for peak in empty.peaks)} MiB); rank 0: "
            + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in planned.phases.items())
        )
        print(
            f"{order} with {options.budget} MiB a rank: planned in {little.seconds:.1f} s "
            f"({little.processor_seconds:.1f} s of processor time), "
            f"{', '.join(f'{peak / 2**20:.0f}' for peak in little.anonymous)} MiB of anonymous memory "
            f"(with plenty {', '.join(f'{peak / 2**20:.0f}' for peak in planned.anonymous)} MiB), "
            f"{little.spilled / 2**20:.0f} MiB spilled; rank 0: "
            + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in little.phases.items())
        )
        figures.append(
            {
                "order": order,
                "records": options.records,
                "ranks": options.ranks,
                "bytes_per_record": per_record,
                "allowed": allowed,
                "seconds": planned.seconds,
                "processor_seconds": planned.processor_seconds,
                "peaks": planned.peaks,
                "peaks_of_empty": empty.peaks,
                "phases": planned.phases,
                "anonymous": planned.anonymous,
                "little": {"budget": options.budget << 20, **asdict(little)},
            }
        )
        if per_record > allowed:
            broken.append(f"{order}: {per_record:.0f} bytes per record, at most {allowed} are allowed")
        if max(little.anonymous) > (options.budget << 20) * bounds["share_of_budget"]:
            broken.append(
                f"{order}: {max(little.anonymous) / 2**20:.0f} MiB of anonymous memory where {options.budget} MiB were given"
            )
        if planned.seconds > bounds["planning_seconds"]:
            broken.append(
                f"{order}: {planned.seconds:.1f} s, at most {bounds['planning_seconds']} are allowed"
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
    for line in broken:
        print(f"bound: {line}", file=sys.stderr)
    return 1 if broken else 0


def _options(records: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metadata_scale")
    parser.add_argument("--records", type=int, default=records)
    parser.add_argument(
        "--orders", nargs="+", default=["Shuffle", "Key"], choices=["None", "Shuffle", "Key", "MD5"]
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--budget", type=int, default=LEAST_BUDGET >> 20, help="MiB of a rank's least budget")
    parser.add_argument("--json", help="file for the figures")
    for hidden, kind in (("--as-rank", int), ("--per-shard", int), ("--scratch", str)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
