"""The life of a DSortJob from `kubectl apply` to its deletion: the real operator, the real controllers, real workers."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.playground import Operator, Place, Playground, await_that, conditions_of


def page(port: int, path: str) -> tuple[int, str]:
    """Status and text of a page of the operator's."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_job_becomes_complete_with_the_bytes_of_a_local_run(place: Place) -> None:
    place.shards()
    expected = place.expect("life")
    with place.operator() as operator:
        health, metrics = operator.ports()
        applied = place.apply("life")
        job = place.await_job("life", Complete=True)
        place.check_output("life", like=expected)

        status = job["status"]
        assert status["state"] == "Complete"
        assert status["ready"].endswith("/2")
        assert status["observedGeneration"] == 1
        assert status["recordsIn"] == status["recordsOut"] == 80
        assert status["bytesIn"] > 200_000
        assert status["bytesOut"] > 200_000
        assert status["seed"] == 7
        assert status["manifest"].endswith("dsort-manifest.json")
        assert status["startTime"] <= status["completionTime"]
        assert status.get("abnormalRanks", []) == []
        reasons = {kind: one["reason"] for kind, one in conditions_of(job).items() if one["status"] == "True"}
        assert reasons == {"Complete": "Published"}

        # Nothing of ours is left on the object, and nothing that was not ours has changed.
        place.await_let_go("life")
        job = place.job("life")
        assert "annotations" not in job["metadata"]
        assert job["spec"] == applied["spec"]
        told = [
            event["reason"] for event in place.items("/apis/events.k8s.io/v1/events") if _is_about(event, job)
        ]
        assert sorted(told) == ["Complete", "WorkersReady"]
        table = place.plane.kubectl("get", "dsj", "-n", place.namespace)
        assert re.search(r"^life +Complete +\S+ +\S+ +False +\d+s$", table, re.MULTILINE), table
        wide = place.plane.kubectl("get", "dsj", "-n", place.namespace, "-o", "wide")
        assert re.search(r"^life +Complete .* 80 ", wide, re.MULTILINE), wide

        for child in (*place.pods, *place.items("/apis/batch/v1/jobs")):
            assert child["metadata"]["labels"]["dsort.dev/job-uid"] == job["metadata"]["uid"]
        assert page(health, "/healthz") == (200, "ok\n")
        assert page(health, "/readyz") == (200, "ok\n")
        text = page(metrics, "/metrics")[1]
        assert 'dsort_jobs{state="Complete"} 1.0' in text
        assert "dsort_reconcile_errors_total 0.0" in text
        assert float(re.findall(r"^dsort_reconcile_seconds_count (\S+)", text, re.MULTILINE)[0]) > 3

        of_job = [line for line in operator.lines() if "job" in line]
        assert {line["uid"] for line in of_job} == {job["metadata"]["uid"]}
        assert {line["job"] for line in of_job} == {f"{place.namespace}/life"}

        assert operator.stop() == 0
        assert place.job("life") == job  # the end of an operator is not the end of a job
    place.delete("life")
    place.await_gone("life", seconds=10)
    await_that(
        lambda: not place.pods, "the pods are collected"
    )  # the collector looks for new kinds every 30 s
    place.check_output("life", like=expected)  # a finished job's deletion never touches its results


def test_lanes_and_a_dry_run(place: Place) -> None:
    place.shards()
    spec = {"workers": {"count": 1, "lanes": 2}, "memory": {"budget": "128Mi"}}
    expected = place.expect("lanes", **spec)
    with place.operator():
        place.apply("lanes", **spec)
        place.apply("dry", dryRun=True)
        assert place.await_job("lanes", Complete=True)["status"]["ranks"] == 2
        place.check_output("lanes", like=expected)
        dry = place.await_job("dry", Complete=True)["status"]
        assert dry["plan"]["records"] == 80
        assert dry["plan"]["shards"] > 1
        assert not place.output("dry").exists()


