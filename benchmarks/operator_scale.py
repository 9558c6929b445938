"""How the operator fares with a thousand DSortJobs: an API server with its controllers, and no kubelets.

    python -m benchmarks.operator_scale [--jobs 1000]

Reported: seconds from the first `create` until every DSortJob has its Job, processor seconds and peak memory of the
operator; then all jobs are given the status of finished ones, and the operator is started anew and left alone: its share of
a core while idle. Bounds to reach on 2 cores: 60 s, 256 MiB, 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.support.apiserver import find_assets
from tests.support.crd import MERGE
from tests.support.playground import Operator, Place, Playground, await_that

IDLE_SECONDS: Final = 60.0
JOBS: Final = "/apis/batch/v1/jobs"
PODS: Final = "/api/v1/pods"
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_memory(pid: int) -> int:
    """Bytes of memory at its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def apply_all(place: Place, jobs: int) -> None:
    """Create all DSortJobs, from eight clients at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: place.apply(f"job-{number:04d}", workers={"count": 2}), range(jobs)))


def finish(place: Place, name: str) -> None:
    """Give a DSortJob the status of one that is complete, and take its children away."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    complete = {
        "type": "Complete",
        "status": "True",
        "reason": "Published",
        "message": "",
        "lastTransitionTime": now,
    }
    status = {"state": "Complete", "completionTime": now, "conditions": [complete]}
    place.plane.request("PATCH", f"{place.jobs}/{name}/status", {"status": status}, kind=MERGE)
    place.plane.request("PATCH", f"{place.jobs}/{name}", {"metadata": {"finalizers": None}}, kind=MERGE)


def count(place: Place, kind: str) -> int:
    """How many objects of a kind there are, without reading them."""
    prefix, _, plural = kind.rpartition("/")
    found = place.plane.request("GET", f"{prefix}/namespaces/{place.namespace}/{plural}?limit=1")
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))


def measure(jobs: int, folder: Path) -> dict[str, Any]:
    """Both figures."""
    assets = find_assets()
    if assets is None:
        sys.exit("error: no etcd and kube-apiserver: run tests/kind/assets, or set KUBEBUILDER_ASSETS")
    result: dict[str, Any] = {"jobs": jobs}
    with Playground(assets, nodes=0) as playground:
        place = playground.place(folder)
        (place.folder / "in").mkdir()
        with Operator(playground, namespaces=(place.namespace,)) as operator:
            operator.ports()
            began, used = time.monotonic(), processor_seconds(operator.pid)
            apply_all(place, jobs)
            result["applied_seconds"] = round(time.monotonic() - began, 1)
            await_that(lambda: count(place, JOBS) >= jobs, "every job has its Job", seconds=600)
            result["seconds"] = round(time.monotonic() - began, 1)
            result["processor_seconds"] = round(processor_seconds(operator.pid) - used, 1)
            result["peak_mib"] = peak_memory(operator.pid) >> 20
            result["errors"] = sum(line["level"] == "error" for line in operator.lines())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: finish(place, f"job-{number:04d}"), range(jobs)))
        path = f"/apis/batch/v1/namespaces/{place.namespace}/jobs?propagationPolicy=Background"
        place.plane.request("DELETE", path)
        await_that(
            lambda: not count(place, JOBS) and not count(place, PODS),
            "the children are collected",
            seconds=600,
        )
        with Operator(playground, namespaces=(place.namespace,)) as operator:
            operator.ports()
            await_that(lambda: _is_quiet(operator), "the operator is idle")
            began, used = time.monotonic(), processor_seconds(operator.pid)
            await_that(lambda: time.monotonic() - began > IDLE_SECONDS, "a minute", seconds=IDLE_SECONDS + 5)
            share = (processor_seconds(operator.pid) - used) / (time.monotonic() - began)
            result["idle_percent"] = round(100 * share, 2)
            result["idle_peak_mib"] = peak_memory(operator.pid) >> 20
    return result


def _is_quiet(operator: Operator) -> bool:
    """Whether it needed next to no processor time in the last two seconds."""
    used = processor_seconds(operator.pid)
    time.sleep(2)
    return processor_seconds(operator.pid) - used < 0.1


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        print(json.dumps(measure(options.jobs, Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
