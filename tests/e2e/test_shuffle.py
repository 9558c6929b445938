"""A whole job on two nodes, from `kubectl apply` to what a reader finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Reference
from tests.support.desk import digest
from tests.support.liveplace import CLAIM, FOLDER, RECORDS, SHARDS, LiveJob, Place
from tests.support.running import MANIFEST, manifest_of

BIN = Path(sys.executable).parent
ROWS = 10_000_000
"""Bytes that the rows of all records have by no means: what is more is payload."""


@pytest.mark.usefixtures("two_nodes")
def test_shuffle_of_two_nodes_is_byte_for_byte_that_of_one_machine(
    place: Place, reference: Reference
) -> None:
    manifest = place.slow_job("whole")
    place.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    job = LiveJob(place, "whole")
    seen: dict[str, dict[str, float]] = {}

    def crossed() -> bool:
        """Whether payload went both ways."""
        for pod in job.workers():
            seen[pod["metadata"]["name"]] = job.metrics(pod)
        assert not job.holds("Complete"), seen
        return len(seen) == 2 and all(
            rank.get(f"dsort_rank_{way}_bytes_total", 0) > ROWS
            for rank in seen.values()
            for way in ("sent", "received")
        )

    place.cluster.until(crossed, "no payload crossed between the pods")
    status = job.complete()

    nodes = {pod["spec"]["nodeName"] for pod in job.children("pods")}
    assert len(nodes) == 2, nodes
    assert (status["state"], status["phase"], status["ready"]) == ("Complete", "Complete", "2/2")
    assert status["progress"]["share"] == "100%"
    assert status["recordsIn"] == status["recordsOut"] == SHARDS * RECORDS
    assert status["bytesOut"] > 200_000_000
    assert status["seed"] == 7
    assert status["manifest"] == f"{place.url('whole')}/{MANIFEST}"

    here = reference.result(manifest)
    expected, got = digest(str(here)), place.digests("whole")
    del expected[MANIFEST], got[MANIFEST]
    assert got == expected
    manifests = [place.manifest("whole"), manifest_of(here)]
    runs = [one.pop("run") for one in manifests]
    assert manifests[0] == manifests[1]
    assert runs[0]["id"] == job.uid
    claim = f"--pvc={CLAIM}={FOLDER}"
    said = place.exec("dsort", "verify", place.url("whole"), "--deep", place.url("in"), claim, "--json")
    verdict = json.loads(said)
    assert verdict["records"] == SHARDS * RECORDS, verdict


def test_kubectl_shows_the_job_in_columns(place: Place) -> None:
    job = place.submit(place.job("columns"))
    job.complete()
    table = place.cluster.kubectl("-n", place.name, "get", "dsj", job.name, "-o", "wide").splitlines()
    titles, values = (line.split() for line in table)
    shown = dict(zip(titles, values, strict=False))
    assert (shown["STATUS"], shown["PROGRESS"], shown["RANKS"]) == ("Complete", "100%", "2/2")
    assert shown["RECORDS"] == str(SHARDS * RECORDS)
    events = place.cluster.items(f"/apis/events.k8s.io/v1/namespaces/{place.name}/events")
    told = [one["reason"] for one in events if one["regarding"].get("uid") == job.uid]
    assert sorted(told) == ["Complete", "WorkersReady"]


def test_submit_waits_for_the_end_and_the_plugin_shows_it(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(place.job("submitted")))
    kubeconfig = ["--kubeconfig", str(place.cluster.kubeconfig)]
    said = place.cluster.run(BIN / "dsort", "submit", "-f", str(file), "--wait", "--json", *kubeconfig)
    events = [json.loads(line) for line in said.splitlines()]
    assert events[0]["event"] == "submitted", events
    assert events[-1]["event"] == "result", events
    place.cluster.environment["PATH"] = f"{BIN}:{place.cluster.environment['PATH']}"
    logs = place.cluster.kubectl("dsort", "logs", "submitted", "-n", place.name)
    assert "phase Create" in logs
