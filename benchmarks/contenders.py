"""dsort's own entries in the comparison."""

from __future__ import annotations

import json
import os
import sys
from typing import Final

from benchmarks.competitors import Competitor, Task

RANKS: Final = 2


def _command(task: Task, *flags: str) -> list[str]:
    job = os.path.join(task.scratch, "job.yaml")
    with open(job, "w", encoding="utf-8") as file:
        json.dump(_job(task), file)  # JSON is YAML
    dsort = os.path.join(os.path.dirname(sys.executable), "dsort")
    return [dsort, "run", "-f", job, "--workers", str(RANKS), *flags]


def _job(task: Task) -> dict[str, object]:
    return {
        "apiVersion": "dsort.dev/v1alpha1",
        "kind": "DSortJob",
        "metadata": {"name": "bench"},
        "spec": {
            "input": {"url": f"file://{task.source}"},
            "output": {"url": f"file://{task.target}", "name": "out-%06d", "recordsPerShard": task.records},
            "order": {"kind": "Shuffle", "seed": 42},
        },
    }


def short_circuit(task: Task) -> list[str]:
    """Ranks read each other's shards from the file system."""
    return _command(task)


def network(task: Task) -> list[str]:
    """Every slice of another rank's shard travels through HTTP, as between two machines."""
    return _command(task, "--no-short-circuit")


CONTENDERS: Final = (
    Competitor("short circuit", f"dsort, {RANKS} ranks on one host", short_circuit),
    Competitor("network", f"dsort, {RANKS} ranks, every slice of the other's shards by HTTP", network),
)


def with_memory(contender: Competitor, mebibytes: int) -> Competitor:
    """A contender whose ranks have a budget of so many MiB each."""
    return Competitor(
        f"{contender.name}, {mebibytes} MiB",
        f"{contender.note}, {mebibytes} MiB each",
        lambda task: [*contender.command(task), "--memory", f"{mebibytes}Mi"],
    )
