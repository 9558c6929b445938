"""Pods with little memory, whose limits real kubelets set: they finish, within their budget, whatever the data look like.

The jobs of a test run side by side: each pod has a control group of its own. Memory is what the ranks tell of
it, who look twice a second and whenever they are asked; the control groups themselves are watched in tests/local/test_memory_limits.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import datasets
from dsort_api.budgets import rank_budget
from dsort_api.spec import DSortJob
from tests.support.livecluster import Object
from tests.support.liveplace import LiveJob, Place

MIB: Final = 1 << 20
_OUTPUTS: Final = "small-pods"
SHARDS: Final = {"images": 9, "small": 8, "pax": 8}
"""0.3 GB of each kind: several times the least limit."""
LEAST: Final = 92
"""MiB of the smallest pod: its budget is what a rank needs."""
CASES: Final = {
    LEAST: (9, [(kind, mode) for kind in SHARDS for mode in ("network", "direct")]),
    256: (4, [*((kind, "network") for kind in SHARDS), ("small", "direct")]),
    512: (4, [*((kind, "network") for kind in SHARDS), ("images", "direct")]),
}
"""By MiB of a pod, how many of the shards at the most are sorted, and which jobs there are: kind of data and mode."""
OVER: Final = 1.10
"""What a pod may take of its budget at its peak."""


@pytest.fixture(scope="module")
def outputs(place: Place) -> Iterator[dict[str, Any]]:
    """Makes the data. What the first job made of them is kept here for the others."""
    program = Path(datasets.__file__).read_text()

    def make(kind: str) -> None:
        options = (f"--shards={SHARDS[kind]}", f"--cache={place.folder('data')}")
        place.exec("python3", "-", kind, *options, stdin=program)

    with ThreadPoolExecutor() as threads:
        list(threads.map(make, SHARDS))
    yield {}
    place.desk("remove", place.folder("data"))


@dataclass(slots=True)
class Seen:
    """A job, and what its pods told of themselves: their last figures, by the pods' names."""

    job: LiveJob
    budget: int
    pods: dict[str, dict[str, float]] = field(default_factory=dict)

    def watch(self) -> Object:
        """Ask the pods as long as there are some; the status of the job, which is complete."""
        self.job.cluster.until(self._look, f"{self.job.name} goes on")
        return self.job.complete()

    def _look(self) -> bool:
        for pod in self.job.workers():
            if told := self.job.metrics(pod):
                self.pods[pod["metadata"]["name"]] = told
        return self.job.holds("Complete") or self.job.holds("Failed")

    def sum(self, metric: str) -> float:
        """Of all pods."""
        return sum(told[f"dsort_rank_{metric}"] for told in self.pods.values())


def small_job(place: Place, kind: str, limit: int, mode: str) -> Object:
    """Two pods of so many MiB. network: all payload that the other pod has scanned comes from it. direct: every rank reads its
    input itself, and where a pod has room for two of them, it has two.
    """
    workers: dict[str, Any] = {
        "shortCircuit": mode == "direct",
        "lanes": 2 if mode == "direct" and limit * 0.7 >= 128 else 1,
        "template": {"spec": {"resources": {"requests": {"cpu": "1m"}, "limits": {"memory": f"{limit}Mi"}}}},
    }
    data = f"{place.url('data')}/{kind}-{SHARDS[kind]}"
    last = min(SHARDS[kind], CASES[limit][0]) - 1
    name = f"{kind}-{limit}-{mode}"
    return place.job(
        name,
        output={"url": place.url(f"{_OUTPUTS}/{name}"), "name": "out-%06d", "shardSize": "16Mi"},
        input={"url": data, "shards": [f"in-{{00000..{last:05d}}}.tar"]},
        memory={},
        workers=workers,
    )


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize("limits", [[LEAST], [256, 512]], ids=str)
def test_small_pods_finish_within_their_budget(
    place: Place, outputs: dict[str, Any], limits: list[int]
) -> None:
    jobs = {}
    for limit in limits:
        for kind, mode in CASES[limit][1]:
            manifest = small_job(place, kind, limit, mode)
            spec = DSortJob.model_validate(manifest).spec
            budget = rank_budget(spec) * spec.workers.lanes
            jobs[limit, kind, mode] = Seen(place.submit(manifest), budget=budget)
    with ThreadPoolExecutor(len(jobs)) as threads:
        ended = dict(zip(jobs, threads.map(Seen.watch, jobs.values()), strict=True))
    manifests = json.loads(place.desk("manifests", place.folder(_OUTPUTS)))
    place.desk("remove", place.folder(_OUTPUTS))
    for (limit, kind, mode), seen in jobs.items():
        status = ended[limit, kind, mode]
        assert "memory" not in status, "held back, or killed, for want of memory"
        seen.job.without_pods(seconds=30)
        pods = seen.job.children("pods")
        assert [pod["status"]["phase"] for pod in pods] == ["Succeeded"] * 2, "a pod was started again"
        assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
        assert len(seen.pods) == 2
        for name, told in seen.pods.items():
            assert told["dsort_rank_memory_limit_bytes"] == limit * MIB, name
            peak = told["dsort_rank_memory_unreclaimable_peak_bytes"]
            print(f"{name}: {peak / MIB:.0f} MiB at the peak, of a budget of {seen.budget / MIB:.0f}")
            assert 0 < peak <= OVER * seen.budget, name
        if limit == LEAST:
            assert status["bytesIn"] > 3 * limit * MIB
        # What was told last is not the whole of it: half of the payload, less what crossed in the last moments.
        crossed = seen.sum("sent_bytes_total") + seen.sum("received_bytes_total")
        assert (crossed > status["bytesIn"] / 10) == (mode == "network"), "payload on the wire"
        made = manifests[seen.job.name]["outputs"]
        assert made == outputs.setdefault(f"{kind}-{CASES[limit][0]}", made), "other bytes"