def test_one_pod_for_each_node_and_the_whole_cluster_is_watched(
    playground: Playground, place: Place, tmp_path: Path
) -> None:
    place.shards()
    expected = place.expect("spread", workers={"placement": "OnePerNode"})
    with Operator(playground) as operator:
        place.apply("spread", workers={"placement": "OnePerNode"})
        job = place.await_job("spread", Complete=True)
        assert job["status"]["ranks"] == len(playground.kubelet.nodes) == 2
        place.check_output("spread", like=expected)
        assert not [line for line in operator.lines() if line["level"] in {"warning", "error"}]


def test_a_failure_names_its_culprit_and_leaves_nothing(place: Place) -> None:
    place.shards()
    shard = place.folder / "in" / "in-0002.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with place.operator():
        place.apply("bad")
        job = place.await_job("bad", Failed=True)
        failed = conditions_of(job)["Failed"]
        assert failed["reason"] == "CorruptShard"
        assert "in-0002.tar" in failed["message"]
        assert job["status"]["state"] == "Failed"
        place.await_let_go("bad")
        assert not place.output("bad").exists() or not list(place.output("bad").iterdir())
        await_that(
            lambda: not [pod for pod in place.pods if pod["status"]["phase"] == "Running"], "the pods end"
        )


def test_what_the_cluster_cannot_do_is_refused_with_the_field(place: Place) -> None:
    place.claim("single", modes=["ReadWriteOnce"])
    with place.operator():
        place.apply("single", output={"url": "pvc://single/out", "name": "out-%06d", "shardSize": "64Ki"})
        place.apply("host", input={"url": "file:///etc"})
        for name, field in (("single", "spec.output.url"), ("host", "spec.input.url")):
            failed = conditions_of(place.await_job(name, Failed=True))["Failed"]
            assert failed["reason"] == "InvalidSpec"
            assert field in failed["message"]
        place.apply("waits", input={"url": "pvc://later/in"})
        await_that(
            lambda: conditions_of(place.job("waits")).get("WorkersReady", {}).get("reason") == "MissingClaim",
            "the claim is missed",
        )
    assert place.items("/apis/batch/v1/jobs") == []


def test_a_quota_that_keeps_pods_from_being_made_is_told_and_the_job_goes_on_without_it(place: Place) -> None:
    place.shards()
    quotas = f"/api/v1/namespaces/{place.namespace}/resourcequotas"
    place.plane.request("POST", quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    with place.operator():
        place.apply("poor")

        def ready() -> dict[str, str]:
            found: dict[str, str] = conditions_of(place.job("poor")).get("WorkersReady", {})
            return found

        await_that(lambda: ready().get("reason") == "FailedCreate", "the quota is told of")
        assert "0 of 2 ranks are ready" in ready()["message"]
        assert "quota" in ready()["message"]
        assert place.pods == []
        place.plane.request("DELETE", f"{quotas}/none")
        place.await_job("poor", Complete=True)


def test_a_job_that_has_ended_follows_its_generation(place: Place) -> None:
    """Who compares the two would wait for ever."""
    place.shards()
    with place.operator():
        place.apply("ended", dryRun=True)
        place.await_job("ended", Complete=True)
        place.change("ended", suspend=True)
        await_that(
            lambda: place.job("ended")["status"]["observedGeneration"] == 2, "the new generation is seen"
        )
        job = place.job("ended")
        assert job["metadata"]["generation"] == 2
        assert job["status"]["state"] == "Complete"


def test_a_job_of_another_manager_is_left_alone_and_one_with_a_time_to_live_goes(place: Place) -> None:
    place.shards()
    with place.operator():
        theirs = place.apply("theirs", managedBy="example.com/other")
        place.apply("short", ttlSecondsAfterFinished=1)
        await_that(lambda: place.output("short").exists(), "the job has begun")
        place.await_gone("short", seconds=60)
        assert (place.output("short") / "dsort-manifest.json").exists()
        assert place.job("theirs") == theirs


def _is_about(event: dict[str, object], job: dict[str, dict[str, str]]) -> bool:
    regarding = event["regarding"]
    assert isinstance(regarding, dict)
    return bool(regarding.get("uid") == job["metadata"]["uid"])
