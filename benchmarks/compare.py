"""Run what is compared in turns, each run beside a `cp -r` of the same minute.

A shared or virtual machine changes its speed by the minute, so single times say little. What counts is the ratio of two
neighbours: `cp`, candidate, `cp`, next candidate, and so on, round after round.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.competitors import COPY, Competitor, Task
from benchmarks.contenders import CONTENDERS
from benchmarks.datasets import Dataset
from benchmarks.processes import CommandFailed, Usage, measure


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of a few figures."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(slots=True)
class Result:
    """All runs of one candidate on one dataset in one place. pairs: (the candidate's run, the `cp -r` before it)."""

    candidate: str
    dataset: str
    place: str
    size: int
    pairs: list[tuple[Usage, Usage]] = field(default_factory=list)
    failure: str = ""

    @property
    def seconds(self) -> Spread:
        """Wall-clock seconds of a run."""
        return Spread.of([usage.seconds for usage, _ in self.pairs])

    @property
    def share_of_cp(self) -> Spread:
        """Throughput as a share of that of the neighbouring `cp -r`."""
        return Spread.of([copy.seconds / usage.seconds for usage, copy in self.pairs])

    @property
    def throughput(self) -> float:
        """Input bytes per second, median."""
        return self.size / self.seconds.median

    def per_gb(self, figure: Callable[[Usage], float]) -> float:
        """The median of a figure, per 10^9 bytes of input."""
        return statistics.median(figure(usage) for usage, _ in self.pairs) / self.size * 1e9

    @property
    def peak_rss(self) -> int:
        """Bytes of the largest process of any run."""
        return max(usage.peak_rss for usage, _ in self.pairs)

    @property
    def peak_ranks(self) -> tuple[int, ...]:
        """Bytes of each process of the run with the largest one, the largest process first."""
        return max((usage.peaks for usage, _ in self.pairs), key=lambda peaks: peaks[:1])


@dataclass(frozen=True, slots=True)
class Place:
    """Where inputs and outputs lie. name: `tmpfs` or `disk`. workspace: an own, empty folder there."""

    name: str
    workspace: str


def compare(
    dataset: Dataset,
    candidates: Sequence[Competitor],
    *,
    place: Place,
    source: str,
    rounds: int,
    say: Callable[[str], None],
) -> list[Result]:
    """Run every candidate in turns, after one run of dsort's own to warm up and to compare their outputs.

    A candidate that fails is noted with its failure and left out from then on.
    """
    results = {
        one.name: Result(one.name, dataset.name, place.name, dataset.size) for one in (COPY, *candidates)
    }
    bench = _Bench(dataset=dataset, place=place, source=source)
    outputs: list[str] = []
    for candidate in candidates:
        if candidate in CONTENDERS:
            try:
                bench.run(candidate, look=lambda folder: outputs.append(digest(folder)))
            except CommandFailed as error:
                results[candidate.name].failure = str(error)
                say(f"{candidate.name}: {error}")
    if len(set(outputs)) > 1:
        raise SystemExit(f"dsort wrote different outputs of {dataset.name}")
    for _ in range(rounds):
        for candidate in candidates:
            result = results[candidate.name]
            if result.failure:
                continue
            copy = bench.run(COPY)
            results[COPY.name].pairs.append((copy, copy))
            try:
                usage = bench.run(candidate)
            except CommandFailed as error:
                result.failure = str(error)
                say(f"{candidate.name}: {error}")
                continue
            result.pairs.append((usage, copy))
            say(
                f"{dataset.name:>8} {place.name:>5} {candidate.name:<15} {usage.seconds:7.2f} s "
                f"(cp {copy.seconds:5.2f} s, share {copy.seconds / usage.seconds:5.2f}), "
                f"CPU {usage.user_seconds:5.2f} + {usage.system_seconds:5.2f} s, peak {usage.peak_rss / 2**20:4.0f} MiB"
            )
    return list(results.values())


@dataclass(frozen=True, slots=True)
class _Bench:
    dataset: Dataset
    place: Place
    source: str

    def run(self, candidate: Competitor, *, look: Callable[[str], None] | None = None) -> Usage:
        """One run into a fresh folder, which is gone afterwards. What an earlier run left to the disk is on it before."""
        target = os.path.join(self.place.workspace, "target")
        scratch = os.path.join(self.place.workspace, "scratch")
        os.mkdir(scratch)
        os.sync()
        task = Task(self.source, target, scratch, self.dataset.kind.records_per_shard)
        try:
            usage = measure(candidate.command(task), environment=_environment(self.place.workspace))
            if look is not None:
                look(target)
            return usage
        finally:
            # Errors count: what a run leaves behind would be the next one's output folder.
            for folder in (target, scratch):
                if os.path.lexists(folder):
                    shutil.rmtree(folder)


def _environment(workspace: str) -> dict[str, str]:
    """The user's environment with compiled modules kept, as an installed program has them, and outside the tree."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = os.path.join(workspace, "pycache")
    return environment


def digest(folder: str) -> str:
    """A digest of names and bytes of the shards in a folder."""
    total = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        if name.endswith(".tar"):
            with open(os.path.join(folder, name), "rb") as shard:
                total.update(name.encode() + hashlib.file_digest(shard, "sha1").digest())
    return total.hexdigest()


def prefault(gib: float) -> None:
    """Touch memory in a process of its own, so that nothing of it is counted here."""
    subprocess.run([sys.executable, "-m", "benchmarks.prefault", str(gib)], check=True)
