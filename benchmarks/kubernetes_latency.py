"""How long a job in a cluster takes beside its work: from `kubectl apply` to payload, and from its end to `Complete`.

    python -m benchmarks.kubernetes_latency [--jobs 10] [--kubeconfig FILE --image NAME --storage-class NAME]

On kind, which is brought up where it is not; the cluster stays. The image is in the nodes and one job was run before any is
measured. That ranks answer, that they may move payload and that they end is when they log it, on clocks of this machine. That
payload moves and that the condition stands is when it is seen here. The first byte moves somewhere between the two figures: after
a rank may ask for payload, and before its counters, which are asked for all the time, tell of some. Bounds to reach on 2 cores:
5 s and 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

import yaml

from tests.support.leftovers import clear
from tests.support.livecluster import LiveCluster, Object
from tests.support.liveplace import LiveJob, Place, Storage, metrics_in
from tests.support.release import Release

PATIENCE: Final = 120.0
"""Seconds."""
ROOT: Final = Path(__file__).resolve().parents[1]
KIND: Final = ROOT / "tests" / "kind"
FIGURES: Final = {
    "answers": "kubectl apply to the last rank that answers",
    "create": "kubectl apply to the first rank that may ask for payload",
    "payload": "kubectl apply to the first payload that is seen in a rank",
    "complete": "end of the last rank to the condition Complete",
}


def said_by(*command: str | Path) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().rpartition("\n")[2]


def logged(place: Place, pod: Object) -> dict[str, float]:
    """When a rank logged what, seconds since the epoch; the first time counts."""
    lines = place.cluster.kubectl("-n", place.name, "logs", pod["metadata"]["name"]).splitlines()
    times: dict[str, float] = {}
    for line in map(json.loads, lines):
        words = " ".join(line["message"].split()[:2])
        times.setdefault(words, datetime.fromisoformat(line["time"]).timestamp())
    return times


def first_payload(job: LiveJob) -> float:
    """When a rank of the job was first seen to have payload, seconds since the epoch: every rank is asked again and again.

    What it has received or written in the phase Create is payload; it has received rows before. AssertionError where none was seen
    before the job was over, or in PATIENCE.
    """
    until = time.monotonic() + PATIENCE
    received: dict[str, float] = {}  # what a rank had when it first told that it is in Create
    while True:
        answers = [(pod["metadata"]["name"], job.exposition(pod)) for pod in job.workers()]
        now = time.time()
        for name, text in answers:
            if 'phase="Create"' in text:
                metrics = metrics_in(text)
                has = metrics["dsort_rank_received_bytes_total"]
                if has > received.setdefault(name, has) or metrics["dsort_rank_bytes_done"]:
                    return now
        ended = job.holds("Complete") or job.holds("Failed")
        assert not ended, "the job was over before any rank told of payload"
        assert time.monotonic() < until, f"no payload within {PATIENCE:.0f} s"


def measure(place: Place, name: str) -> dict[str, float]:
    """The figures of one job, in seconds."""
    manifest = yaml.safe_dump(place.job(name))
    job = LiveJob(place, name)
    applied = time.time()
    place.cluster.kubectl("apply", "-f", "-", stdin=manifest)
    with ThreadPoolExecutor(1) as thread:
        payload = thread.submit(first_payload, job)
        job.complete()
    seen = time.time()
    ranks = [logged(place, pod) for pod in job.children("pods")]
    return {
        "answers": max(rank["control endpoint"] for rank in ranks) - applied,
        "create": min(rank["phase Create"] for rank in ranks) - applied,
        "payload": payload.result() - applied,
        "complete": seen - max(rank["exit code"] for rank in ranks),
    }


def main() -> int:
    """Run the jobs one after the other, and print medians and extremes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10, help="jobs that are measured")
    parser.add_argument("--kubeconfig", type=Path, help="of another cluster than kind")
    parser.add_argument("--image", help="the application's image, which the nodes have or can pull")
    parser.add_argument("--storage-class", default="", help="of claims that several nodes can mount")
    options = parser.parse_args()
    tools = None if options.kubeconfig else Path(said_by(KIND / "build", "tools"))
    kubeconfig = options.kubeconfig or Path(said_by(KIND / "up"))
    image = options.image or said_by(ROOT / "scripts" / "image.sh")
    if not options.image:
        said_by(KIND / "load", image)
    with LiveCluster(kubeconfig, tools=tools) as cluster:
        clear(cluster)
        run(cluster, image=image, storage=Storage(options.storage_class), jobs=options.jobs)
    return 0


def run(cluster: LiveCluster, *, image: str, storage: Storage, jobs: int) -> None:
    """One job to warm up, and those that are measured."""
    with (
        Release(cluster, namespace="dsort-latency-system", image=image),
        Place(cluster, name="dsort-latency", image=image, storage=storage) as place,
    ):
        place.make_input()
        measure(place, "warm-up")
        load = os.getloadavg()[0]
        found = []
        for number in range(jobs):
            found.append(measure(place, f"latency-{number}"))
            print(" ".join(f"{name} {seconds:.2f}" for name, seconds in found[-1].items()), flush=True)
    print(f"{jobs} jobs; load of the machine {load:.1f} before and {os.getloadavg()[0]:.1f} after")
    for name, what in FIGURES.items():
        values = [one[name] for one in found]
        print(f"{what}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    sys.exit(main())
