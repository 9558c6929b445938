"""How long a DSortJob waits for its operator: an API server with its controllers, and workers as processes of this machine.

    python -m benchmarks.operator_latency [--jobs 10]

Reported, as medians: seconds from `create` to the first payload byte that a rank received from another, and from the end of
the last worker's process to the condition Complete. Images and volumes cost nothing here. Bounds to reach: 5 s and 2 s.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsort_api.labels import CONTROL_PORT
from dsort_api.messages import Desired, Observed
from tests.support.apiserver import find_assets
from tests.support.playground import Place, Playground, conditions_of

_PAUSE = 0.02


def received(pod: dict[str, Any], token: str) -> int:
    """Payload bytes that the rank in this pod has received; 0 while it does not answer."""
    address = pod["status"].get("podIP")
    if not address:
        return 0
    link = http.client.HTTPConnection(address, CONTROL_PORT, timeout=5)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        link.request("PUT", "/v1/control", body=Desired().model_dump_json(), headers=headers)
        return Observed.model_validate_json(link.getresponse().read()).progress.bytes_received
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        link.close()


def run(place: Place, name: str) -> tuple[float, float]:
    """Run one job; both latencies, in seconds."""
    began = time.monotonic()
    uid = place.apply(name, workers={"count": 2, "shortCircuit": False})["metadata"]["uid"]
    token, first = "", 0.0
    while True:
        if not token:
            for secret in place.items("/api/v1/secrets"):
                if secret["metadata"]["labels"].get("dsort.dev/job-uid") == uid:
                    token = base64.b64decode(secret["data"]["token"]).decode()
        pods = [pod for pod in place.pods if pod["metadata"]["labels"].get("dsort.dev/job-uid") == uid]
        if token and not first and any(received(pod, token) for pod in pods):
            first = time.monotonic() - began
        conditions = conditions_of(place.job(name))
        if conditions.get("Complete", {}).get("status") == "True":
            now = time.monotonic()
            ended = [place.playground.kubelet.ended.get(pod["metadata"]["name"], now) for pod in pods]
            return first or now - began, max(0.0, now - max(ended))
        assert conditions.get("Failed", {}).get("status") != "True", conditions
        time.sleep(_PAUSE)


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10)
    options = parser.parse_args()
    assets = find_assets()
    if assets is None:
        sys.exit("error: no etcd and kube-apiserver: run tests/kind/assets, or set KUBEBUILDER_ASSETS")
    with TemporaryDirectory() as folder, Playground(assets) as playground:
        place = playground.place(Path(folder))
        place.shards(shards=8, records=200)
        with place.operator() as operator:
            operator.ports()
            found = [run(place, f"job-{number}") for number in range(options.jobs)]
    firsts, ends = zip(*found, strict=True)
    result = {
        "jobs": options.jobs,
        "first_byte_seconds": round(statistics.median(firsts), 2),
        "complete_seconds": round(statistics.median(ends), 2),
        "slowest": [round(max(firsts), 2), round(max(ends), 2)],
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
